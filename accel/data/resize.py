"""Resizing of images with Pillow."""

from types import ModuleType
from typing import Any

import numpy as np

LONGEST = 16  # of a resized image's longer side, in shorter ones


def pillow() -> ModuleType:
    """The module PIL.Image (with PIL.ImageOps loaded); ImportError says how to install it."""
    try:
        from PIL import Image, ImageOps  # noqa: F401
    except ImportError as error:
        raise ImportError("reading or resizing images needs Pillow: pip install pillow") from error
    return Image


def fit(picture: Any, size: int) -> Any:
    """Resizes a PIL image to a shorter side of `size` (bilinear, anti-aliased) and crops the centre to a square."""
    width, height = picture.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    resampling = pillow().Resampling.BILINEAR
    return picture.resize((size, size), resampling, box=(left, top, left + side, top + side))


def fit_whole(picture: Any, size: int, cell: int) -> tuple[Any, float, float, float]:
    """Resizes a PIL image to a shorter side of `size`, as `fit`, but crops the longer side to a multiple of `cell`.

    size: a multiple of cell. Of the longer side, at most LONGEST times `size` is kept. Returns the resized image, its
    left edge, its upper edge and the width of its pixels, these in pixels of the picture.
    """
    width, height = picture.size
    shorter = min(width, height)
    columns, rows = (max(size, min(side * size // shorter, LONGEST * size) // cell * cell) for side in (width, height))
    pixel = shorter / size
    left, top = (max(0.0, (side - count * pixel) / 2) for side, count in ((width, columns), (height, rows)))
    box = (left, top, min(width, left + columns * pixel), min(height, top + rows * pixel))
    return picture.resize((columns, rows), pillow().Resampling.BILINEAR, box=box), left, top, pixel


def fit_array(images: np.ndarray, size: int | None) -> np.ndarray:
    """Resizes uint8 (n, H, W, C) to (n, size, size, C); unchanged if they have that size or size is None."""
    if size is None or images.shape[1:3] == (size, size) or len(images) == 0:
        return images
    from_array = pillow().fromarray
    single = images.shape[3] == 1
    fitted = [np.asarray(fit(from_array(image[:, :, 0] if single else image), size)) for image in images]
    return np.stack(fitted).reshape(len(images), size, size, images.shape[3])
