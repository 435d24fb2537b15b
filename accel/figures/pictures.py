"""All figures of a run, and their files."""

import io
import json
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np
from torch import nn

from accel.common.describing import printable
from accel.common.files import read_file, write_whole
from accel.data import Dataset, ImageSet
from accel.evaluation import Occurrences, find_occurrences, receptive_field
from accel.figures.appearances import interpolations, swaps, traversals
from accel.figures.canvas import DOTS_PER_INCH, darkened, heading
from accel.figures.curves import discovery_bars, training_curves, transfer_bars
from accel.figures.parts import gallery, part_statistics, parts
from accel.figures.reconstructions import reconstructions, samples, weight_masks
from accel.training.checkpoint import writing

FOLDER = "figures"  # in the run's
INDEX = "index.json"  # in it: titles and descriptions of the figures, in order

LARGEST = 1 << 26  # bytes of a picture
SIGNATURE = b"\x89PNG\r\n\x1a\n"  # with which a PNG file begins; its first chunk ends at byte 33


class Drawn(TypedDict):
    """An entry of index.json."""

    file: str
    title: str
    text: str
    dark: NotRequired[str]  # the file of the same picture for a dark page; earlier versions drew none
    heading: NotRequired[int]  # pixels at its top that the title and the text take


SHOWN = 12  # images in a row of inputs and outputs
FIELD_IMAGES = 16  # number of images for measuring the receptive field


def closing_pictures(
    model: nn.Module, dataset: Dataset, found: Occurrences | None = None
) -> Iterator[tuple[str, object]]:
    """(name, Figure) of the figures at the end of a training run: parts and reconstructions.

    found: the result of `find_occurrences` on the held-out images, if available.
    """
    if model.has_parts:
        yield "parts", parts(model, dataset.test, dataset.part_names, found=found)
    if model.has_decoder:
        yield "reconstructions", reconstructions(model, spread(dataset.test, SHOWN))


def spread(images: ImageSet, count: int) -> np.ndarray:
    """At most `count` images spread over a set: from each class in turn, or at equal distances without labels."""
    count = min(count, len(images))
    if images.labels is None:
        return images.images[np.arange(count) * len(images) // count]
    # For each image, the number of earlier images of its class: first all first ones, then all second ones, etc.
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
    """(name, Figure) of all figures of a run, in their order in a report.

    history: the lines of metrics.jsonl. measures: the content of measures.json. transfer: the results of transfer.json.
    Figures without data, those that do not apply to a model without parts, and those that need two held-out images are
    left out where these are missing. patch_size: size of the gallery's patches in pixels, by default the receptive
    field. Raises ImportError if matplotlib is missing.
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
    """Writes figures as NAME.png into the run's folder `figures`; returns the file names within the run.

    all_of_run: whether these are all figures of the run; then index.json lists them in order, with descriptions, and
    each is also written as NAME-dark.png for the report on a dark page. Otherwise an older index is removed, because
    its figures show an earlier state. Raises OSError that names the file.
    """
    folder = run / FOLDER
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / INDEX).unlink(missing_ok=True)
    index = []
    for name, figure in drawn:
        title, text = figure.get_label().split("\n", 1)
        entry: Drawn = {"file": f"{name}.png", "title": title, "text": text}
        save(run, figure, entry["file"])
        if all_of_run:
            width, _ = figure.get_size_inches() * DOTS_PER_INCH
            entry["heading"] = round(heading(title, text, width)[1])
            entry["dark"] = f"{name}-dark.png"
            with darkened(figure):
                save(run, figure, entry["dark"])
        index.append(entry)
    if all_of_run:
        with writing(folder / INDEX):
            write_whole({folder / INDEX: (json.dumps(index, indent=2) + "\n").encode()})
    return [f"{FOLDER}/{entry['file']}" for entry in index]


def save(run: Path, figure, name: str) -> None:
    """Writes a Figure into the run's folder `figures`, with its title and text; raises OSError that names the file."""
    path = run / FOLDER / name
    title, text = figure.get_label().split("\n", 1)
    figure.savefig(buffer := io.BytesIO(), format="png", metadata={"Title": title, "Description": text})
    with writing(path):
        write_whole({path: buffer.getvalue()})


def read_picture(run: Path, name: str) -> bytes:
    """A PNG file of the run's folder `figures`.

    Raises OSError, or ValueError for a name or link outside of that folder, or a file that is not a PNG file.
    """
    path = run / FOLDER / name
    if Path(name).name != name or path.is_symlink():
        raise ValueError(f"{run / FOLDER / INDEX}: {printable(name)} is not the name of a file beside it")
    content = read_file(path, LARGEST)
    if not content.startswith(SIGNATURE) or len(content) < 33 or 0 in struct.unpack(">II", content[16:24]):
        raise ValueError(f"{path} is not a PNG file")
    return content
