"""Time of a whole training run, from process start to the last figure, on random images, with a fifth held out.

python bench/whole_run.py [--images 50000] [--image-size 32] [--epochs 90] [--output FILE.json]
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench.common.records import machine, write

ROOT = Path(__file__).parents[1]


def whole_run(count, side, epochs, *options):
    """Seconds from the start of the program to its end; the program prints every epoch."""
    with tempfile.TemporaryDirectory() as folder:
        images = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
        np.savez(f"{folder}/images.npz", train_images=images, test_images=images[: count // 5])
        command = [sys.executable, "-m", "accel", "train", "--data", f"{folder}/images.npz", "--recipe", "paper"]
        began = time.perf_counter()
        subprocess.run([*command, "--out", f"{folder}/run", "--epochs", str(epochs), *options], cwd=ROOT, check=True)
        return time.perf_counter() - began


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=50_000, metavar="N")
    parser.add_argument("--image-size", type=int, default=32, metavar="PIXELS")
    parser.add_argument("--epochs", type=int, default=90, metavar="N")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="write the result, with device and versions")
    options, training = parser.parse_known_args()
    seconds = whole_run(options.images, options.image_size, options.epochs, *training)
    row = {"images": options.images, "pixels": options.image_size, "epochs": options.epochs, "seconds": seconds}
    print(
        f"{machine()['device']}: {options.epochs} epochs of {options.images:,} images of {options.image_size} px, from "
        f"process start to the last picture: {seconds:.1f} s"
    )
    if options.output:
        write(options.output, "A whole run", [row])


if __name__ == "__main__":
    main()
