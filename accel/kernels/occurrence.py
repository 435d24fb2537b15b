"""Both distributions of reference/occurrence.py as device functions, on tiles (cells, parts).

A Bernoulli part depends only on its own logit. A categorical cell couples its parts, but only through sums:
`cell_kernel` reads the logits once and writes a few statistics per cell, from which every kernel computes p and y of
its parts, and `couple_kernel` completes the backward pass with sums over the parts of a cell.
"""

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from accel.common.bottleneck import BottleneckOptions

from .noise import drawing_kernel, gumbel_noise, logistic_noise, read
from .tiles import (
    exponential,
    index_type,
    layouts,
    load_map,
    log_one_plus,
    reciprocal,
    sigmoid_and_slope,
    store_map,
)

LARGEST = tl.constexpr(1e38)  # what an infinite logit counts as: 0 · log 0 is then 0, and ∞ − ∞ of equals, too
# Rows of a categorical cell's statistics (B, CELL_STATISTICS, L). All are relative to the largest logit, since
# differences of logits stay exact where the logits themselves are large.
PEAK = tl.constexpr(0)  # the largest of its logits and 0, the logit of "none"
LOG_TOTAL = tl.constexpr(1)  # log Σ exp(a − peak) over parts and "none"
TOP = tl.constexpr(2)  # the largest of a − peak + g
LOG_RELAXED = tl.constexpr(3)  # log Σ exp((a − peak + g − top) / τ)
WINNER = tl.constexpr(4)  # the part with the largest, N for "none"
CELL_STATISTICS = tl.constexpr(5)
# Arguments of kernels without sampling; bottleneck.py makes those with sampling.
NO_DRAW = {"seed": None, "step": None, "first_image": None, "temperature": None, "SAMPLE": False}


@triton.jit
def read_draw(image, seed, step, first_image, temperature, SAMPLE: tl.constexpr):
    """The arguments of sampling for this image: (seed, step, index in the global batch, 1/τ)."""
    draw = (0, 0, image, 1.0)  # unused, but older compilers cannot return None
    if SAMPLE:
        draw = (read(seed), read(step), read(first_image) + image, 1.0 / read(temperature))
    return draw


@triton.jit
def load_logits(logits, image, cells, parts, inside, LAYOUTS: tl.constexpr):
    """A tile of one image's logits, of which none is infinite; LAYOUTS begins with theirs."""
    logit = load_map(logits, image, cells, parts, inside, LAYOUTS, 0)
    return tl.clamp(logit, -LARGEST, LARGEST, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def of_finite(gradient, logit):
    """0 for infinite logits, which no finite step changes."""
    return tl.where(tl.abs(logit) >= LARGEST, 0.0, gradient)


@triton.jit
def load_cells(statistics, image, cells, L: tl.constexpr, CATEGORICAL: tl.constexpr, SAMPLE: tl.constexpr):
    """The statistics of these cells, each (cells, 1); empty for Bernoulli occurrences."""
    result = None
    if CATEGORICAL:
        statistics += image * (CELL_STATISTICS * L)
        peak = tl.load(statistics + PEAK * L + cells, mask=cells < L, other=0.0)[:, None]
        log_total = tl.load(statistics + LOG_TOTAL * L + cells, mask=cells < L, other=0.0)[:, None]
        result = (peak, log_total)
        if SAMPLE:
            top = tl.load(statistics + TOP * L + cells, mask=cells < L, other=0.0)[:, None]
            log_relaxed = tl.load(statistics + LOG_RELAXED * L + cells, mask=cells < L, other=0.0)[:, None]
            winner = tl.load(statistics + WINNER * L + cells, mask=cells < L, other=0.0)[:, None]
            result = (peak, log_total, top, log_relaxed, winner)
    return result


@triton.jit
def log_probability(logit, cell):
    """log p of categorical cells."""
    return logit - cell[PEAK] - cell[LOG_TOTAL]


@triton.jit
def weight_terms(logit, cell, peak, CATEGORICAL: tl.constexpr):
    """(e, f) with p = exp(peak + e) f and f in [1/2, 1]. As σ(a) = exp(min(a, 0)) / (1 + exp(−|a|)), no logarithm."""
    if CATEGORICAL:
        exponent, factor = log_probability(logit, cell), 1.0
    else:
        exponent, factor = tl.minimum(logit, 0.0), reciprocal(1.0 + exponential(-tl.abs(logit)))
    return exponent - peak, factor


@triton.jit
def sample_occurrence(
    logit,
    cell,
    start,
    parts,
    L: tl.constexpr,
    draw,
    CATEGORICAL: tl.constexpr,
    SAMPLE: tl.constexpr,
    HARD: tl.constexpr,
):
    """y in the cells beginning with start, and the slope of the relaxed sample (or p) in its logit.

    Bernoulli: dy/da. Categorical: y/τ (or p), since d_a_n = y_n/τ (d_y_n − Σ_k y_k d_y_k).
    """
    if CATEGORICAL:
        if SAMPLE:
            argument = logit - cell[PEAK] + gumbel_noise(start, logit.shape[0], parts, L, draw)
            # Positive only by rounding, and in cells outside of the grid, whose y must be finite.
            y = exponential(tl.minimum((argument - cell[TOP]) * draw[3] - cell[LOG_RELAXED], 0.0))
            slope = y * draw[3]
            if HARD:
                y = (parts[None, :] == cell[WINNER].to(tl.int32)).to(tl.float32)
        else:
            y = exponential(log_probability(logit, cell))
            slope = y
    elif SAMPLE:
        argument = logit + logistic_noise(start, logit.shape[0], parts, L, draw)
        y, slope = sigmoid_and_slope(argument * draw[3])
        slope *= draw[3]
        if HARD:
            y = (argument > 0.0).to(tl.float32)
    else:
        y, slope = sigmoid_and_slope(logit)
    return y, slope


@triton.jit
def divergence(logit, cell, parts, prior, CATEGORICAL: tl.constexpr):
    """Terms of KL_occ, to be summed over cells and parts; prior = (log π, logarithm of the remaining probability).

    The term of the first part includes that of "none".
    """
    if CATEGORICAL:
        log_p = log_probability(logit, cell)
        log_none = -cell[PEAK] - cell[LOG_TOTAL]
        terms = exponential(log_p) * (log_p - prior[0])
        terms += tl.where(parts[None, :] == 0, exponential(log_none) * (log_none - prior[1]), 0.0)
    else:
        # log σ(a) = min(a, 0) − log(1 + exp(−|a|)), and log σ(−a) likewise: their difference, a, would cancel.
        both = log_one_plus(exponential(-tl.abs(logit)))
        p, _ = sigmoid_and_slope(logit)
        not_p, _ = sigmoid_and_slope(-logit)
        terms = p * (tl.minimum(logit, 0.0) - both - prior[0]) + not_p * (tl.minimum(-logit, 0.0) - both - prior[1])
    return terms


@triton.jit
def bernoulli_gradient(logit, slope, d_y, d_log_p, d_divergence, prior):
    """d_a of a Bernoulli part, from the derivatives with respect to y, log p and KL_occ."""
    _, p_slope = sigmoid_and_slope(logit)
    not_p, _ = sigmoid_and_slope(-logit)
    gradient = d_y * slope + d_divergence * p_slope * (logit - (prior[0] - prior[1])) + not_p * d_log_p
    return of_finite(gradient, logit)


@triton.jit
def cell_block(SHAPE: tl.constexpr, BLOCKS: tl.constexpr, INDEX: tl.constexpr):
    """This program's image, first cell and cells."""
    CELL_BLOCKS: tl.constexpr = (SHAPE[1] + BLOCKS[0] - 1) // BLOCKS[0]
    start = tl.program_id(0) % CELL_BLOCKS * BLOCKS[0]
    return (tl.program_id(0) // CELL_BLOCKS).to(tl.int64), start, (start + tl.arange(0, BLOCKS[0])).to(INDEX)


@triton.jit
def part_block(first, cells, SHAPE: tl.constexpr, BLOCKS: tl.constexpr, INDEX: tl.constexpr):
    """The parts beginning with the first, and the mask of (cell, part)."""
    parts = (first + tl.arange(0, BLOCKS[1])).to(INDEX)
    return parts, (cells < SHAPE[1])[:, None] & (parts < SHAPE[0])[None, :]


@drawing_kernel
def cell_kernel(
    logits,
    statistics,  # (B, CELL_STATISTICS, L); the last three are 0 unless SAMPLE
    seed,
    step,
    first_image,
    temperature,
    SAMPLE: tl.constexpr,
    LAYOUTS: tl.constexpr,
    SHAPE: tl.constexpr,  # N, L
    BLOCKS: tl.constexpr,  # cells, parts
    INDEX: tl.constexpr,
):
    """The statistics of categorical cells. Parts that exceed one block take two passes, the second from the cache."""
    N: tl.constexpr = SHAPE[0]
    L: tl.constexpr = SHAPE[1]
    image, start, cells = cell_block(SHAPE, BLOCKS, INDEX)
    largest = tl.zeros(BLOCKS, tl.float32)
    for first in range(0, N, BLOCKS[1]):
        parts, inside = part_block(first, cells, SHAPE, BLOCKS, INDEX)
        largest = tl.maximum(largest, load_logits(logits, image, cells, parts, inside, LAYOUTS))
    peak = tl.max(largest, axis=1)

    draw = read_draw(image, seed, step, first_image, temperature, SAMPLE)
    none = -peak[:, None]
    total = tl.zeros(BLOCKS, tl.float32)
    if SAMPLE:
        none_argument = none + gumbel_noise(start, BLOCKS[0], tl.full([1], N, INDEX), L, draw)
        # Each column of the tile keeps its largest argument so far, and its sum relative to that.
        top = tl.zeros(BLOCKS, tl.float32) + none_argument
        relaxed = tl.zeros(BLOCKS, tl.float32)
        winner = tl.full(BLOCKS, N, tl.int32)
    for first in range(0, N, BLOCKS[1]):
        parts, inside = part_block(first, cells, SHAPE, BLOCKS, INDEX)
        logit = load_logits(logits, image, cells, parts, inside, LAYOUTS) - peak[:, None]
        total += tl.where(inside, exponential(logit), 0.0)
        if SAMPLE:
            argument = tl.where(inside, logit + gumbel_noise(start, BLOCKS[0], parts, L, draw), float("-inf"))
            winner = tl.where(argument > top, parts[None, :], winner).to(tl.int32)
            taller = tl.maximum(top, argument)
            relaxed = relaxed * exponential((top - taller) * draw[3]) + exponential((argument - taller) * draw[3])
            top = taller

    statistics += image * (CELL_STATISTICS * L) + cells
    exists = cells < L
    tl.store(statistics + PEAK * L, peak, mask=exists)
    tl.store(statistics + LOG_TOTAL * L, tl.log(tl.sum(total, axis=1) + tl.exp(-peak)), mask=exists)
    tallest = tl.zeros_like(peak)
    log_relaxed = tl.zeros_like(peak)
    first_winner = tl.zeros_like(peak)
    if SAMPLE:
        tallest = tl.max(top, axis=1)
        sums = tl.sum(relaxed * exponential((top - tallest[:, None]) * draw[3]), axis=1)
        log_relaxed = tl.log(sums + tl.exp((tl.max(none_argument, axis=1) - tallest) * draw[3]))
        # Ties go to the first part, and to "none" before parts.
        first_winner = tl.min(tl.where(top == tallest[:, None], winner, N), axis=1).to(tl.float32)
    tl.store(statistics + TOP * L, tallest, mask=exists)
    tl.store(statistics + LOG_RELAXED * L, log_relaxed, mask=exists)
    tl.store(statistics + WINNER * L, first_winner, mask=exists)


@triton.jit
def coupled_terms(
    logits, d_y, d_log_p, image, start, cells, parts, inside, cell, draw, prior,
    CATEGORIES: tl.constexpr, SAMPLE: tl.constexpr, LAYOUTS: tl.constexpr, L: tl.constexpr,
):  # fmt: skip
    """Of each part: what answers to its sample, slope and d_y, its d_log p, its p and log p − log π, and its logit."""
    logit = load_logits(logits, image, cells, parts, inside, LAYOUTS)
    log_p = log_probability(logit, cell)
    p = tl.where(inside, exponential(log_p), 0.0)
    slope, sample_gradient, weight_gradient = p, tl.zeros_like(p), tl.zeros_like(p)
    place = (image * CATEGORIES + parts)[None, :] * L + cells[:, None]
    if d_y is not None:
        sample_gradient += tl.load(d_y + place, mask=inside, other=0.0)
        _, slope = sample_occurrence(logit, cell, start, parts, L, draw, True, SAMPLE, False)
        slope = tl.where(inside, slope, 0.0)
    if d_log_p is not None:
        weight_gradient += tl.load(d_log_p + place, mask=inside, other=0.0)
    return slope, sample_gradient, weight_gradient, p, log_p - prior[0], logit


@drawing_kernel
def couple_kernel(
    logits,
    statistics,
    d_y,  # (B, N, L) float32, or None
    d_log_p,  # through the pooling weights, (B, N, L) float32, or None
    d_divergence,  # (B,), or None
    d_logits,  # output
    seed,
    step,
    first_image,
    temperature,
    prior,  # log π, log(1 − N·π)
    SAMPLE: tl.constexpr,
    LAYOUTS: tl.constexpr,  # of logits and d_logits; the last is d_divergence's stride
    SHAPE: tl.constexpr,
    BLOCKS: tl.constexpr,
    INDEX: tl.constexpr,
):
    """d_a of categorical cells, with r = log p − log π and sums over the parts of a cell:

        d_a_n = y_n/τ (d_y_n − Σ_k y_k d_y_k) + d_log p_n − p_n Σ_k d_log p_k + d_KL p_n (r_n − Σ_k p_k r_k)

    The last sum includes "none"; it is the divergence of the cell.
    """
    N: tl.constexpr = SHAPE[0]
    L: tl.constexpr = SHAPE[1]
    image, start, cells = cell_block(SHAPE, BLOCKS, INDEX)
    cell = load_cells(statistics, image, cells, L, True, SAMPLE)
    draw = read_draw(image, seed, step, first_image, temperature, SAMPLE)
    d_kl = 0.0
    if d_divergence is not None:
        d_kl = tl.load(d_divergence + image * LAYOUTS[2]).to(tl.float32)
    sample_sum = tl.zeros(BLOCKS, tl.float32)
    weight_sum = tl.zeros(BLOCKS, tl.float32)
    kl_sum = tl.zeros(BLOCKS, tl.float32)
    for first in range(0, N, BLOCKS[1]):
        parts, inside = part_block(first, cells, SHAPE, BLOCKS, INDEX)
        slope, sample_gradient, weight_gradient, p, ratio, _ = coupled_terms(
            logits, d_y, d_log_p, image, start, cells, parts, inside, cell, draw, prior, N, SAMPLE, LAYOUTS, L
        )
        sample_sum += slope * sample_gradient
        weight_sum += weight_gradient
        kl_sum += p * tl.where(inside, ratio, 0.0)
    log_none = -cell[PEAK] - cell[LOG_TOTAL]
    kl = tl.sum(kl_sum, axis=1)[:, None] + exponential(log_none) * (log_none - prior[1])
    # y = slope · τ
    sample_mean = tl.sum(sample_sum, axis=1)[:, None] / draw[3]
    weight_sum = tl.sum(weight_sum, axis=1)[:, None]
    for first in range(0, N, BLOCKS[1]):
        parts, inside = part_block(first, cells, SHAPE, BLOCKS, INDEX)
        slope, sample_gradient, weight_gradient, p, ratio, logit = coupled_terms(
            logits, d_y, d_log_p, image, start, cells, parts, inside, cell, draw, prior, N, SAMPLE, LAYOUTS, L
        )
        d_logit = slope * (sample_gradient - sample_mean) + weight_gradient - p * weight_sum
        d_logit += d_kl * p * (ratio - kl)
        store_map(d_logits, of_finite(d_logit, logit), image, cells, parts, inside, LAYOUTS, 1)


# Launchers


@cache
def tiles(parts: int, cells: int):
    """(cells, parts) of a tile of up to 2048, its warps, and programs per image: all parts of a cell if they fit."""
    block_parts = min(triton.next_power_of_2(parts), 256)
    block_cells = min(triton.next_power_of_2(cells), max(4, 2048 // block_parts))
    warps = max(1, min(8, block_cells * block_parts // 256))
    return (block_cells, block_parts), warps, triton.cdiv(cells, block_cells)


def launch(kernel, logits: Tensor, map_layouts: tuple, draw: dict, *, strides: tuple = (), **tensors):
    """Launches a kernel whose programs compute all parts of some cells; draw: arguments of sampling, or NO_DRAW."""
    images, parts, height, width = logits.shape
    blocks, warps, cell_blocks = tiles(parts, height * width)
    kernel[(images * cell_blocks,)](
        logits=logits,
        **tensors,
        **draw,
        LAYOUTS=(*map_layouts, *strides),
        SHAPE=(parts, height * width),
        BLOCKS=blocks,
        INDEX=index_type(parts, height, map_layouts),
        num_warps=warps,
    )


def fill_cell_statistics(logits: Tensor, draw: dict, statistics: Tensor):
    """Fills the statistics (B, CELL_STATISTICS, L) of categorical cells."""
    launch(cell_kernel, logits, layouts(logits), draw, statistics=statistics)


def new_cell_statistics(logits: Tensor, options: BottleneckOptions) -> Tensor | None:
    """The statistics of categorical cells without sampling; None for Bernoulli occurrences."""
    if options.occurrence != "categorical":
        return None
    images, _, height, width = logits.shape
    statistics = torch.empty(images, CELL_STATISTICS.value, height * width, dtype=torch.float32, device=logits.device)
    fill_cell_statistics(logits, NO_DRAW, statistics)
    return statistics


def couple(
    logits: Tensor,
    statistics: Tensor,
    d_y: Tensor | None,
    d_log_p: Tensor | None,
    d_divergence: Tensor | None,
    prior: tuple[float, float],
    draw: dict,
    d_logits: Tensor,
):
    """Fills d_logits (B, N, h, w); see couple_kernel."""
    launch(
        couple_kernel,
        logits,
        layouts(logits, d_logits),
        draw,
        strides=(None if d_divergence is None else d_divergence.stride(0),),
        statistics=statistics,
        d_y=d_y,
        d_log_p=d_log_p,
        d_divergence=d_divergence,
        d_logits=d_logits,
        prior=prior,
    )
