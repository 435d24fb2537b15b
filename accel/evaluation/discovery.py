"""Which true part types a model has found, where a data set tells the truth about them."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from accel.data import Dataset
from accel.training.held_out import evaluating, in_order

BATCH_SIZE = 256
CHOOSING_IMAGES = 4000  # training images on which each type's part is chosen


def occurrence_maps(model: nn.Module, images: np.ndarray) -> np.ndarray:
    """The probability of each part in each cell: uint8 images (n, H, W, C) → float32 (n, N, h, w)."""
    with evaluating(model) as device:
        maps = [model.encode(batch).occurrence.cpu() for batch in in_order(images, BATCH_SIZE, device)]
    return torch.cat(maps).numpy()


def merge_cells(maps: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Maps (n, M, h, w) on the grid of `like` by the maximum over each of its cells, if theirs is a finer one."""
    (height, width), (rows, columns) = maps.shape[2:], like.shape[2:]
    if (height, width) == (rows, columns) or height % rows or width % columns:
        return maps
    blocks = maps.reshape(*maps.shape[:2], rows, height // rows, columns, width // columns)
    return blocks.max(axis=(3, 5))


def part_average_precision(occurrence: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """How well each learned part finds each true type: average precision over all cells of all images.

        AP = Σ_k (R_k − R_{k−1}) P_k

    over the distinct values of the occurrence from high to low, P_k and R_k being precision and recall of the
    cells at or above the k-th. Equal values form one step, so the order of tied cells does not matter, and a
    constant map scores what chance does: the share of cells that hold the type. Where one grid is finer, its
    cells are merged to the other's by their maximum.

    occurrence: (n, N, h, w), any numbers that rank cells. truth: bool (n, T, h', w'). Returns float64 (N, T),
    not a number for a type that never occurs. Raises ValueError for shapes that do not belong together.
    """
    occurrence, truth = merge_cells(occurrence, truth), merge_cells(truth, occurrence)
    if len(occurrence) != len(truth) or occurrence.shape[2:] != truth.shape[2:]:
        raise ValueError(
            "occurrence (images, parts, h, w) and truth (images, types, h, w) must agree in images and grid, "
            f"got {occurrence.shape} and {truth.shape}"
        )
    scores = occurrence.swapaxes(0, 1).reshape(occurrence.shape[1], -1)
    positive = truth.swapaxes(0, 1).reshape(truth.shape[1], -1)
    result = np.empty((len(scores), len(positive)))
    for part, score in enumerate(scores):
        order = np.argsort(-score, kind="stable")
        ends = np.flatnonzero(np.diff(score[order], append=-np.inf))  # the last cell of each run of ties
        found = np.cumsum(positive[:, order], axis=1)[:, ends]
        precision = found / (ends + 1)
        gained = np.diff(found, axis=1, prepend=0)
        with np.errstate(invalid="ignore"):
            result[part] = (gained * precision).sum(axis=1) / found[:, -1]
    return result


@dataclass(frozen=True)
class Discovery:
    """For each of T true types: the part that finds it best, how well, and what chance would reach."""

    part: np.ndarray  # int64 (T,), chosen on training images
    average_precision: np.ndarray  # float64 (T,), measured on held-out images
    chance: np.ndarray  # float64 (T,), the share of held-out cells that hold the type


def discover(model: nn.Module, dataset: Dataset) -> Discovery:
    """Chooses each type's best part on training images and measures it on held-out ones.

    The choice is made on other images than the measurement, which would otherwise profit from it. Raises
    ValueError if the data set does not tell the truth about its parts.
    """
    if dataset.train.truth is None or dataset.test.truth is None:
        raise ValueError(f"{dataset.name} does not say where parts are, so their discovery cannot be measured")
    few = slice(CHOOSING_IMAGES)
    chosen = part_average_precision(occurrence_maps(model, dataset.train.images[few]), dataset.train.truth[few])
    maps = occurrence_maps(model, dataset.test.images)
    measured = part_average_precision(maps, dataset.test.truth)
    part = np.where(np.isnan(chosen), -1, chosen).argmax(axis=0)
    chance = merge_cells(dataset.test.truth, maps).mean(axis=(0, 2, 3))
    return Discovery(part, measured[part, np.arange(len(part))], chance)
