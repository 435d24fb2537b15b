"""The results of a finished run, as a table for the terminal."""

from pathlib import Path

import numpy as np
from torch import nn

from accel.data import Dataset
from accel.evaluation.discovery import discover
from accel.evaluation.measures import measure_reconstructions
from accel.evaluation.occurrences import Occurrences, find_occurrences
from accel.training.run_folder import read_history


def describe_parts(found: Occurrences) -> list[str]:
    """Two lines about parts that need no ground truth: how many occur and differ, and how much they cover."""
    count, alive = len(found.dead), int((~found.dead).sum())
    saturated = f", {found.saturated.sum()} of them nearly everywhere" if found.saturated.any() else ""
    return [
        f"{alive} of {count} parts occur in held-out images{saturated}; {found.distinct()} have distinct maps.",
        f"They cover {found.covered:.0%} of the image area, with {found.an_image.sum():.1f} occurrences per image.",
    ]


def summary(folder: Path, model: nn.Module, dataset: Dataset, found: Occurrences | None = None) -> str:
    """The last epoch's loss terms, the quality of reconstructions and, where it is known, of the parts.

    found: what `find_occurrences` found in the held-out images, if it is at hand.
    """
    history = read_history(folder)
    last = history[-1] if history else {}
    rows = [f"{'nats per image':<28}{'training':>12}{'held out':>12}"] if history else []
    names = {
        "total": "loss",
        "reconstruction": "reconstruction",
        "kl_appearance": "appearance divergence",
        "kl_occurrence": "occurrence divergence",
        "kl_ground": "background divergence",
        "identity": "identity of parts",
        "error": "error rate, %",
    }
    for term in (name.removeprefix("train_") for name in last if name.startswith("train_")):
        name = names.get(term, term.replace("_", " "))
        rows.append(f"{name:<28}{last[f'train_{term}']:12.3f}{last[f'held_out_{term}']:12.3f}")
    titles = {"psnr": ("PSNR, dB", 2), "ssim": ("SSIM", 3)}
    for measured in measure_reconstructions(model, dataset.test.images) if model.has_decoder else ():
        title, digits = titles[measured["name"]]
        rows.append(f"{title:<40}{measured['value']:12.{digits}f}")
    if model.has_decoder:
        rows.append("PSNR and SSIM are of held-out reconstructions; SSIM: similarity of structure, at most 1")
    if model.has_parts:
        rows += ["", *describe_parts(found or find_occurrences(model, dataset.test.images))]
    if dataset.test.truth is not None and model.has_parts:
        discovery = discover(model, dataset)
        rows += ["", f"{'true part type':<28}{'best part':>12}{'AP':>12}{'chance':>12}"]
        types = dataset.part_names or [f"type {index}" for index in range(len(discovery.part))]
        measured = discovery.part, discovery.average_precision, discovery.chance
        for name, part, value, chance in zip(types, *measured, strict=True):
            rows.append(f"{name:<28}{part:12d}{value:12.3f}{chance:12.3f}")
        mean, chance = np.nanmean(discovery.average_precision), discovery.chance.mean()
        rows.append(f"{'mean':<40}{mean:12.3f}{chance:12.3f}")
        rows.append(
            "AP: average precision over held-out cells of the part that finds the type best in training images; 1 is "
            "perfect.\nchance: the AP of guessing, the share of cells that hold the type."
        )
    return "\n".join(rows)
