"""What each learned part responds to."""

from collections.abc import Sequence

import numpy as np
from torch import nn

from accel.data import ImageSet
from accel.evaluation import occurrence_maps, part_average_precision
from accel.figures.canvas import image_grid, label_row, show

OUTLINE = "#ffd400"


def parts(model: nn.Module, images: ImageSet, part_names: Sequence[str] | None = None, *, rows=16, columns=10):
    """A Figure with a row for each learned part: the images where it is surest, dark where it does not occur.

    Cells where the part occurs with a probability above one half are outlined. Rows are ordered by how much a
    part says: by the average precision of the true type that it finds best where images.truth is known, and
    otherwise by its information about cells, H(mean p) − mean H(p) (a part that is on or off everywhere has
    none). At most `rows` parts are shown.

    part_names: of the true types, axis 1 of images.truth.
    """
    occurrence = occurrence_maps(model, images.images)
    information = _information(occurrence)
    labels = [f"{bits:.3f} bits a cell" for bits in information]
    usefulness = information
    if images.truth is not None:
        precision = np.nan_to_num(part_average_precision(occurrence, images.truth))
        usefulness = precision.max(axis=1)
        names = part_names or [f"type {index}" for index in range(precision.shape[1])]
        labels = [f"{names[row.argmax()]}, AP {row.max():.2f}" for row in precision]
    best = np.argsort(-usefulness, kind="stable")[:rows]
    figure, axes = image_grid(len(best), columns, left=1.3)
    for row, part in zip(axes, best, strict=True):
        label_row(row[0], f"part {part}\n{labels[part]}")
        surest = np.argsort(-occurrence[:, part].max(axis=(1, 2)), kind="stable")[:columns]
        for axis, index in zip(row, surest, strict=False):
            _overlay(axis, images.images[index], occurrence[index, part])
    return figure


def _information(occurrence: np.ndarray) -> np.ndarray:
    """Mutual information of each part and the cells, in bits: (n, N, h, w) probabilities → (N,)."""

    def entropy(p):
        p = np.clip(p.astype(np.float64), 1e-12, 1 - 1e-12)
        return -p * np.log2(p) - (1 - p) * np.log2(1 - p)

    cells = occurrence.swapaxes(0, 1).reshape(occurrence.shape[1], -1)
    return entropy(cells.mean(axis=1, dtype=np.float64)) - entropy(cells).mean(axis=1)


def _overlay(axis, image: np.ndarray, occurrence: np.ndarray) -> None:
    """The image, darkened where the part does not occur, with outlines around the cells where it does."""
    cell_height, cell_width = (size // cells for size, cells in zip(image.shape, occurrence.shape, strict=False))
    light = np.kron(0.35 + 0.65 * occurrence, np.ones((cell_height, cell_width)))
    show(axis, (image * light[:, :, None]).astype(np.uint8))
    from matplotlib.patches import Rectangle

    for y, x in np.argwhere(occurrence > 0.5):
        corner = (x * cell_width - 0.5, y * cell_height - 0.5)
        axis.add_patch(Rectangle(corner, cell_width, cell_height, fill=False, edgecolor=OUTLINE, linewidth=1))
