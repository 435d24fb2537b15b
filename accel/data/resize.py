"""Resizing of images with Pillow."""

from types import ModuleType
from typing import Any

import numpy as np


def pillow() -> ModuleType:
    """The module PIL.Image (with PIL.ImageOps loaded); ImportError says how to install it."""
    try:
        from PIL import Image, ImageOps  # noqa: F401
    except ImportError as error:
        raise ImportError("reading or resizing images needs Pillow: pip install pillow") from error
    return Image


def central_square(width: int, height: int) -> tuple[float, float, int]:
    """(left, top, side) of the square in a picture that `fit` keeps, in pixels."""
    side = min(width, height)
    return (width - side) / 2, (height - side) / 2, side


def fit(picture: Any, size: int) -> Any:
    """Resizes a PIL image to a shorter side of `size` (bilinear, anti-aliased) and crops the centre to a square."""
    left, top, side = central_square(*picture.size)
    resampling = pillow().Resampling.BILINEAR
    return picture.resize((size, size), resampling, box=(left, top, left + side, top + side))


def fit_array(images: np.ndarray, size: int | None) -> np.ndarray:
    """Resizes uint8 (n, H, W, C) to (n, size, size, C); unchanged if they have that size or size is None."""
    if size is None or images.shape[1:3] == (size, size) or len(images) == 0:
        return images
    from_array = pillow().fromarray
    single = images.shape[3] == 1
    fitted = [np.asarray(fit(from_array(image[:, :, 0] if single else image), size)) for image in images]
    return np.stack(fitted).reshape(len(images), size, size, images.shape[3])
