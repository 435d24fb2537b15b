"""What each learned part responds to."""

from collections.abc import Sequence

import numpy as np
from torch import nn

from accel.data import ImageSet
from accel.evaluation import occurrence_maps, part_average_precision
from accel.figures.canvas import enlarge, mosaic

OUTLINE = (255, 212, 0)
DARKEST = 0.4  # brightness of what is certainly not an occurrence


def parts(model: nn.Module, images: ImageSet, part_names: Sequence[str] | None = None, *, rows=16, columns=10):
    """A Figure with a row for each learned part: the images where it is surest, dark where it does not occur.

    Where the part occurs with a probability above one half is outlined. Rows are ordered by how much a
    part says: by the average precision of the true type that it finds best where images.truth is known, and
    otherwise by its information about cells, H(mean p) − mean H(p) (a part that is on or off everywhere has
    none). At most `rows` parts are shown.

    part_names: of the true types, axis 1 of images.truth. Raises ImportError if matplotlib is missing.
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
    tiles = []
    for part in best:
        surest = np.argsort(-occurrence[:, part].max(axis=(1, 2)), kind="stable")[:columns]
        tiles.append([_overlay(images.images[index], occurrence[index, part]) for index in surest])
    return mosaic(tiles, [f"part {part}\n{labels[part]}" for part in best])


def _information(occurrence: np.ndarray) -> np.ndarray:
    """Mutual information of each part and the cells, in bits: (n, N, h, w) probabilities → (N,)."""

    def entropy(p):
        p = np.clip(p.astype(np.float64), 1e-12, 1 - 1e-12)
        return -p * np.log2(p) - (1 - p) * np.log2(1 - p)

    cells = occurrence.swapaxes(0, 1).reshape(occurrence.shape[1], -1)
    return entropy(cells.mean(axis=1, dtype=np.float64)) - entropy(cells).mean(axis=1)


def _overlay(image: np.ndarray, occurrence: np.ndarray) -> np.ndarray:
    """The image, darkened where the part does not occur, with outlines around where it does."""
    tile = enlarge(image)
    height, width = (size // cells for size, cells in zip(tile.shape, occurrence.shape, strict=False))
    light = (DARKEST + (1 - DARKEST) * occurrence).repeat(height, axis=0).repeat(width, axis=1)
    tile = (tile * light[:, :, None]).astype(np.uint8)
    line = max(1, round(height / 16))
    occurs = np.pad(occurrence > 0.5, 1)
    for row, column in np.argwhere(occurs) - 1:
        cell = tile[row * height : (row + 1) * height, column * width : (column + 1) * width]
        above, below = occurs[row, column + 1], occurs[row + 2, column + 1]
        left, right = occurs[row + 1, column], occurs[row + 1, column + 2]
        edges = (above, cell[:line]), (below, cell[-line:]), (left, cell[:, :line]), (right, cell[:, -line:])
        for neighbour_occurs, edge in edges:
            if not neighbour_occurs:
                edge[:] = OUTLINE
    return tile
