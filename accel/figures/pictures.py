"""All pictures of a run, by the names of their files, and the files."""

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
from torch import nn

from accel.common.files import read_file, write_whole
from accel.data import Dataset, ImageSet
from accel.evaluation import find_occurrences, receptive_field
from accel.figures.appearances import interpolations, swaps, traversals
from accel.figures.curves import discovery_bars, training_curves, transfer_bars
from accel.figures.parts import gallery, part_statistics, parts
from accel.figures.reconstructions import reconstructions, samples, weight_masks
from accel.training.checkpoint import writing

FOLDER = "figures"  # in the run's
INDEX = "index.json"  # in it: the pictures' titles and what one sees, in order

LARGEST = 1 << 26  # bytes of a picture
SIGNATURE = b"\x89PNG\r\n\x1a\n"  # with which a PNG file begins; its first chunk ends at byte 33


class Drawn(TypedDict):
    """An entry of index.json."""

    file: str
    title: str
    text: str


SHOWN = 12  # images in a row of inputs and outputs
FIELD_IMAGES = 16  # on which the receptive field is measured


def closing_pictures(model: nn.Module, dataset: Dataset) -> Iterator[tuple[str, object]]:
    """(name, Figure) of what a training run ends in: its parts and its reconstructions."""
    if model.has_parts:
        yield "parts", parts(model, dataset.test, dataset.part_names)
    if model.has_decoder:
        yield "reconstructions", reconstructions(model, spread(dataset.test, SHOWN))


def spread(images: ImageSet, count: int) -> np.ndarray:
    """At most `count` images from all over a set: of each class in turn, or without labels at equal distances."""
    count = min(count, len(images))
    if images.labels is None:
        return images.images[np.arange(count) * len(images) // count]
    # Of each image, how many of its class come before it: all first ones, then all second ones, and so on.
    order = np.argsort(images.labels, kind="stable")
    sizes = np.unique(images.labels, return_counts=True)[1]
    turn = np.concatenate([np.arange(size) for size in sizes])
    return images.images[order[np.argsort(turn, kind="stable")][:count]]


def pictures(
    model: nn.Module,
    dataset: Dataset,
    *,
    history: Sequence[Mapping] = (),
    measures: Mapping | None = None,
    transfer: Sequence[Mapping] = (),
    patch_size: int | None = None,
) -> Iterator[tuple[str, object]]:
    """(name, Figure) of everything there is to be seen of a run, in the order in which it is looked at.

    history: the lines of metrics.jsonl. measures: of measures.json. transfer: the results of transfer.json. What is
    empty is not drawn, nor is what a model without parts has no use for, or what takes two held-out images of one.
    patch_size: of the gallery's patches in pixels, by default the receptive field. Raises ImportError if matplotlib is
    missing.
    """
    images = dataset.test.images
    few = spread(dataset.test, SHOWN)
    if model.has_parts:
        found = find_occurrences(model, images)
        yield "parts", parts(model, dataset.test, dataset.part_names, found=found)
        side = patch_size or receptive_field(model, images[:FIELD_IMAGES])
        surest = find_occurrences(model, dataset.train.images)
        yield "gallery", gallery(dataset.train, surest, side=side, scale=model.scale, class_names=dataset.class_names)
        if len(images) > 1:
            yield "swaps", swaps(model, images, found=found)
            yield "interpolations", interpolations(model, images, found=found)
        yield "traversals", traversals(model, images, found=found)
        yield "statistics", part_statistics(found)
    elif model.has_decoder:
        if len(images) > 1:
            yield "interpolations", interpolations(model, images)
        yield "traversals", traversals(model, images)
    if (measures or {}).get("types"):
        types = measures["types"]
        precision = {
            name: [np.nan if one[key] is None else one[key] for one in types]
            for name, key in (("model", "average_precision"), ("k-means", "k_means"), ("untrained", "untrained"))
        }
        chance = float(np.mean([one["chance"] for one in types]))
        yield "discovery", discovery_bars(precision, chance, [one["name"] for one in types])
    if model.has_decoder:
        yield "reconstructions", reconstructions(model, few)
    yield "weights", weight_masks(few)
    if model.has_decoder:
        yield "samples", samples(model, images[: 3 * SHOWN])
    if history:
        yield "training", training_curves(history)
    if transfer:
        yield "transfer", transfer_bars(transfer)


def write_pictures(run: Path, drawn: Iterable[tuple[str, object]], *, all_of_run: bool = True) -> list[str]:
    """Writes pictures into the run's folder `figures`, NAME.png each; returns their files' names within the run.

    all_of_run: whether these are all of its pictures, which index.json then lists with what they show, in order.
    Without, an index of earlier pictures goes, because they show an earlier state. Raises OSError with a sentence.
    """
    folder = run / FOLDER
    with writing(folder, run):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / INDEX).unlink(missing_ok=True)
    index = []
    for name, figure in drawn:
        path = folder / f"{name}.png"
        title, text = figure.get_label().split("\n", 1)
        figure.savefig(buffer := io.BytesIO(), format="png", metadata={"Title": title, "Description": text})
        with writing(path, run):
            write_whole({path: buffer.getvalue()})
        index.append({"file": path.name, "title": title, "text": text})
    if all_of_run:
        with writing(folder / INDEX, run):
            write_whole({folder / INDEX: (json.dumps(index, indent=2) + "\n").encode()})
    return [f"{FOLDER}/{entry['file']}" for entry in index]


def read_picture(run: Path, name: str) -> bytes:
    """A PNG file of the run's folder `figures`.

    Raises OSError, or ValueError for a name or a link that leads out of that folder, or a file that is something else.
    """
    path = run / FOLDER / name
    if Path(name).name != name or path.is_symlink():
        raise ValueError(f"{run / FOLDER / INDEX}: {name} is not the name of a file beside it")
    content = read_file(path, LARGEST)
    if not content.startswith(SIGNATURE) or len(content) < 33:
        raise ValueError(f"{path} is not a PNG file")
    return content
