"""A data set that was not used to choose any setting: ten types that differ only in shape, over photographs.

An image has 32 × 32 pixels and shows one to three instances of each of two types, eight pixels wide. The photographs
are the images of a folder, at least 128 pixels wide and 32 high; backgrounds of training images come from their left
three quarters, and those of held-out images from the right quarter. scikit-learn's wheel has two (CC BY 2.0), in
sklearn/datasets/images.
"""

from pathlib import Path

import numpy as np

from accel.data import Dataset, ImageSet, parts
from accel.data.looks import ALIKE
from accel.data.parts import Difficulty
from accel.data.sources import FIRST_TEST_IMAGE

SIZE, GRID, TYPES = 32, 4, 10
LEFT = 0.75  # of a photograph's width for training images
SUFFIXES = {".jpg", ".jpeg", ".png"}


def photographs(folder: Path) -> list:
    """The pictures of a folder, in the order of their names; ValueError if there are none."""
    from PIL import Image

    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise ValueError(f"{folder}: holds no photograph ({', '.join(sorted(SUFFIXES))})")
    pictures = [Image.open(path).convert("RGB") for path in paths]
    for path, picture in zip(paths, pictures, strict=True):
        if picture.width < 4 * SIZE or picture.height < SIZE:
            raise ValueError(f"{path}: is {picture.width}x{picture.height}, expected at least {4 * SIZE}x{SIZE} pixels")
    return pictures


def pieces(pictures: list, count: int, left: bool, rng: np.random.Generator) -> np.ndarray:
    """Squares of 32 to 96 pixels of the pictures, resized to SIZE: uint8 (count, SIZE, SIZE, 3)."""
    cut = np.empty((count, SIZE, SIZE, 3), np.uint8)
    for number in range(count):
        picture = pictures[rng.integers(len(pictures))]
        border = int(LEFT * picture.width)
        low, high = (0, border) if left else (border, picture.width)
        side = int(rng.integers(SIZE, min(3 * SIZE, high - low, picture.height), endpoint=True))
        x = int(rng.integers(low, high - side, endpoint=True))
        y = int(rng.integers(0, picture.height - side, endpoint=True))
        cut[number] = picture.resize((SIZE, SIZE), box=(x, y, x + side, y + side))
    return cut


def held_back(folder: Path, seed: int, images: int, tests: int, *, anywhere: bool) -> Dataset:
    """The set, with its truth. anywhere: whether centres lie anywhere in a cell, or in its middle half."""
    pictures, difficulty = photographs(folder), Difficulty(alike=True, anywhere=anywhere)

    def drawn(count: int, first_image: int, left: bool) -> ImageSet:
        shown = parts.scene(count, seed, first_image, 0.2, TYPES, GRID, difficulty)
        shown.piece_kind[:] = -1  # photographs are clutter enough
        ground = pieces(pictures, count, left, np.random.default_rng((seed, left)))
        return ImageSet(parts.render(shown, SIZE, ALIKE, ground), shown.label, parts.truth(shown, TYPES, GRID))

    names = tuple(look.name for look in ALIKE[:TYPES])
    train, test = drawn(images, 0, True), drawn(tests, FIRST_TEST_IMAGE, False)
    return Dataset("held back", train, test, part_names=names, flip=False)
