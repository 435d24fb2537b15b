"""Patterns: clusters of the pieces of images at given places, each described by one or several templates.

A template explains a piece with any contrast, and shifted by some pixels (reference/patterns.py). Templates are learned
as in k-means, from more of them than needed: those that others can replace best are left out, and templates that
explain each other's pieces, if they are turned or resized a little, become one cluster.
"""

import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

FEWEST = 10  # pieces per cluster
CLUTTER = 8000  # random places whose pieces give mean and covariance
RIDGE = 0.3  # added to the variance of each pixel, in mean variances
AT_ONCE = 4096  # places whose pieces are compared at once, for bounded memory
VIEWS = 100_000  # pieces times shifts from which templates are learned, for bounded memory
FIRST, SECOND = 3, 2  # templates per cluster at the beginning, and after the least needed were left out
ROUNDS = 10  # of assignment and averaging, before and after that
LEFT_OUT = 0.1  # share of the templates that are left out at once
ANGLES, ZOOMS = (-14, -7, 0, 7, 14), (0.9, 1.0, 1.1)  # small turns in degrees, and changes of size
EXCHANGEABLE = 0.6  # templates that explain each other's pieces at least so well are one cluster

Places = tuple[Tensor, Tensor, Tensor]  # image, row and column on the encoder's grid of m places: int64, (m,) each


class Pieces:
    """Squares around places of a grid with `scale` pixels a place, of images (n, C, H, W).

    A piece is 2 · reach pixels wide, and may be shifted by up to `margin` pixels each way.
    """

    def __init__(self, images: Tensor, scale: int, reach: int):
        self.scale, self.reach, self.margin = scale, reach, max(2, scale // 2)
        self.border = self.reach + self.margin
        self.padded = functional.pad(images, (self.border,) * 4)
        self.grid = (len(images), *(side // scale for side in images.shape[2:]))

    def squares(self, at: Places) -> Tensor:
        """The pieces at m places with their margins: (m, C, side, side), side = 2 · (reach + margin)."""
        image, row, column = at
        side = torch.arange(2 * self.border)  # a place's middle is `scale // 2` beside its first pixel
        rows = (row * self.scale + self.scale // 2)[:, None] + side
        columns = (column * self.scale + self.scale // 2)[:, None] + side
        return self.padded[image[:, None, None], :, rows[:, :, None], columns[:, None, :]].movedim(3, 1)

    def views(self, at: Places) -> Tensor:
        """The pieces at m places, with each of S shifts, of M numbers: (m, S, M); the middle one is not shifted."""
        width = 2 * self.reach
        windows = self.squares(at).unfold(2, width, 1).unfold(3, width, 1)  # (m, C, shifts, shifts, width, width)
        return windows.movedim(1, 3).flatten(3).flatten(1, 2)


class Patterns(NamedTuple):
    """Clusters of pieces of M numbers, by T templates."""

    mean: Tensor  # (M,), of pieces at random places
    filters: Tensor  # (T, M), of `filters_of`
    cluster: Tensor  # (T,), int64

    def of(self, pieces: Pieces, at: Places) -> Tensor:
        """The cluster of the template with the most evidence at each of m places, (m,)."""
        filters = self.filters.unflatten(1, (-1, 2 * pieces.reach, 2 * pieces.reach))
        of_mean = (self.filters @ self.mean)[:, None, None]
        best = [torch.zeros(0, dtype=torch.int64)]
        for some in torch.arange(len(at[0])).split(AT_ONCE):
            squares = pieces.squares((at[0][some], at[1][some], at[2][some]))
            values = functional.conv2d(squares, filters) - of_mean
            best.append(values.amax((2, 3)).argmax(1))  # increases with the evidence
        return self.cluster[torch.cat(best)]


def filters_of(templates: Tensor, precision: Tensor) -> Tensor:
    """Σ⁻¹t / √(tᵀΣ⁻¹t) for templates t (T, M) and precision Σ⁻¹ (M, M)."""
    filters = templates @ precision
    length = (filters * templates).sum(1, keepdim=True)
    return filters / length.clamp_min(torch.finfo(length.dtype).tiny).sqrt()


def evidence(pieces: Tensor, filters: Tensor) -> Tensor:
    """The evidence of pieces (…, M), less their mean at random places, for templates with filters (T, M): (…, T)."""
    return (pieces @ filters.T).clamp_min(0).square() / 2


def find_patterns(pieces: Pieces, at: Places, most: int, generator: torch.Generator) -> Patterns:
    """At most `most` clusters of the pieces at m ≥ 1 places, on the CPU."""
    image, row, column = (torch.randint(stop, (CLUTTER,), generator=generator) for stop in pieces.grid)
    crop = slice(pieces.margin, -pieces.margin)
    clutter = pieces.squares((image, row, column))[:, :, crop, crop].flatten(1)
    mean, covariance = clutter.mean(0), torch.cov(clutter.T)
    ridge = RIDGE * covariance.diagonal().mean() + 1e-6  # more than 0 for images of one colour
    precision = torch.linalg.inv(covariance + ridge * torch.eye(len(mean)))
    some = torch.randperm(len(at[0]), generator=generator)[: VIEWS // (2 * pieces.margin + 1) ** 2]
    views = pieces.views((at[0][some], at[1][some], at[2][some])) - mean
    most = max(1, min(most, len(views) // FEWEST))
    templates = spread_templates(views, precision, FIRST * most, generator)
    for _ in range(ROUNDS):
        templates, need = improved(views, templates, precision)
    while len(templates) > SECOND * most:
        kept = max(SECOND * most, len(templates) - math.ceil(LEFT_OUT * len(templates)))
        templates, need = improved(views, templates[need.topk(kept).indices], precision)
    for _ in range(ROUNDS):
        templates, need = improved(views, templates, precision)
    templates = templates[need > 0]
    alike, sizes = exchangeability(views, templates, precision, pieces.reach)
    return Patterns(mean, filters_of(templates, precision), merged(alike, sizes, most))


def spread_templates(views: Tensor, precision: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Unshifted pieces of views (m, S, M) as the first templates, (count, M), as in k-means++.

    Each is drawn with a probability that is proportional to what those before it do not explain.
    """
    unshifted = views[:, views.shape[1] // 2]
    all_there_is = ((unshifted @ precision) * unshifted).sum(1) / 2
    explained, templates = torch.zeros_like(all_there_is), unshifted[:0]
    for _ in range(count):
        left = (all_there_is - explained).clamp_min(1e-6)
        new = unshifted[torch.multinomial(left, 1, generator=generator)]
        templates = torch.cat([templates, new])
        explained = torch.maximum(explained, evidence(views, filters_of(new, precision)).amax((1, 2)))
    return templates


def improved(views: Tensor, templates: Tensor, precision: Tensor) -> tuple[Tensor, Tensor]:
    """Templates (T, M) as means of the pieces that each explains best, of views (m, S, M), each with its best shift.

    Also how much evidence would be lost without each of them, (T,), which is 0 for one that explains no piece best.
    """
    value = evidence(views, filters_of(templates, precision))  # (m, S, T)
    index = value.flatten(1).argmax(1)
    template, shift = index % len(templates), index // len(templates)
    shown = views[torch.arange(len(views)), shift]
    sums = torch.zeros_like(templates).index_add_(0, template, shown)
    sizes = torch.bincount(template, minlength=len(templates))[:, None]
    best = value.amax(1).topk(min(2, len(templates)), 1).values
    # Of two equal templates neither is needed, but both explain some pieces.
    loss = best[:, 0] - best[:, -1] + torch.finfo(best.dtype).eps * best[:, 0] + torch.finfo(best.dtype).tiny
    need = torch.zeros(len(templates)).index_add_(0, template, loss)
    return torch.where(sizes > 0, sums / sizes.clamp(min=1), templates), need


def turned(templates: Tensor, reach: int, angle: float, zoom: float) -> Tensor:
    """Templates (T, M), squares of 2 · reach pixels, turned by an angle in degrees and resized, with 0 around them."""
    cosine, sine = math.cos(math.radians(angle)) / zoom, math.sin(math.radians(angle)) / zoom
    matrix = torch.tensor([[cosine, -sine, 0.0], [sine, cosine, 0.0]]).expand(len(templates), 2, 3)
    pictures = templates.unflatten(1, (-1, 2 * reach, 2 * reach))
    grid = functional.affine_grid(matrix, list(pictures.shape), align_corners=False)
    return functional.grid_sample(pictures, grid, align_corners=False).flatten(1)


def exchangeability(views: Tensor, templates: Tensor, precision: Tensor, reach: int) -> tuple[Tensor, Tensor]:
    """How well templates explain each other's pieces, if they are turned or resized a little: (T, T), about 0 to 1.

    Defined in reference/patterns.py. Also the number of pieces of views (m, S, M) that each explains best, (T,).
    """
    cluster = evidence(views, filters_of(templates, precision)).amax(1).argmax(1)
    value = views.new_zeros(len(views), len(templates))
    for angle, zoom in itertools.product(ANGLES, ZOOMS):
        filters = filters_of(turned(templates, reach, angle, zoom), precision)
        value = torch.maximum(value, evidence(views, filters).amax(1))
    sizes = torch.bincount(cluster, minlength=len(templates)).float()
    mean = torch.zeros(len(templates), len(templates)).index_add_(0, cluster, value) / sizes.clamp_min(1)[:, None]
    ratio = mean / mean.diagonal().clamp_min(torch.finfo(mean.dtype).tiny)[:, None]
    return torch.minimum(ratio, ratio.T), sizes


def merged(alike: Tensor, sizes: Tensor, most: int) -> Tensor:
    """Numbers from 0 of the clusters of templates, (T,), by average linkage: the two most exchangeable merge first.

    Ends when no two clusters are EXCHANGEABLE and there are at most `most`. alike: (T, T), symmetric, at least 0;
    sizes: (T,), at least 0.
    """
    alike, sizes, cluster, count = alike.clone(), sizes.clone(), torch.arange(len(sizes)), len(sizes)
    alike.fill_diagonal_(-1.0)  # as every pair that is none
    while count > 1 and alike.max() >= (0 if count > most else EXCHANGEABLE):
        one, other = divmod(int(alike.argmax()), len(alike))
        weight = sizes[[one, other]].clamp_min(torch.finfo(sizes.dtype).tiny)
        mean = (weight @ alike[[one, other]]) / weight.sum()
        alike[one] = alike[:, one] = torch.where(alike[one] < 0, -1.0, mean)
        alike[other] = alike[:, other] = -1.0
        sizes[one] += sizes[other]
        cluster[cluster == other] = one
        count -= 1
    return cluster.unique(return_inverse=True)[1]
