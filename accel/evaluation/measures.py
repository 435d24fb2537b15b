"""All measures of a run on held-out images, each with the settings of its measurement, as plain data for a file."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np
import torch
from torch import nn

from accel.data import Dataset
from accel.evaluation.discovery import Discovery, discover, discover_by_clustering, untrained
from accel.evaluation.frechet import Features, Moments, frechet_distance
from accel.evaluation.occurrences import BATCH_SIZE, consistency, find_occurrences
from accel.evaluation.quality import WINDOW_SIZE, psnr, ssim
from accel.models.autoencoder import scaled_pixels
from accel.training.held_out import evaluating, in_order
from accel.training.protocols import FREEZES

Number = float | None  # None for NaN


class Reconstruction(TypedDict):
    """A measure of reconstructions."""

    name: str
    value: Number
    unit: str
    count: int
    range: str
    resize: str
    network: NotRequired[str]
    dimensions: NotRequired[int]


class Part(TypedDict):
    """A learned part."""

    part: int
    occurrences_an_image: Number  # expected: Σ p
    occupied: Number
    information_bits: Number
    largest_overlap: Number
    overlaps_most: int
    state: str


class Parts(TypedDict):
    """Statistics of the learned parts, in total and for each part."""

    occurrences_an_image: Number  # expected: Σ p
    effective_parts: Number
    mean_overlap: Number
    consistency_pixels: Number
    consistency_features: Number
    dead: int
    saturated: int
    parts: list[Part]


class Type(TypedDict):
    """A true part type."""

    name: str
    part: int
    average_precision: Number
    localisation_error: Number
    coverage: Number
    k_means: Number
    untrained: Number
    chance: Number


class Purity(TypedDict):
    """The true type on which a part mostly occurs."""

    part: int
    purity: Number
    type: str | None


class Measures(TypedDict, total=False):
    """The entries of measures.json that reports and figures use."""

    reconstructions: list[Reconstruction]
    parts: Parts
    discovery: dict[str, dict[str, Number]]
    types: list[Type]
    purity: list[Purity]


OBSERVE_EVERY = 2  # epochs
OBSERVED = 1000  # training and held-out images


def measure_reconstructions(model: nn.Module, images: np.ndarray, features: Sequence[Features] = ()) -> list[dict]:
    """PSNR, SSIM and Fréchet distances of deterministic reconstructions, one pass over uint8 images (n, H, W, C).

    Each is a dictionary of name, value, unit, count (of images), range (of the pixels) and resize; Fréchet distances
    also have network and dimensions. There is no SSIM of images smaller than its window, and no distance for one image.
    """
    quality = {"psnr": psnr}
    if min(images.shape[1:3]) >= WINDOW_SIZE:
        quality["ssim"] = ssim
    values = {name: [] for name in quality}
    moments = [(Moments(), Moments()) for _ in features]
    with evaluating(model) as device:
        for batch in in_order(images, BATCH_SIZE, device):
            original = scaled_pixels(batch, torch.float32)
            reconstruction = model.reconstruct(batch)
            for name, measure in quality.items():
                values[name].append(measure(reconstruction, original).double().cpu())
            for network, (real, made) in zip(features, moments, strict=True):
                real.add(network.extract(original))
                made.add(network.extract(reconstruction))
    units = {"psnr": "dB", "ssim": ""}
    measured = [
        {"name": name, "value": torch.cat(all_values).mean().item(), "unit": units[name]}
        | {"count": len(images), "range": "[0, 1]", "resize": "none"}
        for name, all_values in values.items()
    ]
    if len(images) > 1:
        for network, (real, made) in zip(features, moments, strict=True):
            measured.append(
                {"name": network.name, "value": frechet_distance(real, made), "unit": ""}
                | {"count": len(images), "range": network.range, "resize": network.resize}
                | {"network": network.network, "dimensions": len(real.mean)}
            )
    return measured


def measure_parts(model: nn.Module, images: np.ndarray) -> dict:
    """Statistics of parts without ground truth, on uint8 images (n, H, W, C): totals, and a dictionary per part."""
    found = find_occurrences(model, images)
    alike = consistency(model, images, found, side=2 * model.scale)
    others = found.overlap - np.eye(len(found.overlap)) * found.overlap
    return {
        "images": len(images),
        "occurrences_an_image": found.expected.sum(),
        "entropy_bits": found.entropy(),
        "effective_parts": 2 ** found.entropy(),
        "mean_overlap": others.sum() / max(1, others.size - len(others)),
        "consistency_pixels": alike["pixels"],
        "consistency_features": alike["features"],
        "dead": int(found.dead.sum()),
        "saturated": int(found.saturated.sum()),
        "parts": [
            {
                "part": part,
                "occurrences_an_image": found.expected[part],
                "occupied": found.occupied[part],
                "information_bits": found.information[part],
                "largest_overlap": others[part].max(),
                "overlaps_most": int(others[part].argmax()),
                "state": "dead" if found.dead[part] else "saturated" if found.saturated[part] else "live",
            }
            for part in range(len(found.expected))
        ],
    }


def measure_discovery(model: nn.Module, dataset: Dataset) -> dict:
    """How well true types are found by the model and two baselines: means, a dictionary per type, purities."""
    found = {
        "model": discover(model, dataset),
        "k_means": discover_by_clustering(dataset, model.num_parts, model.scale),
        "untrained": discover(untrained(model).to(next(model.parameters()).device), dataset),
    }
    own: Discovery = found["model"]
    names = dataset.part_names or [f"type {index}" for index in range(len(own.part))]
    return {
        "discovery": {name: one.summary() | {"marked": one.marked} for name, one in found.items()},
        "chance": own.chance.mean(),
        "types": [
            {
                "name": name,
                "part": int(own.part[kind]),
                "average_precision": own.average_precision[kind],
                "localisation_error": own.localisation_error[kind],
                "coverage": own.coverage[kind],
                "k_means": found["k_means"].average_precision[kind],
                "untrained": found["untrained"].average_precision[kind],
                "chance": own.chance[kind],
            }
            for kind, name in enumerate(names)
        ],
        "purity": [
            {"part": part, "purity": own.purity[part], "type": names[own.purest[part]] if own.purity[part] else None}
            for part in range(len(own.purity))
        ],
    }


def observe(model: nn.Module, dataset: Dataset, epoch: int) -> dict[str, float]:
    """Statistics of a model's parts for the log, after every OBSERVE_EVERY-th epoch, on the first OBSERVED images.

    Occurrences per image, the effective number of parts, and the means of `Discovery` if there is ground truth. Empty
    after other epochs, and for models without parts.
    """
    if epoch % OBSERVE_EVERY or not model.has_parts:
        return {}
    train, test = (images.chosen(np.arange(min(OBSERVED, len(images)))) for images in (dataset.train, dataset.test))
    found = find_occurrences(model, test.images, 1)
    seen = {"occurrences_per_image": float(found.an_image.sum()), "effective_parts": 2 ** found.entropy()}
    if train.truth is not None and test.truth is not None:
        seen |= discover(model, dataclasses.replace(dataset, train=train, test=test, supervised=None)).summary()
    return {f"held_out_{name}": value for name, value in seen.items()}


def measure(model: nn.Module, dataset: Dataset, features: Sequence[Features]) -> dict:
    """All measures of a model on held-out images: the content of measures.json.

    features: networks for the Fréchet distances. NaN becomes None. Measures that do not apply to a model without
    decoder or without parts are left out.
    """
    height, width = dataset.test.images.shape[1:3]
    result = {
        "images": {"data": dataset.name, "split": "held out", "count": len(dataset.test), "size": f"{height}x{width}"}
    }
    if model.has_decoder:
        result["reconstructions"] = measure_reconstructions(model, dataset.test.images, features)
    if model.has_parts:
        result["parts"] = measure_parts(model, dataset.test.images)
        if dataset.train.truth is not None and dataset.test.truth is not None:
            result |= measure_discovery(model, dataset)
    return _plain(result)


def classifier_folder(run: Path) -> Path | None:
    """The classifier that `transfer` saved in a run's folder; of several, the one with most frozen layers."""
    folders = [run / "transfer" / protocol / "model" for protocol in reversed(FREEZES)]
    return next((folder for folder in folders if (folder / "config.json").is_file()), None)


def _plain(value):
    """Converts NumPy numbers to Python numbers, and numbers that are not finite to None."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value


def measures_table(measures: dict) -> str:
    """The content of measures.json as tables for the terminal."""
    images = measures["images"]
    rows = [f"{images['count']:,} held-out images of {images['data']}, {images['size']}"]

    def number(value) -> str:
        return "-" if value is None else str(value) if isinstance(value, int) else f"{value:.3f}"

    for one in measures.get("reconstructions", ()):
        title = f"{TITLES[one['name']]}{', ' + one['unit'] if one['unit'] else ''}"
        said = f"{one['count']:,} images in {one['range']}, resize {one['resize']}"
        if "network" in one:
            said += f"; {one['dimensions']} features: {one['network']}"
        rows.append(f"{title:<28}{number(one['value']):>12}  {said}")
    if "parts" in measures:
        parts = measures["parts"]
        rows.append("")
        rows += [f"{title:<28}{number(parts[name]):>12}" for name, title in PART_TITLES.items()]
        rows.append(
            "expected occurrences: sum of all parts' probabilities p over the cells of an image\n"
            "effective number: of parts with equal expected occurrences and the same entropy\n"
            "overlap: 0 if two parts never occur in the same cell, 1 for equal maps\n"
            "consistency: 1 if a part's most probable occurrences all look the same\n"
            "dead, saturated: parts that occur nowhere, or in nearly all cells"
        )
    if "types" in measures:
        head = ("best part", "AP", "off by", "covered", "k-means", "untrained", "chance")
        rows += ["", f"{'true part type':<28}" + "".join(f"{word:>11}" for word in head)]
        keys = ("average_precision", "localisation_error", "coverage", "k_means", "untrained", "chance")
        for one in measures["types"]:
            numbers = "".join(f"{number(one[key]):>11}" for key in keys)
            rows.append(f"{one['name']:<28}{one['part']:>11}{numbers}")
        own = measures["discovery"]["model"]
        means = [own[key] for key in keys[:3]]
        means += [measures["discovery"][name]["average_precision"] for name in ("k_means", "untrained")]
        rows.append(f"{'mean':<39}" + "".join(f"{number(mean):>11}" for mean in [*means, measures["chance"]]))
        rows.append(f"{'purity of parts':<39}{number(own['purity']):>11}")
        rows.append(
            "AP: average precision over cells of the type's best part, 1 is perfect; on the right: baselines\n"
            "off by: distance in cells from the most probable cell to the nearest true one\n"
            "covered: share of the type's cells in which any part occurs, except parts that occur nearly everywhere\n"
            "purity: share of a part's most probable occurrences that lie on one type, mean over parts"
        )
    return "\n".join(rows)


TITLES = {
    "psnr": "PSNR",
    "ssim": "SSIM",
    "fid": "FID",
    "frechet_classifier": "Fréchet, classifier",
    "frechet_encoder": "Fréchet, own encoder",
}
PART_TITLES = {
    "occurrences_an_image": "expected occurrences (Σ p)",
    "effective_parts": "effective number of parts",
    "mean_overlap": "mean overlap of two parts",
    "consistency_pixels": "consistency, pixels",
    "consistency_features": "consistency, features",
    "dead": "dead parts",
    "saturated": "saturated parts",
}
