"""`locate`: where the parts of a trained model occur in image files."""

import argparse
import csv
import dataclasses
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from accel.commands.finished import refuse_unfinished
from accel.common.files import read_file, writing_whole
from accel.common.options import Options, add_options, between, device_option, option
from accel.common.progress import duration, progress, say

HELP = "list where the parts of a trained model occur in images, as a CSV table"
COLUMNS = ("file", "part", "probability", "x", "y", "width")
AT_ONCE = 256  # images in memory


@dataclasses.dataclass(frozen=True, kw_only=True)
class LocateOptions(Options):
    """The options of `locate`."""

    threshold: float = option(
        0.5, "parts", "list an occurrence if its probability is above this", check=between(0.0, 1.0)
    )
    device: str = device_option()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments and options of the command."""
    parser.add_argument(
        "run",
        metavar="RUN",
        help="folder of a run or a model, or the word parts for the model that comes with the package",
    )
    parser.add_argument(
        "source",
        metavar="IMAGES",
        help="an image file, or a folder of images at any depth; each is resized so that its shorter side has the size "
        "of the training images, and parts are found if they are then about as large as in training; the longer side "
        "is cropped to whole cells, and to 16 times the shorter one; files that are no images are listed in "
        "OUT.left-out.txt",
    )
    parser.add_argument(
        "out",
        metavar="OUT.csv",
        help=f"table to write, a row per occurrence: {', '.join(COLUMNS)}. Names of files are relative to the folder, "
        "parts are numbered from 0 as in the figures of a run; x and y of the centre and the width of a cell are in "
        "pixels of the file's upright picture",
    )
    add_options(parser, LocateOptions)


def run(given: dict) -> None:
    """Writes the table, prints how much was found, and lists the files that were left out."""
    began = time.monotonic()
    folder, source, out = given.pop("run"), Path(given.pop("source")), Path(given.pop("out"))
    options = LocateOptions(**given)
    if out.suffix.lower() != ".csv":
        raise ValueError(f"{out} must end in .csv")
    left_out = out.with_suffix(".left-out.txt")
    for path in (out, left_out):
        if path.exists():
            raise FileExistsError(f"{path} already exists: remove it or choose another name")

    from accel.data.folders import files_below
    from accel.data.listing import left_out_lines

    if source.is_dir():
        root, files = source, list(files_below(source))
    elif source.exists():
        root, files = source.parent, [source.name]
    else:
        raise FileNotFoundError(f"{source}: no such file or folder, expected an image or a folder of images")
    model = open_model(folder, options.device)
    parts, images, count, bad, cropped = set(), set(), 0, [], []
    with writing_whole(out) as table:
        writer = csv.writer(table)
        writer.writerow(COLUMNS)
        for row in rows_of(model, root, files, options.threshold, bad, cropped):
            writer.writerow(row)
            images.add(row[0])
            parts.add(row[1])
            count += 1
        readable = len(files) - len(bad)
        if not readable:
            raise ValueError(f"no image of {source} can be read{f'; {bad[0]}' if bad else ''}")
    if bad:
        say(left_out_lines(bad), error=True)
        with writing_whole(left_out) as lines:
            lines.writelines(f"{sentence}\n" for sentence in bad)
    if cropped:
        say(
            f"long images, of which only the middle was searched: {len(cropped):,}, such as {root / cropped[0]}",
            error=True,
        )
    print(
        f"{out}: {count:,} occurrences of {len(parts)} of {model.num_parts} parts, in {len(images):,} of "
        f"{readable:,} images, after {duration(time.monotonic() - began)}"
        f"{f'; {left_out} lists what was left out' if bad else ''}"
    )


def open_model(folder: str, device: str):
    """The model of a run, or a saved or packaged one, on the device; ValueError unless it takes RGB images."""
    from accel.models import PatchVAE
    from accel.training import checkpoint
    from accel.training.config import TrainingConfig
    from accel.training.resources import at_most_its_threads, choose_device

    if checkpoint.exists(Path(folder)):
        refuse_unfinished(Path(folder))
    model, chosen = PatchVAE.from_pretrained(folder), choose_device(device)
    channels = model.config["channels"]
    if channels != 3:
        raise ValueError(
            f"the model in {folder} takes images with {channels} channels, but files are read with 3: in Python, "
            "accel.evaluation.locate_parts takes an array"
        )
    config = Path(folder) / "config.json"
    if (config.parent / "model").is_dir() and config.exists():  # a run, not just a model
        at_most_its_threads(chosen, TrainingConfig.from_json_file(config))
    return model.to(chosen)


def rows_of(
    model, root: Path, files: list[str], threshold: float, bad: list[str], cropped: list[str]
) -> Iterator[tuple]:
    """Yields a row of COLUMNS for each occurrence.

    Adds a sentence on each file that cannot be read to `bad`, and images that lose a cell or more to `cropped`.
    """
    import numpy as np

    from accel.data.listing import LARGEST_FILE, Whole, decode_whole, problem
    from accel.data.resize import pillow
    from accel.evaluation import locate_parts

    pillow()

    def decode(file: str) -> Whole | str:
        try:
            return decode_whole(read_file(root / file, LARGEST_FILE), min(model.image_size), model.scale)
        except Exception as error:  # decoders of damaged files raise errors of many types
            return f"{root / file} {problem(error)}".replace("\n", " ")

    with ThreadPoolExecutor() as pool, progress(len(files), desc="images", unit="image") as advance:
        for start in range(0, len(files), AT_ONCE):
            names = files[start : start + AT_ONCE]
            decoded = list(zip(names, pool.map(decode, names), strict=True))
            bad += [sentence for _, sentence in decoded if isinstance(sentence, str)]
            readable = [(name, whole) for name, whole in decoded if isinstance(whole, Whole)]
            cropped += [name for name, whole in readable if max(whole.left, whole.top) >= model.scale * whole.pixel]
            rows: dict[str, list[tuple]] = {name: [] for name, _ in readable}
            for shape in {whole.pixels.shape for _, whole in readable}:
                alike = [(name, whole) for name, whole in readable if whole.pixels.shape == shape]
                found = locate_parts(model, np.stack([whole.pixels for _, whole in alike]), threshold)
                columns = found.image, found.part, found.probability, found.x, found.y
                for image, part, probability, x, y in zip(*columns, strict=True):
                    name, whole = alike[image]
                    place = whole.left + x * whole.pixel, whole.top + y * whole.pixel, model.scale * whole.pixel
                    rows[name].append((name, part, f"{probability:.4f}", *(f"{value:.1f}" for value in place)))
            for found_in_file in rows.values():
                yield from found_in_file
            advance(len(names))
