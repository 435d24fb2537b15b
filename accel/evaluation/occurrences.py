"""Occurrences of parts: maps of given images, and statistics and most probable occurrences over a whole set."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from accel.common.describing import ShowsShapes
from accel.models.autoencoder import scaled_pixels
from accel.ops.placement import most_probable_places
from accel.training.held_out import OCCURS, SATURATED, evaluating, in_order

BATCH_SIZE = 256
PIXELS = 2**22  # of a batch of images of any size, at most
ALIKE = 0.8  # overlap of the maps of two parts above which they count as one part
SUREST = 50  # number of most probable occurrences of a part, at most one per image, that represent it


def occurrence_maps(model: nn.Module, images: np.ndarray) -> np.ndarray:
    """The probability of each part in each cell: uint8 images (n, H, W, C) → float32 (n, N, h, w)."""
    with evaluating(model) as device:
        maps = [model.encode(batch).occurrence.cpu() for batch in in_order(images, BATCH_SIZE, device)]
    return torch.cat(maps).numpy()


@dataclass(frozen=True, repr=False)
class Occurrences(ShowsShapes):
    """Statistics of N parts over n images, and the K ≤ n most probable occurrences of each, one per image, sorted."""

    logit: np.ndarray  # float32 (N, K), log-odds, which differ even if probabilities are rounded to 1
    image: np.ndarray  # int64 (N, K)
    row: np.ndarray  # int64 (N, K), of the cell
    column: np.ndarray  # int64 (N, K)
    expected: np.ndarray  # float64 (N,), Σ p over the cells of an image, averaged over images
    occupied: np.ndarray  # float64 (N,), share of all cells where the part occurs with p > ½
    information: np.ndarray  # float64 (N,), H(mean p) − mean H(p): information per cell in the part's occurrence, bits
    overlap: np.ndarray  # float64 (N, N), Σ p q / √(Σ p² Σ q²) over all cells: 1 for equal maps
    covered: float  # share of all cells where some part occurs with p > ½
    cells: int  # of an image

    @property
    def probability(self) -> np.ndarray:
        """float64 (N, K)."""
        return np.exp(-np.logaddexp(0, -self.logit.astype(np.float64)))  # which no logit makes overflow

    @property
    def an_image(self) -> np.ndarray:
        """float64 (N,): occurrences per image, the number of cells with p > ½."""
        return self.occupied * self.cells

    @property
    def dead(self) -> np.ndarray:
        """bool (N,): occurs nowhere."""
        return self.occupied == 0

    @property
    def saturated(self) -> np.ndarray:
        """bool (N,): occurs in nearly all cells."""
        return self.occupied > SATURATED

    @property
    def order(self) -> np.ndarray:
        """int64 (N,): parts by information, in descending order; dead and saturated parts are last."""
        return np.lexsort((-self.information, self.dead | self.saturated))

    def distinct(self) -> int:
        """Number of distinct parts that occur; parts whose maps overlap by more than ALIKE count as one."""
        kinds: list[int] = []
        for part in self.order[~self.dead[self.order]]:
            if not any(self.overlap[part, kind] > ALIKE for kind in kinds):
                kinds.append(part)
        return len(kinds)

    def entropy(self) -> float:
        """Entropy of the expected occurrences, in bits: log₂ N if they are equal, 0 if only one part has any."""
        share = self.expected / self.expected.sum()
        return float(-(share * np.log2(np.maximum(share, 1e-300))).sum())


def find_occurrences(model: nn.Module, images: np.ndarray, count: int = SUREST) -> Occurrences:
    """Statistics of each part and its `count` most probable occurrences, in one pass with sums on the model's device.

    model: a PatchVAE. images: uint8 (n, H, W, C), n ≥ 1. Equally probable occurrences are in the order of the images.
    """
    with evaluating(model) as device:
        surest, sums, products, cells, covered = None, 0, 0, 0, 0
        for number, batch in enumerate(in_order(images, BATCH_SIZE, device)):
            logits = model.encode(batch).occurrence_logits.float()
            columns = logits.shape[3]
            logit, cell = logits.flatten(2).max(2)  # (B, N)
            index = torch.arange(len(batch), device=device) + number * BATCH_SIZE
            found = torch.stack([logit.double(), index[:, None].expand_as(cell).double(), cell.double()])
            surest = found if surest is None else torch.cat([surest, found], dim=1)
            # Stable, so that earlier images come first; float64 holds every index below 2⁵³.
            kept = surest[0].sort(dim=0, descending=True, stable=True).indices[:count]
            surest = surest.gather(1, kept.expand(3, *kept.shape))
            p = logits.transpose(0, 1).flatten(1).sigmoid()  # (N, B · h · w)
            sums = sums + torch.stack([p, (p > OCCURS).to(p), _entropy(p)]).sum(2, dtype=torch.float64)
            products = products + (p @ p.T).double()
            covered = covered + (p > OCCURS).any(0).sum()
            cells += p.shape[1]
    (total, occupied, entropy), products = sums.cpu().numpy(), products.cpu().numpy()
    logit, image, cell = surest.transpose(1, 2).cpu().numpy()
    norms = np.sqrt(products.diagonal())
    mean = _entropy(torch.from_numpy(total / cells)).numpy()
    return Occurrences(
        logit=logit.astype(np.float32),
        image=image.astype(np.int64),
        row=cell.astype(np.int64) // columns,
        column=cell.astype(np.int64) % columns,
        expected=total / len(images),
        occupied=occupied / cells,
        information=mean - entropy / cells,
        overlap=products / np.maximum(norms[:, None] * norms, 1e-300),
        covered=int(covered) / cells,
        cells=cells // len(images),
    )


@dataclass(frozen=True, repr=False)
class Locations(ShowsShapes):
    """M occurrences of parts, in the order of the images, and within an image the most probable first."""

    image: np.ndarray  # int64 (M,)
    part: np.ndarray  # int64 (M,)
    probability: np.ndarray  # float32 (M,)
    x: np.ndarray  # float64 (M,), of its centre, in pixels from the left edge of the image
    y: np.ndarray  # float64 (M,), in pixels from the upper edge


def locate_parts(model: nn.Module, images: np.ndarray, threshold: float = OCCURS) -> Locations:
    """All occurrences of parts with a probability above a threshold.

    model: a PatchVAE. images: uint8 (n, H, W, C), n ≥ 1. The centre of an occurrence is that of its cell or, in a model
    with places, that of its most probable place in the cell.
    """
    found, size = [], max(1, min(BATCH_SIZE, PIXELS // images[0, :, :, 0].size))
    with evaluating(model) as device:
        for number, batch in enumerate(in_order(images, size, device)):
            posterior = model.encode(batch)
            image, part, row, column = (posterior.occurrence > threshold).nonzero(as_tuple=True)
            probability, logit = (
                maps[image, part, row, column] for maps in (posterior.occurrence, posterior.occurrence_logits)
            )
            y, x = row + 0.5, column + 0.5
            if posterior.places is not None:
                places = most_probable_places(posterior.places, model.places, image, part, row, column)
                y, x = ((place + 0.5) / model.places for place in places)
            order = np.lexsort((-logit.cpu().numpy(), image.cpu().numpy()))
            columns = image + number * size, part, probability, x.double() * model.scale, y.double() * model.scale
            found.append([values.cpu().numpy()[order] for values in columns])
    return Locations(*map(np.concatenate, zip(*found, strict=True)))


def _entropy(p: Tensor) -> Tensor:
    """The entropy of Bernoulli(p), in bits."""
    return -(torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p)) / np.log(2)


def crop_patches(
    images: np.ndarray, row: np.ndarray, column: np.ndarray, side: int, scale: int, outside: int | None = None
) -> np.ndarray:
    """Squares of `side` pixels about the middles of cells.

    images: uint8 (m, H, W, C), and one cell of each, row and column (m,), of `scale` pixels a side. outside: the value
    of pixels outside of the image; by default the value of the nearest pixel. Returns uint8 (m, side, side, C).
    """
    height, width = images.shape[1:3]
    steps = np.arange(side) - side // 2 + scale // 2
    y, x = row[:, None] * scale + steps, column[:, None] * scale + steps
    inside_y, inside_x = y.clip(0, height - 1), x.clip(0, width - 1)
    patches = images[np.arange(len(images))[:, None, None], inside_y[:, :, None], inside_x[:, None, :]]
    if outside is not None:
        patches[(y != inside_y)[:, :, None] | (x != inside_x)[:, None, :]] = outside
    return patches


def receptive_field(model: nn.Module, images: np.ndarray, share: float = 0.5) -> int:
    """Effective receptive field: side in pixels of the square around a cell that holds `share` of the gradient.

    This is the absolute gradient of the cell's occurrence logits with respect to the pixels, summed over parts and
    uint8 images (n, H, W, C), for the cell in the middle of the grid. The theoretical receptive field is much larger:
    67 pixels for two residual stages, most of which have little influence (Luo et al. 2016). At least the side of the
    cell.
    """
    with evaluating(model) as device, torch.enable_grad():
        (batch,) = in_order(images, len(images), device)
        inputs = scaled_pixels(batch, torch.float32).requires_grad_()
        logits = model.encode(inputs).occurrence_logits
        row, column = logits.shape[2] // 2, logits.shape[3] // 2
        energy = 0
        for logit in logits[:, :, row, column].sum(0):
            energy = energy + torch.autograd.grad(logit, inputs, retain_graph=True)[0].abs().sum((0, 1))
    height, width = energy.shape
    scale = height // logits.shape[2]
    y, x = (torch.arange(size, device=energy.device) for size in (height, width))
    middle = row * scale + (scale - 1) / 2, column * scale + (scale - 1) / 2
    away = torch.maximum((y[:, None] - middle[0]).abs(), (x - middle[1]).abs())  # (H, W), Chebyshev distance
    for half in range(scale // 2, max(height, width)):
        if energy[away < half].sum() >= share * energy.sum():
            break
    return 2 * half


def consistency(model: nn.Module, images: np.ndarray, found: Occurrences, side: int) -> dict[str, float]:
    """Consistency of a part's most probable occurrences, for patches of pixels and for the encoder's features.

    It is the between-part variance divided by the sum of between- and within-part variance, for the K most probable
    occurrences of all parts that are neither dead nor saturated: 1 if a part always looks the same, near 1/K if parts
    do not differ, NaN for fewer than two such parts. images: uint8 (n, H, W, C), those of `found`; side: side of the
    patches in pixels.
    """
    live = np.flatnonzero(~(found.dead | found.saturated))
    if len(live) < 2:
        return {"pixels": float("nan"), "features": float("nan")}
    image, row, column = (field[live].reshape(-1) for field in (found.image, found.row, found.column))
    features = []
    with evaluating(model) as device:
        for start in range(0, len(image), BATCH_SIZE):
            chosen = slice(start, start + BATCH_SIZE)
            (batch,) = in_order(images[image[chosen]], BATCH_SIZE, device)
            maps = model.features(batch)
            features.append(maps[torch.arange(len(batch)), :, row[chosen], column[chosen]].double().cpu().numpy())
    patches = crop_patches(images[image], row, column, side, images.shape[1] // maps.shape[2])
    parts = len(live), -1
    return {
        "pixels": _explained(patches.reshape(*parts, side * side * images.shape[3]).astype(np.float64)),
        "features": _explained(np.concatenate(features).reshape(*parts, maps.shape[1])),
    }


def _explained(vectors: np.ndarray) -> float:
    """Share of the variance of vectors (N, K, M) that lies between the means of the N groups."""
    means = vectors.mean(axis=1, keepdims=True)
    within = (vectors - means).var(axis=(0, 1)).sum()
    between = means.var(axis=(0, 1)).sum()
    return float(between / (between + within)) if between + within > 0 else float("nan")
