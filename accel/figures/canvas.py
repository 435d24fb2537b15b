"""What every picture shares: a grid of small images on a figure of its own, without any global state."""

import numpy as np


def image_grid(rows: int, columns: int, *, left: float = 0.0, right: float = 0.0, cell: float = 0.8):
    """A matplotlib Figure and its (rows, columns) array of bare axes, one for each image.

    left, right: margins in inches for text; cell: side of an image in inches. Raises ImportError with the
    command that installs matplotlib if it is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'patchvae[images]'") from error
    gap, margin = 0.06, 0.1
    width = left + right + 2 * margin + columns * cell + (columns - 1) * gap
    height = 2 * margin + rows * (cell + gap) - gap
    figure = Figure(figsize=(width, height), dpi=150, facecolor="white")
    axes = figure.subplots(
        rows,
        columns,
        squeeze=False,
        gridspec_kw={
            "left": (margin + left) / width,
            "right": 1 - (margin + right) / width,
            "bottom": margin / height,
            "top": 1 - margin / height,
            "wspace": gap / cell,
            "hspace": gap / cell,
        },
    )
    for axis in axes.flat:
        axis.set_axis_off()
    return figure, axes


def show(axis, image: np.ndarray, **arguments) -> None:
    """Draws (H, W), (H, W, 1) or (H, W, 3) pixel by pixel; grey unless a colour map is named."""
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    if image.ndim == 2:
        arguments = {"cmap": "gray", "vmin": 0, "vmax": 255} | arguments
    axis.imshow(image, interpolation="nearest" if max(image.shape) < 100 else "antialiased", **arguments)


def label_row(axis, text: str) -> None:
    """Text to the left of a row's first image."""
    axis.text(-0.12, 0.5, text, transform=axis.transAxes, ha="right", va="center", fontsize=8, linespacing=1.4)
