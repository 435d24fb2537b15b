"""Time of a whole training run, from process start to the last figure.

    python bench/whole_run.py [--images 50000] [--image-size 32] [--output FILE.json] [OPTION OF train …]
    python bench/whole_run.py --parts [--output FILE.json] [OPTION OF train …]

By the paper's recipe on random images, a fifth of them held out; or the default run on the data set parts. On a GPU it
fails if the steps of an epoch were not replayed as one CUDA graph.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from accel.training.run_folder import read_history
from bench.common.records import machine, write
from bench.common.timing import CUDA

ROOT = Path(__file__).parents[1]
IMAGES, SIDE = 50_000, 32


def random_images(path, count, side):
    """Writes a data set."""
    images = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    np.savez(path, train_images=images, test_images=images[: count // 5])


def whole_run(folder, *options):
    """(seconds from the start of the program to its end, lines of metrics.jsonl); the program prints every epoch."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "accel", "train", "--out", str(folder), *options]
    subprocess.run(command, cwd=ROOT, check=True)
    return time.perf_counter() - began, read_history(folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, metavar="N", help=f"default: {IMAGES}")
    parser.add_argument("--image-size", type=int, metavar="PIXELS", help=f"default: {SIDE}")
    parser.add_argument("--parts", action="store_true", help="the default run instead")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="write the result, with device and versions")
    options, training = parser.parse_known_args()
    if options.parts and (options.images or options.image_size):
        parser.error("--images and --image-size have no effect with --parts")
    count, side = options.images or IMAGES, options.image_size or SIDE
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if not options.parts:
            random_images(folder / "images.npz", count, side)
            training += ["--data", str(folder / "images.npz"), "--recipe", "paper"]
        seconds, lines = whole_run(folder / "run", *training)
    captured = sum(line["captured"] for line in lines)
    what = "the default run" if options.parts else f"{count:,} random images of {side} px"
    row = {"run": what, "epochs": len(lines), "seconds": seconds, "epochs_in_a_graph": captured}
    print(
        f"{machine()['device']}: {len(lines)} epochs, {captured} of them in a CUDA graph, of {what}, from process "
        f"start to the last picture: {seconds:.1f} s"
    )
    if options.output:
        write(options.output, "A whole run", [row])
    if CUDA and captured < len(lines):
        sys.exit(f"{len(lines) - captured} of {len(lines)} epochs ran without a CUDA graph")


if __name__ == "__main__":
    main()
