"""Part discovery: how well the true part types of a data set were found, by a model and by simple baselines."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from accel.common.describing import ShowsShapes
from accel.data import Dataset, ImageSet
from accel.evaluation.clustering import k_means
from accel.evaluation.occurrences import SUREST, occurrence_maps
from accel.models.autoencoder import scaled_pixels
from accel.training.held_out import OCCURS, SATURATED, in_order

CHOOSING_IMAGES = 4000  # training images for choosing the part of each type and for fitting baselines


def merge_cells(maps: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Maps (n, M, h, w), reduced to the grid of `like` by the maximum over its cells, if their grid is finer."""
    (height, width), (rows, columns) = maps.shape[2:], like.shape[2:]
    if (height, width) == (rows, columns) or height % rows or width % columns:
        return maps
    blocks = maps.reshape(*maps.shape[:2], rows, height // rows, columns, width // columns)
    return blocks.max(axis=(3, 5))


def one_grid(occurrence: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both maps on the coarser of their grids; ValueError if images or grids do not match."""
    occurrence, truth = merge_cells(occurrence, truth), merge_cells(truth, occurrence)
    if len(occurrence) != len(truth) or occurrence.shape[2:] != truth.shape[2:]:
        raise ValueError(
            "occurrence (images, parts, h, w) and truth (images, types, h, w) must agree in images and grid, "
            f"got {occurrence.shape} and {truth.shape}"
        )
    return occurrence, truth


def part_average_precision(occurrence: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Average precision with which each learned part finds each true type, over all cells of all images.

        AP = Σ_k (R_k − R_{k−1}) P_k

    over the distinct values of the occurrence from high to low, where P_k and R_k are precision and recall of the cells
    at or above the k-th value. Equal values form one step, so the order of tied cells does not matter, and a constant
    map scores chance: the share of cells that hold the type. If one grid is finer, its cells are merged by their
    maximum.

    occurrence: (n, N, h, w), any scores that rank cells. truth: bool (n, T, h', w'). Returns float64 (N, T), NaN for a
    type that never occurs. Raises ValueError for shapes that do not match.
    """
    occurrence, truth = one_grid(occurrence, truth)
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


@dataclass(frozen=True, repr=False)
class Discovery(ShowsShapes):
    """Results on held-out images for T true types and N parts; parts are assigned to types on training images."""

    part: np.ndarray  # int64 (T,), the part with the highest average precision for the type
    average_precision: np.ndarray  # float64 (T,), of that part
    chance: np.ndarray  # float64 (T,), the share of cells that hold the type
    localisation_error: np.ndarray  # float64 (T,), cells, see `localisation_errors`
    coverage: np.ndarray  # float64 (T,), share of the type's cells in which any part occurs, except saturated parts
    marked: float  # share of all cells in which such a part occurs: chance level of coverage
    purity: np.ndarray  # float64 (N,), share of the part's most probable occurrences that lie on one type
    purest: np.ndarray  # int64 (N,), that type

    def summary(self) -> dict[str, float]:
        """{name: mean over types or parts}."""
        return {
            "average_precision": float(np.nanmean(self.average_precision)),
            "localisation_error": float(np.nanmean(self.localisation_error)),
            "coverage": float(np.nanmean(self.coverage)),
            "purity": float(self.purity.mean()),
        }


def localisation_errors(occurrence: np.ndarray, truth: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Distance, in cells, of a type's part from the type: float64 (T,), NaN for a type that never occurs.

    The mean over the images that show the type of the distance between the centre of the most probable cell of its part
    and the centre of the nearest cell that holds the type. occurrence (n, N, h, w) and truth (n, T, h, w) on one
    grid, part (T,).
    """
    rows, columns = occurrence.shape[2:]
    cells = np.stack(np.mgrid[:rows, :columns], axis=-1).reshape(-1, 2)
    distance = np.sqrt(((cells[:, None] - cells) ** 2).sum(-1))  # (L, L)
    surest = occurrence.reshape(*occurrence.shape[:2], -1).argmax(2)
    result = np.full(len(part), np.nan)
    for kind in range(len(part)):
        held = truth[:, kind].reshape(len(truth), -1)
        shows = held.any(axis=1)
        if shows.any():
            away = np.where(held[shows], distance[surest[shows, part[kind]]], np.inf)
            result[kind] = away.min(axis=1).mean()
    return result


def purities(occurrence: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Share of each part's most probable occurrences that lies on each type: float64 (N, T).

    These are the SUREST images with the most probable cells, one cell per image. occurrence (n, N, h, w) and truth (n,
    T, h, w) on one grid.
    """
    flat = occurrence.reshape(*occurrence.shape[:2], -1)
    images = np.argsort(-flat.max(axis=2), axis=0, kind="stable")[:SUREST]  # (K, N)
    cells = flat.argmax(axis=2)[images, np.arange(flat.shape[1])]
    return truth.reshape(*truth.shape[:2], -1)[images, :, cells].mean(axis=0)


def compare(chosen: np.ndarray, train: ImageSet, maps: np.ndarray, test: ImageSet) -> Discovery:
    """Chooses parts by maps (n, N, h, w) of training images and evaluates them on maps of held-out images.

    Both sets have ground truth. Maps are any scores that rank the cells of a part; a part occurs where they exceed ½.
    """
    precision = part_average_precision(chosen, train.truth)
    part = np.where(np.isnan(precision), -1, precision).argmax(axis=0)
    maps, truth = one_grid(maps, test.truth)
    measured = part_average_precision(maps, truth)
    occurs = maps > OCCURS
    covered = occurs[:, occurs.mean(axis=(0, 2, 3)) <= SATURATED].any(axis=1)
    held = np.maximum(truth.sum(axis=(0, 2, 3)), 1)
    coverage = (truth & covered[:, None]).sum(axis=(0, 2, 3)) / held
    share = purities(maps, truth)
    return Discovery(
        part=part,
        average_precision=measured[part, np.arange(len(part))],
        chance=truth.mean(axis=(0, 2, 3)),
        localisation_error=localisation_errors(maps, truth, part),
        coverage=np.where(truth.any(axis=(0, 2, 3)), coverage, np.nan),
        marked=float(covered.mean()),
        purity=share.max(axis=1),
        purest=share.argmax(axis=1),
    )


def discover(model: nn.Module, dataset: Dataset) -> Discovery:
    """Chooses each type's best part on training images and measures it on held-out ones.

    Choosing parts on the held-out images would bias the measurement. Raises ValueError if the data set has no ground
    truth of parts.
    """
    train = first_training_images(dataset)
    return compare(
        occurrence_maps(model, train.images), train, occurrence_maps(model, dataset.test.images), dataset.test
    )


def first_training_images(dataset: Dataset) -> ImageSet:
    """The training images on which parts are chosen; ValueError if the data set has no ground truth of parts."""
    if dataset.train.truth is None or dataset.test.truth is None:
        raise ValueError(f"{dataset.name} has no ground truth of parts, so part discovery cannot be measured")
    few = slice(CHOOSING_IMAGES)
    return ImageSet(dataset.train.images[few], truth=dataset.train.truth[few])


# Two baselines


def untrained(model: nn.Module, seed: int = 0) -> nn.Module:
    """A model with the same configuration and new random weights, as a baseline."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return type(model)(**model.config).eval()


def discover_by_clustering(dataset: Dataset, num_parts: int, scale: int, seed: int = 0) -> Discovery:
    """As `discover`, with k-means over the pixels of cells (scale × scale) in place of a model: a cluster is a part.

    The score of a cell for a cluster is the margin by which the cluster's centre is nearer than any other, in squared
    distance, plus ½; so every cell belongs to one cluster, with a score above ½. (The distance itself ranks far worse.)
    """
    train = first_training_images(dataset)
    vectors = cell_pixels(train.images, scale)
    centres = k_means(vectors.flatten(0, 2), num_parts, seed)

    def scores(vectors: Tensor) -> np.ndarray:
        distance = torch.cdist(vectors.flatten(0, 2), centres).square().unflatten(0, vectors.shape[:3])
        two = distance.topk(min(2, num_parts), dim=3, largest=False).values
        nearest, second = two[..., :1], two[..., -1:]
        return (torch.where(distance == nearest, second, nearest) - distance + 0.5).permute(0, 3, 1, 2).numpy()

    return compare(scores(vectors), train, scores(cell_pixels(dataset.test.images, scale)), dataset.test)


def cell_pixels(images: np.ndarray, scale: int) -> Tensor:
    """uint8 (n, H, W, C) → float32 (n, h, w, C · scale²) in [−1, 1], the pixels of each cell."""
    (batch,) = in_order(images, len(images), torch.device("cpu"))
    height, width = batch.shape[2] // scale, batch.shape[3] // scale
    cells = functional.unfold(scaled_pixels(batch, torch.float32), scale, stride=scale)
    return cells.unflatten(2, (height, width)).permute(0, 2, 3, 1)
