"""Where each learned part occurs in images, and what it looks like there."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from accel.data import ImageSet
from accel.evaluation import Occurrences, crop_patches, find_occurrences, occurrence_maps, part_average_precision
from accel.figures.canvas import charts, enlarge, heat, mosaic, points
from accel.training.held_out import OCCURS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OUTLINE = (255, 212, 0)
OUTSIDE = 128  # grey of pixels outside of an image, which neither a white nor a dark page has
FINDS = 0.5  # average precision from which a part counts as finding a type; some untrained parts reach 0.4
EXPLAINED_BITS = "Bits per cell: mutual information of cell and occurrence; 0 if the part occurs everywhere or nowhere."
EXPLAINED_AP = (
    "AP: average precision of the part's map in ranking the cells that hold the named type first; 1 is perfect."
)
DARKEST = 0.55  # brightness of cells with probability 0


def parts(
    model: nn.Module,
    images: ImageSet,
    part_names: Sequence[str] | None = None,
    *,
    rows: int = 16,
    columns: int = 10,
    found: Occurrences | None = None,
) -> "Figure":
    """A Figure with a row for each learned part: the images where it is most probable, dark where it does not occur.

    Cells where its probability is above one half are outlined. Rows are sorted by the average precision of the true
    type that a part finds best if images.truth is known, and otherwise by its information about cells, H(mean p) − mean
    H(p), which is 0 for a part that occurs everywhere or nowhere. At most `rows` parts are shown, and those that occur
    nowhere are left out, unless all do.

    part_names: names of the true types, axis 1 of images.truth. found: the result of `find_occurrences` on the images,
    if available. Raises ImportError if matplotlib is missing.
    """
    found = found or find_occurrences(model, images.images, columns)
    order, labels = found.order, [f"{bits:.3f} bits per cell" for bits in found.information]
    if images.truth is not None:
        precision = np.nan_to_num(part_average_precision(occurrence_maps(model, images.images), images.truth))
        order = np.argsort(-precision.max(axis=1), kind="stable")
        names = part_names or [f"type {index}" for index in range(precision.shape[1])]
        labels = [_finding(row, names) for row in precision]
    best = [part for part in order if not found.dead[part]][:rows] or order[:rows]
    dead = 0 if found.dead.all() else int(found.dead.sum())
    tiles = []
    for part in best:
        surest = images.images[found.image[part, :columns]]
        maps = occurrence_maps(model, surest)[:, part]
        tiles.append([overlay(image, cells) for image, cells in zip(surest, maps, strict=True)])
    return mosaic(
        tiles,
        [f"part {part}\n{_state(found, part) or labels[part]}" for part in best],
        title="Where each part occurs",
        text="Each row shows one part in the images where it is most probable, in descending order. Bright cells: the "
        "part is likely; outlined cells: its probability is above one half. "
        + (EXPLAINED_BITS if images.truth is None else EXPLAINED_AP)
        + (f" {dead} more {'part occurs' if dead == 1 else 'parts occur'} nowhere." if dead else ""),
    )


def _finding(precision: np.ndarray, names: Sequence[str]) -> str:
    """The type with the highest average precision for a part, as text; no type if that is low."""
    best = precision.argmax()
    return f"{names[best] if precision[best] >= FINDS else 'no type'}, AP {precision[best]:.2f}"


def _state(found: Occurrences, part: int) -> str:
    return "occurs nowhere" if found.dead[part] else "occurs nearly everywhere" if found.saturated[part] else ""


def gallery(
    images: ImageSet,
    found: Occurrences,
    *,
    side: int,
    scale: int,
    class_names: Sequence[str] | None = None,
    rows: int = 16,
    columns: int = 12,
) -> "Figure":
    """A Figure with a row for each part: patches around its most probable occurrences, as in the paper's figure 4.

    found: the result of `find_occurrences` on `images`: at most one occurrence per image, sorted by probability. side:
    of the patches in pixels. scale: pixels per side of a cell. If images have labels, their classes (class_names or
    numbers) are shown below the patches. Rows are sorted by information about cells; at most `rows` are shown, and
    parts that occur nowhere are left out, unless all do. Raises ImportError if matplotlib is missing.
    """
    shown = [part for part in found.order if not found.dead[part]][:rows] or list(found.order[:1])
    tiles, captions = [], []
    for part in shown:
        chosen = found.image[part, :columns]
        row, column = found.row[part, :columns], found.column[part, :columns]
        patches = crop_patches(images.images[chosen], row, column, side, scale, outside=OUTSIDE)
        tiles.append([enlarge(patch) for patch in patches])
        if images.labels is not None:
            captions.append([class_names[k] if class_names else f"class {k}" for k in images.labels[chosen]])
    labels = [f"part {part}\n{found.an_image[part]:.2f} per image" for part in shown]
    return mosaic(
        tiles,
        labels,
        captions=captions,
        title="What each part looks like",
        text=f"Each row shows one part: patches of {side} × {side} pixels around its most probable occurrences in "
        f"{len(images):,} images, at most one per image, in descending order. Grey: outside of the image."
        + (" Below each patch: the class of the image, which was not used in training." if captions else ""),
    )


def part_statistics(found: Occurrences) -> "Figure":
    """A Figure of the frequency of each part, and of the overlap of each two parts."""
    count = len(found.an_image)
    figure, (often, shared) = charts(
        2,
        columns=2,
        size=(440, 330),
        title="How often parts occur, alone and together",
        text="Left: mean number of cells of an image where the part occurs, with a probability above one half; "
        f"{found.an_image.sum():.1f} in total. {found.dead.sum()} of {count} parts occur nowhere, "
        f"{found.saturated.sum()} nearly everywhere. Right: overlap of the maps of two parts, from black (no common "
        "cell) to white (identical).",
    )
    often.bar(range(count), found.an_image, color="#0072b2")
    often.set_xlim(-0.6, count - 0.4)
    often.set_ylim(0, 1.05 * found.an_image.max() or 1)
    often.set_title("occurrences per image", fontsize=points(12), loc="left")
    often.set_xlabel("part", fontsize=points(11))
    often.xaxis.get_major_locator().set_params(integer=True)
    shared.imshow(heat(found.overlap), interpolation="nearest", aspect="auto")
    shared.grid(visible=False)
    shared.set_title("overlap of two parts", fontsize=points(12), loc="left")
    shared.set_xlabel("part", fontsize=points(11))
    shared.xaxis.get_major_locator().set_params(integer=True)
    shared.yaxis.get_major_locator().set_params(integer=True)
    return figure


def overlay(image: np.ndarray, occurrence: np.ndarray) -> np.ndarray:
    """The enlarged image, darkened where the part does not occur, with outlines around the cells where it does."""
    tile = enlarge(image)
    height, width = (size // cells for size, cells in zip(tile.shape, occurrence.shape, strict=False))
    light = (DARKEST + (1 - DARKEST) * occurrence).repeat(height, axis=0).repeat(width, axis=1)
    tile = (tile * light[:, :, None]).astype(np.uint8)
    line = max(1, round(height / 16))
    occurs = np.pad(occurrence > OCCURS, 1)
    for row, column in np.argwhere(occurs) - 1:
        cell = tile[row * height : (row + 1) * height, column * width : (column + 1) * width]
        above, below = occurs[row, column + 1], occurs[row + 2, column + 1]
        left, right = occurs[row + 1, column], occurs[row + 1, column + 2]
        edges = (above, cell[:line]), (below, cell[-line:]), (left, cell[:, :line]), (right, cell[:, -line:])
        for neighbour_occurs, edge in edges:
            if not neighbour_occurs:
                edge[:] = OUTLINE
    return tile
