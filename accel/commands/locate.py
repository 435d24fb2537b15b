"""`locate`: where the parts of a trained model occur in image files."""

import argparse
import csv
import dataclasses
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from accel.common.files import writing_whole
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
    parser.add_argument("run", metavar="RUN", help="folder of a run or a model; parts: the model of the package")
    parser.add_argument(
        "source",
        metavar="IMAGES",
        help="an image file, or a folder of images at any depth; as in training, the central square of an image is "
        "reduced to the size of the model's images, so parts should have the size that they had there",
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
    if out.exists():
        raise FileExistsError(f"{out} already exists: remove it or choose another name")

    from accel.data.folders import files_below
    from accel.data.listing import left_out_lines

    if source.is_dir():
        root, files = source, list(files_below(source))
    elif source.exists():
        root, files = source.parent, [source.name]
    else:
        raise FileNotFoundError(f"{source}: no such file or folder, expected an image or a folder of images")
    model = open_model(folder, options.device)
    parts, images, count, bad = set(), set(), 0, []
    with writing_whole(out) as table:
        writer = csv.writer(table)
        writer.writerow(COLUMNS)
        for row in rows_of(model, root, files, options.threshold, bad):
            writer.writerow(row)
            images.add(row[0])
            parts.add(row[1])
            count += 1
        readable = len(files) - len(bad)
        if not readable:
            raise ValueError(f"no image of {source} can be read{f'; {bad[0]}' if bad else ''}")
    left_out = out.with_suffix(".left-out.txt")
    if bad:
        say(left_out_lines(bad), error=True)
        with writing_whole(left_out) as lines:
            lines.writelines(f"{sentence}\n" for sentence in bad)
    print(
        f"{out}: {count:,} occurrences of {len(parts)} of {model.num_parts} parts, in {len(images):,} of "
        f"{readable:,} images, after {duration(time.monotonic() - began)}"
        f"{f'; {left_out} lists what was left out' if bad else ''}"
    )


def open_model(folder: str, device: str):
    """The model of a run, or a saved or packaged one, on the device; ValueError unless it takes square RGB images."""
    from accel.models import PatchVAE
    from accel.training.config import TrainingConfig
    from accel.training.resources import at_most_its_threads, choose_device

    model, chosen = PatchVAE.from_pretrained(folder), choose_device(device)
    (height, width), channels = model.image_size, model.config["channels"]
    if height != width or channels != 3:
        raise ValueError(
            f"the model in {folder} takes images of {width}x{height} pixels with {channels} channels, but files are "
            "read as square images with 3: in Python, accel.evaluation.locate_parts takes an array"
        )
    config = Path(folder) / "config.json"
    if (config.parent / "model").is_dir() and config.exists():  # a run, not just a model
        at_most_its_threads(chosen, TrainingConfig.from_json_file(config))
    return model.to(chosen)


def rows_of(model, root: Path, files: list[str], threshold: float, bad: list[str]) -> Iterator[tuple]:
    """Yields a row of COLUMNS for each occurrence; adds a sentence on each file that cannot be read to `bad`."""
    import numpy as np

    from accel.data.listing import Picture, decode_file
    from accel.data.resize import central_square, pillow
    from accel.evaluation import locate_parts

    pillow()
    size = model.image_size[0]

    def decode(file: str) -> Picture | str:
        try:
            return decode_file(root / file, size)
        except ValueError as error:
            return str(error).replace("\n", " ")

    with ThreadPoolExecutor() as pool, progress(len(files), desc="images", unit="image") as advance:
        for start in range(0, len(files), AT_ONCE):
            names = files[start : start + AT_ONCE]
            decoded = list(zip(names, pool.map(decode, names), strict=True))
            bad += [problem for _, problem in decoded if isinstance(problem, str)]
            pictures = [(name, picture) for name, picture in decoded if isinstance(picture, Picture)]
            if pictures:
                found = locate_parts(model, np.stack([picture.pixels for _, picture in pictures]), threshold)
                columns = found.image, found.part, found.probability, found.x, found.y
                for image, part, probability, x, y in zip(*columns, strict=True):
                    name, picture = pictures[image]
                    left, top, side = central_square(picture.width, picture.height)
                    pixel = side / size  # of the model's images, in pixels of the file
                    place = left + x * pixel, top + y * pixel, model.scale * pixel
                    yield name, part, f"{probability:.4f}", *(f"{value:.1f}" for value in place)
            advance(len(names))
