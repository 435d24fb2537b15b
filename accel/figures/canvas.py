"""What every picture shares: rows of small images with labels, on a figure without any global state."""

from collections.abc import Sequence

import numpy as np

TILE_SIZE = 96  # pixels to which smaller images are enlarged, about
GAP = 6
DOTS_PER_INCH = 100


def enlarge(image: np.ndarray, size: int = TILE_SIZE) -> np.ndarray:
    """uint8 (H, W, 1 or 3) → (H', W', 3), each pixel a square of as many pixels as bring H to about `size`."""
    factor = max(1, round(size / len(image)))
    image = np.broadcast_to(image, (*image.shape[:2], 3))
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def mosaic(rows: Sequence[Sequence[np.ndarray]], labels: Sequence[str]):
    """A matplotlib Figure of rows of equally large RGB images (H, W, 3), each row with its label on the left.

    Saved at its own resolution, each pixel of an image is a pixel of the picture. Raises ImportError with the
    command that installs matplotlib if it is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("matplotlib is missing: pip install 'patchvae[images]'") from error
    height, width = rows[0][0].shape[:2]
    columns = max(len(row) for row in rows)
    text_size = height / 8  # of a letter, in pixels
    left = round(max(len(line) for label in labels for line in label.splitlines()) * text_size * 0.62) + 2 * GAP
    canvas = np.full((len(rows) * (height + GAP) + GAP, left + columns * (width + GAP), 3), 255, dtype=np.uint8)
    tops = [GAP + index * (height + GAP) for index in range(len(rows))]
    for top, row in zip(tops, rows, strict=True):
        for index, tile in enumerate(row):
            at = left + index * (width + GAP)
            canvas[top : top + height, at : at + width] = tile

    figure = Figure(figsize=(canvas.shape[1] / DOTS_PER_INCH, len(canvas) / DOTS_PER_INCH), dpi=DOTS_PER_INCH)
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set_axis_off()
    axis.imshow(canvas, interpolation="nearest", aspect="auto")
    points = text_size * 72 / DOTS_PER_INCH
    for top, label in zip(tops, labels, strict=True):
        axis.text(left - GAP, top + height / 2, label, ha="right", va="center", fontsize=points, linespacing=1.4)
    return figure
