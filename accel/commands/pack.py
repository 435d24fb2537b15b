"""`pack`: decode a folder of images once, into one file that training reads without decoding."""

import argparse
import dataclasses
import time
from pathlib import Path

from accel.common.options import Options, add_options, option, within
from accel.common.progress import say
from accel.training.config import LARGEST

HELP = "decode a folder of images into one file, from which training reads faster"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PackOptions(Options):
    """The options of `pack`."""

    image_size: int = option(
        224,
        "packing",
        "height and width of images: the shorter side is resized to it, and the centre cropped",
        check=within(1, LARGEST),
    )
    data_dir: str | None = option(
        None, "packing", "folder that holds indoor67/, places205/ and imagenet/ as published", absent="data"
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments and options of the command."""
    parser.add_argument("source", metavar="FOLDER", help="folder of images, or indoor67, places205 or imagenet")
    parser.add_argument("out", metavar="OUT.npy", help="file to write; its description is written to OUT.json")
    add_options(parser, PackOptions)


def run(given: dict) -> None:
    """Packs, or continues after an interruption, and lists the files that were left out."""
    source, out = given.pop("source"), Path(given.pop("out"))
    options = PackOptions(**given)

    from accel.data.listing import left_out_lines
    from accel.data.packed import pack
    from accel.data.sources import listing

    began, files = time.monotonic(), listing(source, options.data_dir)
    packed = pack(files, out, options.image_size)
    size = options.image_size
    print(
        f"{packed.path}: {packed.num_train:,} training and {packed.num_test:,} held-out images of {size}x{size}, "
        f"{packed.path.stat().st_size / 1e6:,.1f} MB, after {time.monotonic() - began:.1f} s"
    )
    if files.skipped:
        print(left_out_lines(files.skipped))
    if packed.bad:
        print(left_out_lines(list(packed.bad.values())))
        count = len(packed.bad) + packed.num_train + packed.num_test
        say(
            f"{len(packed.bad):,} of {count:,} files could not be read and are not in {packed.path}: "
            f"{packed.bad_list} lists them",
            error=True,
        )
