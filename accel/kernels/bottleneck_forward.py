"""The forward pass of the bottleneck as one kernel. The equations are in reference/bottleneck.py.

A program computes some parts of one image and iterates over the grid in blocks of cells. Its tiles are (cells, parts,
numbers): in contiguous maps, cells are adjacent in memory; in channels-last maps, numbers and then parts. Triton
chooses the layout of threads accordingly, so one source serves both. `tile` is the result of part_tile: the program's
image, its parts, the channels of their numbers, and masks for both.
"""

import triton
import triton.language as tl

from .noise import drawing_kernel, normal_noise
from .occurrence import divergence, load_cells, load_logits, read_draw, sample_occurrence, weight_terms
from .tiles import (
    CODE,
    LOG_VARIANCE,
    LOGITS,
    MEAN,
    cell_tile,
    exponential,
    folded,
    load_numbers,
    number_tile,
    part_tile,
    store_numbers,
)

NOTHING = tl.constexpr(float("-inf"))  # as a logit or a log-variance: stands for weight 0
LOWEST = tl.constexpr(-1e38)  # below the sum of a log-weight and a log-variance, and finite: no difference is NaN


@triton.jit
def largest_exponent(
    maps, statistics, tile,
    CATEGORICAL: tl.constexpr, LAYOUTS: tl.constexpr, L: tl.constexpr, BLOCKS: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """The largest exponent of weight_terms over the cells of each part, to which weights are relative."""
    BLOCK_N: tl.constexpr = BLOCKS[0]
    BLOCK_L: tl.constexpr = BLOCKS[2]
    image, parts, _channels, part_inside, inside = tile
    largest = tl.full([BLOCK_L, BLOCK_N], NOTHING, tl.float32)
    for start in range(0, L, BLOCK_L):
        cells, cell_inside, _ = cell_tile(start, L, BLOCK_L, part_inside, inside, INDEX)
        logit = load_logits(maps[LOGITS], image, cells, parts, cell_inside, LAYOUTS)
        cell = load_cells(statistics, image, cells, L, CATEGORICAL, False)
        exponent, _ = weight_terms(logit, cell, 0.0, CATEGORICAL)
        largest = tl.maximum(largest, tl.where((cells < L)[:, None], exponent, NOTHING))
    return tl.max(largest, axis=0)


@triton.jit
def relative_weights(
    maps, statistics, image, cells, parts, cell_inside, peak,
    CATEGORICAL: tl.constexpr, LAYOUTS: tl.constexpr, L: tl.constexpr,
):  # fmt: skip
    """p_l / exp(peak), 0 outside the grid, and weight_terms relative to the peak."""
    logit = load_logits(maps[LOGITS], image, cells, parts, cell_inside, LAYOUTS)
    cell = load_cells(statistics, image, cells, L, CATEGORICAL, False)
    exponent, factor = weight_terms(logit, cell, peak[None, :], CATEGORICAL)
    return tl.where((cells < L)[:, None], exponential(exponent) * factor, 0.0), exponent, factor


@triton.jit
def pool_geometric(
    maps, statistics, tile, peak,
    CATEGORICAL: tl.constexpr, LAYOUTS: tl.constexpr, L: tl.constexpr, BLOCKS: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """m = Σ w μ, log v = Σ w s, and the sum of the relative weights."""
    BLOCK_N: tl.constexpr = BLOCKS[0]
    BLOCK_D: tl.constexpr = BLOCKS[1]
    BLOCK_L: tl.constexpr = BLOCKS[2]
    FOLD: tl.constexpr = BLOCKS[3]
    image, parts, channels, part_inside, inside = tile
    weight_sum = tl.zeros([BLOCK_L // FOLD, BLOCK_N], tl.float32)
    mean_sum = tl.zeros([BLOCK_L // FOLD, BLOCK_N, BLOCK_D], tl.float32)
    spread_sum = tl.zeros([BLOCK_L // FOLD, BLOCK_N, BLOCK_D], tl.float32)
    for start in range(0, L, BLOCK_L):
        cells, cell_inside, map_inside = cell_tile(start, L, BLOCK_L, part_inside, inside, INDEX)
        mean = load_numbers(maps, MEAN, image, cells, channels, map_inside, LAYOUTS, BLOCKS)
        # In contiguous maps a thread has so many numbers that both maps at once would take most of its registers.
        if BLOCKS[4]:
            spread = load_numbers(maps, LOG_VARIANCE, image, cells, channels, map_inside, LAYOUTS, BLOCKS)
        weight, _, _ = relative_weights(
            maps, statistics, image, cells, parts, cell_inside, peak, CATEGORICAL, LAYOUTS, L
        )
        weight_sum += folded(weight, FOLD)
        mean_sum += folded(weight[:, :, None] * mean, FOLD)
        if not BLOCKS[4]:
            spread = load_numbers(maps, LOG_VARIANCE, image, cells, channels, map_inside, LAYOUTS, BLOCKS)
        spread_sum += folded(weight[:, :, None] * spread, FOLD)
    total = tl.sum(weight_sum, axis=0)
    share = (1.0 / total)[:, None]
    return tl.sum(mean_sum, axis=0) * share, tl.sum(spread_sum, axis=0) * share, total


@triton.jit
def pool_arithmetic(
    maps, statistics, tile, peak,
    CATEGORICAL: tl.constexpr, LAYOUTS: tl.constexpr, L: tl.constexpr, BLOCKS: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """m = Σ w μ, log v = log Σ w exp(s), and the sum of the relative weights.

    w exp(s) is relative to the largest so far, so that it neither overflows nor underflows, even where w does.
    """
    BLOCK_N: tl.constexpr = BLOCKS[0]
    BLOCK_D: tl.constexpr = BLOCKS[1]
    BLOCK_L: tl.constexpr = BLOCKS[2]
    FOLD: tl.constexpr = BLOCKS[3]
    image, parts, channels, part_inside, inside = tile
    weight_sum = tl.zeros([BLOCK_L // FOLD, BLOCK_N], tl.float32)
    mean_sum = tl.zeros([BLOCK_L // FOLD, BLOCK_N, BLOCK_D], tl.float32)
    spread_sum = tl.zeros([BLOCK_L // FOLD, BLOCK_N, BLOCK_D], tl.float32)
    tallest = tl.full([BLOCK_L // FOLD, BLOCK_N, BLOCK_D], LOWEST, tl.float32)
    for start in range(0, L, BLOCK_L):
        cells, cell_inside, map_inside = cell_tile(start, L, BLOCK_L, part_inside, inside, INDEX)
        mean = load_numbers(maps, MEAN, image, cells, channels, map_inside, LAYOUTS, BLOCKS)
        spread = load_numbers(maps, LOG_VARIANCE, image, cells, channels, map_inside, LAYOUTS, BLOCKS, NOTHING)
        weight, exponent, factor = relative_weights(
            maps, statistics, image, cells, parts, cell_inside, peak, CATEGORICAL, LAYOUTS, L
        )
        if not CATEGORICAL:
            exponent += tl.log(factor)
        terms = tl.reshape(exponent[:, :, None] + spread, (BLOCK_L // FOLD, FOLD, BLOCK_N, BLOCK_D))
        taller = tl.maximum(tallest, tl.max(terms, axis=1))
        spread_sum = spread_sum * exponential(tallest - taller) + tl.sum(exponential(terms - taller[:, None]), axis=1)
        tallest = taller
        weight_sum += folded(weight, FOLD)
        mean_sum += folded(weight[:, :, None] * mean, FOLD)
    top = tl.max(tallest, axis=0)
    spread_sum *= exponential(tallest - top[None, :, :])
    total = tl.sum(weight_sum, axis=0)
    share = (1.0 / total)[:, None]
    return tl.sum(mean_sum, axis=0) * share, top + tl.log(tl.sum(spread_sum, axis=0) * share), total


@drawing_kernel
def forward_kernel(
    maps,  # a (B, N, h, w); μ, s and the code (B, N·D, h, w)
    statistics,  # for categorical cells, else None
    moments,  # m and v (B, N, D)
    saved,  # for backward (B, N, 2·D + 2): log v, z, and, unless POOLED, peak and sum of relative weights
    divergences,  # KL_app and KL_occ (B, part blocks)
    seed,
    step,
    first_image,
    temperature,
    prior,  # log π, and the logarithm of the remaining probability
    prior_mean,  # c of the appearances' prior N(c, 1)
    POOLED: tl.constexpr,  # reads m and log v (B, N, D) instead of μ and s
    ARITHMETIC: tl.constexpr,
    CATEGORICAL: tl.constexpr,
    SAMPLE: tl.constexpr,
    HARD: tl.constexpr,
    LAYOUTS: tl.constexpr,  # of the maps
    SHAPE: tl.constexpr,  # N, D, L
    BLOCKS: tl.constexpr,  # parts, numbers, cells, adjacent cells summed first, and whether channels are adjacent
    INDEX: tl.constexpr,
):
    """Pooling, sampling, code and divergences: reads a, μ and s once, writes the code once.

    If cells do not fit into one block, there are three passes over them: for the largest log p, for pooling, and for
    the code. The later passes find the logits in the cache.
    """
    N: tl.constexpr = SHAPE[0]
    D: tl.constexpr = SHAPE[1]
    L: tl.constexpr = SHAPE[2]
    BLOCK_N: tl.constexpr = BLOCKS[0]
    BLOCK_D: tl.constexpr = BLOCKS[1]
    BLOCK_L: tl.constexpr = BLOCKS[2]
    SAVED: tl.constexpr = 2 * D if POOLED else 2 * D + 2
    tile = part_tile(N, D, BLOCKS, INDEX)
    image, parts, channels, part_inside, inside = tile
    numbers, number_inside = number_tile(parts, N, D, BLOCK_D)
    first_number = image * (N * D)
    pooled_numbers = parts[:, None] * D + numbers
    saved += image * (N * SAVED)
    saved_numbers = parts[:, None] * SAVED + numbers

    if POOLED:
        mean = tl.load(maps[MEAN] + first_number + pooled_numbers, mask=number_inside, other=0.0)
        log_variance = tl.load(maps[LOG_VARIANCE] + first_number + pooled_numbers, mask=number_inside, other=0.0)
    else:
        peak = largest_exponent(maps, statistics, tile, CATEGORICAL, LAYOUTS, L, BLOCKS, INDEX)
        if ARITHMETIC:
            mean, log_variance, total = pool_arithmetic(
                maps, statistics, tile, peak, CATEGORICAL, LAYOUTS, L, BLOCKS, INDEX
            )
        else:
            mean, log_variance, total = pool_geometric(
                maps, statistics, tile, peak, CATEGORICAL, LAYOUTS, L, BLOCKS, INDEX
            )
        tl.store(saved + parts * SAVED + 2 * D, peak, mask=part_inside)
        tl.store(saved + parts * SAVED + 2 * D + 1, total, mask=part_inside)

    part_blocks: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    block = image * part_blocks + tl.program_id(0) % part_blocks
    variance, distance = tl.exp(log_variance), mean - prior_mean
    kl_appearance = tl.where(number_inside, 0.5 * (distance * distance + variance - 1.0 - log_variance), 0.0)
    tl.store(moments[0] + first_number + pooled_numbers, mean, mask=number_inside)
    tl.store(moments[1] + first_number + pooled_numbers, variance, mask=number_inside)
    tl.store(saved + saved_numbers, log_variance, mask=number_inside)
    tl.store(divergences[0] + block, tl.sum(tl.sum(kl_appearance, axis=1), axis=0))

    draw = read_draw(image, seed, step, first_image, temperature, SAMPLE)
    z = mean
    if SAMPLE:
        z += tl.exp(0.5 * log_variance) * normal_noise(parts, BLOCK_D, D, draw)
    tl.store(saved + saved_numbers + D, z, mask=number_inside)
    if SAMPLE:
        # Read back: otherwise each thread that writes a number would draw its noise again, if Triton does not
        # exchange it.
        tl.debug_barrier()
        z = tl.load(saved + saved_numbers + D, mask=number_inside, other=0.0)
    kl_occurrence = tl.zeros([BLOCK_L, BLOCK_N], tl.float32)
    for start in range(0, L, BLOCK_L):
        cells, cell_inside, map_inside = cell_tile(start, L, BLOCK_L, part_inside, inside, INDEX)
        logit = load_logits(maps[LOGITS], image, cells, parts, cell_inside, LAYOUTS)
        cell = load_cells(statistics, image, cells, L, CATEGORICAL, SAMPLE)
        y, _ = sample_occurrence(logit, cell, start, parts, L, draw, CATEGORICAL, SAMPLE, HARD)
        store_numbers(maps, CODE, z[None, :, :] * y[:, :, None], image, cells, channels, map_inside, LAYOUTS, BLOCKS)
        kl_occurrence += tl.where(cell_inside, divergence(logit, cell, parts, prior, CATEGORICAL), 0.0)
    tl.store(divergences[1] + block, tl.sum(tl.sum(kl_occurrence, axis=1), axis=0))
