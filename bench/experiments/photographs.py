"""Makes folders of small photographs from a few large ones with free licences.

    pip download --no-deps scikit-image scikit-learn     # whose wheels hold some; unpack them
    python bench/experiments/photographs.py OUT --image-size 64 skimage/data sklearn/datasets/images

Every photograph is a class. Squares of random places and sizes are cropped from the left three quarters for training
and from the right quarter for testing, so that no pixel is in both, and resized to one size.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2]))
from bench.common.held_back import LEFT

# Colour photographs in the wheels: of scikit-image in the public domain or CC0 (NASA, SpaceX, S. van der Walt,
# R. Michetti), of scikit-learn CC BY 2.0 (D. Buechele, flickr.com/photos/danielbuechele; flickr.com/photos/vultilion).
NAMES = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "china.jpg", "flower.jpg")


def cut(picture: Image.Image, count: int, size: int, rng: np.random.Generator) -> list[Image.Image]:
    """So many squares of the picture, of `size` to three times `size` pixels where it is large enough."""
    width, height = picture.size
    squares = []
    for _ in range(count):
        largest = min(3 * size, width, height)
        side = int(rng.integers(min(size, largest), largest, endpoint=True))
        left, top = (int(rng.integers(0, length - side, endpoint=True)) for length in (width, height))
        squares.append(picture.resize((size, size), Image.Resampling.BILINEAR, (left, top, left + side, top + side)))
    return squares


def main():
    parser = argparse.ArgumentParser(description="Make folders of small photographs from a few large ones.")
    parser.add_argument("out", type=Path, help="folder to write, with train/CLASS and test/CLASS")
    parser.add_argument("folders", type=Path, nargs="+", help=f"where {', '.join(NAMES)} are")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument(
        "--images", type=int, default=600, help="total number of training images; a quarter as many are held out"
    )
    parser.add_argument("--names", nargs="+", default=NAMES, help="photographs to crop")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    paths = [folder / name for name in given.names for folder in given.folders if (folder / name).is_file()]
    if len(paths) < len(given.names):
        sys.exit(f"of {', '.join(given.names)}, only {len(paths)} are in {', '.join(map(str, given.folders))}")
    rng = np.random.default_rng(given.seed)
    for path in paths:
        picture = Image.open(path).convert("RGB")
        width, height = picture.size
        middle = int(LEFT * width)
        for split, box, count in (
            ("train", (0, 0, middle, height), given.images // len(paths)),
            ("test", (middle, 0, width, height), given.images // 4 // len(paths)),
        ):
            folder = given.out / split / path.stem
            folder.mkdir(parents=True, exist_ok=True)
            for number, square in enumerate(cut(picture.crop(box), count, given.image_size, rng)):
                square.save(folder / f"{number:04}.png")


if __name__ == "__main__":
    main()
