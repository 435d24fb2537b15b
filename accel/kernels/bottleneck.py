"""The PatchVAE bottleneck, one kernel forward and one backward. The equations stand in reference/bottleneck.py.

A program owns some parts of one image and walks the grid in blocks of cells. Its tiles are (cells, parts, numbers): in
contiguous maps the cells are neighbours in memory, in channels-last maps the numbers and then the parts, and Triton
lays its threads out accordingly, so one source serves both.

Occurrence noise is drawn again wherever it is needed, by address, so nothing of a map's size is kept for the backward
pass but the inputs. Categorical occurrences add occurrence.py's two small kernels, one before each of these walks.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from accel.common.bottleneck import BottleneckOptions

from . import occurrence
from .noise import normal_noise
from .occurrence import (
    bernoulli_gradient,
    divergence,
    load_cells,
    log_probability,
    read_draw,
    sample_occurrence,
)
from .tiles import blocks, cell_tile, index_type, layouts, load_map, log_sigmoid, part_tile, store_map

NOTHING = tl.constexpr(float("-inf"))  # as a logit or a log-variance: the logarithm of no weight at all

# Places in a kernel's maps and in LAYOUTS.
LOGITS, MEAN, LOG_VARIANCE = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
CODE = tl.constexpr(3)  # backward: its gradient
D_LOGITS, D_MEAN, D_LOG_VARIANCE = tl.constexpr(4), tl.constexpr(5), tl.constexpr(6)
# Places in the incoming gradients; in LAYOUTS they follow the maps.
OF_MEAN, OF_VARIANCE = tl.constexpr(0), tl.constexpr(1)
OF_KL_APPEARANCE, OF_KL_OCCURRENCE = tl.constexpr(2), tl.constexpr(3)
INCOMING = tl.constexpr(7)


# Forward


@triton.jit
def largest_log_probability(
    maps, numbers, image, parts, part_inside, inside,
    CATEGORICAL: tl.constexpr, LAYOUTS: tl.constexpr, L: tl.constexpr, BLOCKS: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """max_l log p_l of each part, relative to which weights are formed."""
    BLOCK_N: tl.constexpr = BLOCKS[0]
    BLOCK_L: tl.constexpr = BLOCKS[2]
    largest = tl.full([BLOCK_L, BLOCK_N], NOTHING, tl.float32)
    for start in range(0, L, BLOCK_L):
        cells, cell_inside, _ = cell_tile(start, L, BLOCK_L, part_inside, inside, INDEX)
        value = load_map(maps[LOGITS], image, cells, parts, cell_inside, LAYOUTS, LOGITS)
        if CATEGORICAL:
            cell = load_cells(numbers, image, cells, L, CATEGORICAL, False)
            value = log_probability(value, cell, CATEGORICAL)
        largest = tl.maximum(largest, tl.where((cells < L)[:, None], value, NOTHING))
    peak = tl.max(largest, axis=0)
    # σ rises with its argument, so the largest logit has the largest log σ.
    return peak if CATEGORICAL else log_sigmoid(peak)


@triton.jit
def relative_weights(
    maps, numbers, image, cells, parts, cell_inside, peak,
    CATEGORICAL: tl.constexpr, LAYOUTS: tl.constexpr, L: tl.constexpr,
):  # fmt: skip
    """exp(log p_l − peak), 0 outside the grid."""
    logit = load_map(maps[LOGITS], image, cells, parts, cell_inside, LAYOUTS, LOGITS)
    cell = load_cells(numbers, image, cells, L, CATEGORICAL, False)
    return tl.where((cells < L)[:, None], tl.exp(log_probability(logit, cell, CATEGORICAL) - peak[None, :]), 0.0)


@triton.jit
def pool_geometric(
    maps, numbers, image, parts, channels, part_inside, inside, peak,
    CATEGORICAL: tl.constexpr, LAYOUTS: tl.constexpr, L: tl.constexpr, BLOCKS: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """m = Σ w μ, log v = Σ w s, and the sum of the relative weights."""
    BLOCK_N: tl.constexpr = BLOCKS[0]
    BLOCK_D: tl.constexpr = BLOCKS[1]
    BLOCK_L: tl.constexpr = BLOCKS[2]
    weight_sum = tl.zeros([BLOCK_L, BLOCK_N], tl.float32)
    mean_sum = tl.zeros([BLOCK_L, BLOCK_N, BLOCK_D], tl.float32)
    spread_sum = tl.zeros([BLOCK_L, BLOCK_N, BLOCK_D], tl.float32)
    for start in range(0, L, BLOCK_L):
        cells, cell_inside, map_inside = cell_tile(start, L, BLOCK_L, part_inside, inside, INDEX)
        mean = load_map(maps[MEAN], image, cells, channels, map_inside, LAYOUTS, MEAN)
        spread = load_map(maps[LOG_VARIANCE], image, cells, channels, map_inside, LAYOUTS, LOG_VARIANCE)
        weight = relative_weights(maps, numbers, image, cells, parts, cell_inside, peak, CATEGORICAL, LAYOUTS, L)
        weight_sum += weight
        mean_sum += weight[:, :, None] * mean
        spread_sum += weight[:, :, None] * spread
    total = tl.sum(weight_sum, axis=0)
    share = (1.0 / total)[:, None]
    return tl.sum(mean_sum, axis=0) * share, tl.sum(spread_sum, axis=0) * share, total


@triton.jit
def pool_arithmetic(
    maps, numbers, image, parts, channels, part_inside, inside, peak,
    CATEGORICAL: tl.constexpr, LAYOUTS: tl.constexpr, L: tl.constexpr, BLOCKS: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """m = Σ w μ, log v = log Σ w exp(s), and the sum of the relative weights.

    exp(s) is taken relative to the largest s so far, so that it neither overflows nor vanishes.
    """
    BLOCK_N: tl.constexpr = BLOCKS[0]
    BLOCK_D: tl.constexpr = BLOCKS[1]
    BLOCK_L: tl.constexpr = BLOCKS[2]
    weight_sum = tl.zeros([BLOCK_L, BLOCK_N], tl.float32)
    mean_sum = tl.zeros([BLOCK_L, BLOCK_N, BLOCK_D], tl.float32)
    spread_sum = tl.zeros([BLOCK_L, BLOCK_N, BLOCK_D], tl.float32)
    tallest = tl.full([BLOCK_L, BLOCK_N, BLOCK_D], NOTHING, tl.float32)
    if BLOCK_L >= L:
        # All cells at once: relative to the largest of all.
        cells, cell_inside, map_inside = cell_tile(0, L, BLOCK_L, part_inside, inside, INDEX)
        spread = load_map(maps[LOG_VARIANCE], image, cells, channels, map_inside, LAYOUTS, LOG_VARIANCE, NOTHING)
        top = tl.max(spread, axis=0)
    for start in range(0, L, BLOCK_L):
        cells, cell_inside, map_inside = cell_tile(start, L, BLOCK_L, part_inside, inside, INDEX)
        mean = load_map(maps[MEAN], image, cells, channels, map_inside, LAYOUTS, MEAN)
        spread = load_map(maps[LOG_VARIANCE], image, cells, channels, map_inside, LAYOUTS, LOG_VARIANCE, NOTHING)
        weight = relative_weights(maps, numbers, image, cells, parts, cell_inside, peak, CATEGORICAL, LAYOUTS, L)
        if BLOCK_L < L:
            taller = tl.maximum(tallest, spread)
            spread_sum *= tl.exp(tallest - taller)
            tallest = taller
            spread = tl.exp(spread - taller)
        else:
            spread = tl.exp(spread - top[None, :, :])
        weight_sum += weight
        mean_sum += weight[:, :, None] * mean
        spread_sum += weight[:, :, None] * spread
    if BLOCK_L < L:
        top = tl.max(tallest, axis=0)
        spread_sum *= tl.exp(tallest - top[None, :, :])
    total = tl.sum(weight_sum, axis=0)
    share = (1.0 / total)[:, None]
    return tl.sum(mean_sum, axis=0) * share, top + tl.log(tl.sum(spread_sum, axis=0) * share), total


@triton.jit(do_not_specialize=["seed", "step", "first_image"])
def forward_kernel(
    maps,  # a (B, N, h, w); μ, s and the code (B, N·D, h, w)
    numbers,  # of categorical cells, else None
    pooled,  # m and v (B, N, D)
    saved,  # for backward (B, N, 2·D + 2): log v, z, and unless POOLED the weights' largest log p and relative sum
    divergences,  # KL_app and KL_occ (B, part blocks)
    seed,
    step,
    first_image,
    temperature,
    prior,  # log π, and log of what it leaves for absence
    prior_mean,  # c of the appearances' prior N(c, 1)
    POOLED: tl.constexpr,  # m and log v (B, N, D) are read in place of μ and s
    ARITHMETIC: tl.constexpr,
    CATEGORICAL: tl.constexpr,
    SAMPLE: tl.constexpr,
    HARD: tl.constexpr,
    LAYOUTS: tl.constexpr,  # of the maps
    SHAPE: tl.constexpr,  # N, D, L
    BLOCKS: tl.constexpr,  # parts, numbers, cells
    INDEX: tl.constexpr,
):
    """Pool over the cells, sample, place and measure: reads a, μ and s once, writes the code once.

    Cells that do not fit one block are walked three times: for the largest log p, to pool, to place. The later walks
    find the logits in cache.
    """
    N: tl.constexpr = SHAPE[0]
    D: tl.constexpr = SHAPE[1]
    L: tl.constexpr = SHAPE[2]
    BLOCK_N: tl.constexpr = BLOCKS[0]
    BLOCK_D: tl.constexpr = BLOCKS[1]
    BLOCK_L: tl.constexpr = BLOCKS[2]
    SAVED: tl.constexpr = 2 * D if POOLED else 2 * D + 2
    image, parts, channels, part_inside, inside = part_tile(N, D, BLOCK_N, BLOCK_D, INDEX)
    first_number = image * (N * D)
    saved += image * (N * SAVED)
    saved_numbers = parts[:, None] * SAVED + tl.arange(0, BLOCK_D)[None, :]

    if POOLED:
        mean = tl.load(maps[MEAN] + first_number + channels, mask=inside, other=0.0)
        log_variance = tl.load(maps[LOG_VARIANCE] + first_number + channels, mask=inside, other=0.0)
    else:
        peak = largest_log_probability(
            maps, numbers, image, parts, part_inside, inside, CATEGORICAL, LAYOUTS, L, BLOCKS, INDEX
        )
        if ARITHMETIC:
            mean, log_variance, total = pool_arithmetic(
                maps, numbers, image, parts, channels, part_inside, inside, peak,
                CATEGORICAL, LAYOUTS, L, BLOCKS, INDEX,
            )  # fmt: skip
        else:
            mean, log_variance, total = pool_geometric(
                maps, numbers, image, parts, channels, part_inside, inside, peak,
                CATEGORICAL, LAYOUTS, L, BLOCKS, INDEX,
            )  # fmt: skip
        tl.store(saved + parts * SAVED + 2 * D, peak, mask=part_inside)
        tl.store(saved + parts * SAVED + 2 * D + 1, total, mask=part_inside)

    part_blocks: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    block = image * part_blocks + tl.program_id(0) % part_blocks
    variance, distance = tl.exp(log_variance), mean - prior_mean
    kl_appearance = tl.where(inside, 0.5 * (distance * distance + variance - 1.0 - log_variance), 0.0)
    tl.store(pooled[0] + first_number + channels, mean, mask=inside)
    tl.store(pooled[1] + first_number + channels, variance, mask=inside)
    tl.store(saved + saved_numbers, log_variance, mask=inside)
    tl.store(divergences[0] + block, tl.sum(tl.sum(kl_appearance, axis=1), axis=0))

    draw = read_draw(image, seed, step, first_image, temperature, SAMPLE)
    z = mean
    if SAMPLE:
        z += tl.exp(0.5 * log_variance) * normal_noise(parts, tl.arange(0, BLOCK_D), D, draw)
    tl.store(saved + saved_numbers + D, z, mask=inside)
    if SAMPLE:
        # Read back, z is spread over the threads that place it; otherwise each of these would draw the noise of all its
        # numbers for itself.
        tl.debug_barrier()
        z = tl.load(saved + saved_numbers + D, mask=inside, other=0.0)
    kl_occurrence = tl.zeros([BLOCK_L, BLOCK_N], tl.float32)
    for start in range(0, L, BLOCK_L):
        cells, cell_inside, map_inside = cell_tile(start, L, BLOCK_L, part_inside, inside, INDEX)
        logit = load_map(maps[LOGITS], image, cells, parts, cell_inside, LAYOUTS, LOGITS)
        cell = load_cells(numbers, image, cells, L, CATEGORICAL, SAMPLE)
        y, _ = sample_occurrence(logit, cell, cells, parts, L, draw, CATEGORICAL, SAMPLE, HARD)
        store_map(maps[CODE], z[None, :, :] * y[:, :, None], image, cells, channels, map_inside, LAYOUTS, CODE)
        kl_occurrence += tl.where(cell_inside, divergence(logit, cell, parts, prior, CATEGORICAL), 0.0)
    tl.store(divergences[1] + block, tl.sum(tl.sum(kl_occurrence, axis=1), axis=0))


# Backward


@triton.jit
def load_gradient(incoming, WHICH: tl.constexpr, image, parts, BLOCK_D: tl.constexpr, inside, LAYOUTS: tl.constexpr):
    """The incoming gradient of a pooled number, of any (image, part, number) strides; zero where there is none."""
    tile = tl.zeros(inside.shape, tl.float32)
    if incoming[WHICH] is not None:
        STRIDES: tl.constexpr = LAYOUTS[INCOMING + WHICH]
        offsets = parts.to(tl.int64)[:, None] * STRIDES[1] + tl.arange(0, BLOCK_D)[None, :] * STRIDES[2]
        tile += tl.load(incoming[WHICH] + image * STRIDES[0] + offsets, mask=inside, other=0.0)
    return tile


@triton.jit
def load_divergence_gradient(incoming, WHICH: tl.constexpr, image, LAYOUTS: tl.constexpr):
    """The incoming gradient of an image's divergence; zero where there is none."""
    gradient = 0.0
    if incoming[WHICH] is not None:
        gradient = tl.load(incoming[WHICH] + image * LAYOUTS[INCOMING + WHICH][0])
    return gradient


@triton.jit
def scratch_places(image, cells, parts, N: tl.constexpr, L: tl.constexpr):
    """Of (cell, part) in couple_kernel's maps (B, N, L)."""
    return (image * N + parts)[None, :] * L + cells[:, None]


@triton.jit(do_not_specialize=["seed", "step", "first_image"])
def backward_kernel(
    maps,  # a; μ and s where they are needed; the code's gradient; to be written, the gradients of a, μ and s
    numbers,  # of categorical cells, else None
    coupled,  # of categorical cells, to be written for couple_kernel in place of a's gradient: d_y and d_log p
    pooled_mean,  # m (B, N, D)
    saved,  # by the forward pass
    incoming,  # the gradients of m, v (B, N, D), KL_app and KL_occ (B,), each None where there is none
    seed,
    step,
    first_image,
    temperature,
    prior,  # log π, and log of what it leaves for absence
    prior_mean,  # c
    POOLED: tl.constexpr,  # the gradients of m and log v (B, N, D) are written in place of μ's and s's
    ARITHMETIC: tl.constexpr,
    CATEGORICAL: tl.constexpr,
    SAMPLE: tl.constexpr,
    HARD: tl.constexpr,
    DETACH: tl.constexpr,
    LAYOUTS: tl.constexpr,  # of the maps, then of the incoming gradients
    SHAPE: tl.constexpr,  # N, D, L
    BLOCKS: tl.constexpr,  # parts, numbers, cells
    INDEX: tl.constexpr,
):
    """All gradients: reads the code's gradient and a once, and with detached weights and the geometric rule no other
    map.

    The first walk sums d_z = Σ_l d_ẑ y, the second spreads d_μ = w d_m and d_s = w d_log v over the cells. With
    attached weights it also sends d_w back, d_log p = w (d_w − Σ_j w_j d_w_j), where the sum over j is known from
    the pooled numbers: Σ_d (d_m m + d_log v log v), or under the arithmetic rule Σ_d (d_m m + d_log v).
    """
    N: tl.constexpr = SHAPE[0]
    D: tl.constexpr = SHAPE[1]
    L: tl.constexpr = SHAPE[2]
    BLOCK_N: tl.constexpr = BLOCKS[0]
    BLOCK_D: tl.constexpr = BLOCKS[1]
    BLOCK_L: tl.constexpr = BLOCKS[2]
    SAVED: tl.constexpr = 2 * D if POOLED else 2 * D + 2
    image, parts, channels, part_inside, inside = part_tile(N, D, BLOCK_N, BLOCK_D, INDEX)
    first_number = image * (N * D)
    saved += image * (N * SAVED)
    saved_numbers = parts[:, None] * SAVED + tl.arange(0, BLOCK_D)[None, :]

    mean = tl.load(pooled_mean + first_number + channels, mask=inside, other=0.0)
    log_variance = tl.load(saved + saved_numbers, mask=inside, other=0.0)
    z = tl.load(saved + saved_numbers + D, mask=inside, other=0.0)
    d_mean = load_gradient(incoming, OF_MEAN, image, parts, BLOCK_D, inside, LAYOUTS)
    d_variance = load_gradient(incoming, OF_VARIANCE, image, parts, BLOCK_D, inside, LAYOUTS)
    d_kl_appearance = load_divergence_gradient(incoming, OF_KL_APPEARANCE, image, LAYOUTS)
    d_kl_occurrence = load_divergence_gradient(incoming, OF_KL_OCCURRENCE, image, LAYOUTS)
    draw = read_draw(image, seed, step, first_image, temperature, SAMPLE)

    z_sum = tl.zeros([BLOCK_L, BLOCK_N, BLOCK_D], tl.float32)
    for start in range(0, L, BLOCK_L):
        cells, cell_inside, map_inside = cell_tile(start, L, BLOCK_L, part_inside, inside, INDEX)
        d_code = load_map(maps[CODE], image, cells, channels, map_inside, LAYOUTS, CODE)
        logit = load_map(maps[LOGITS], image, cells, parts, cell_inside, LAYOUTS, LOGITS)
        cell = load_cells(numbers, image, cells, L, CATEGORICAL, SAMPLE)
        y, slope = sample_occurrence(logit, cell, cells, parts, L, draw, CATEGORICAL, SAMPLE, HARD)
        z_sum += d_code * y[:, :, None]
        if CATEGORICAL:
            d_y = tl.sum(d_code * z[None, :, :], axis=2)
            tl.store(coupled[0] + scratch_places(image, cells, parts, N, L), d_y, mask=cell_inside)
        elif DETACH:
            d_y = tl.sum(d_code * z[None, :, :], axis=2)
            d_logit = bernoulli_gradient(logit, slope, d_y, 0.0, d_kl_occurrence, prior)
            store_map(maps[D_LOGITS], d_logit, image, cells, parts, cell_inside, LAYOUTS, D_LOGITS)
    d_z = tl.sum(z_sum, axis=0)
    variance = tl.exp(log_variance)
    d_mean += d_z + d_kl_appearance * (mean - prior_mean)
    # z − m = √v · ε
    d_log_variance = 0.5 * d_z * (z - mean) + d_variance * variance + d_kl_appearance * 0.5 * (variance - 1.0)

    if POOLED:
        tl.store(maps[D_MEAN] + first_number + channels, d_mean, mask=inside)
        tl.store(maps[D_LOG_VARIANCE] + first_number + channels, d_log_variance, mask=inside)
    else:
        peak = tl.load(saved + parts * SAVED + 2 * D, mask=part_inside, other=0.0)[None, :]
        share = 1.0 / tl.load(saved + parts * SAVED + 2 * D + 1, mask=part_inside, other=1.0)[None, :]
        if not DETACH:
            d_weight_mean = tl.sum(d_mean * mean + d_log_variance * (1.0 if ARITHMETIC else log_variance), axis=1)
        for start in range(0, L, BLOCK_L):
            cells, cell_inside, map_inside = cell_tile(start, L, BLOCK_L, part_inside, inside, INDEX)
            logit = load_map(maps[LOGITS], image, cells, parts, cell_inside, LAYOUTS, LOGITS)
            cell = load_cells(numbers, image, cells, L, CATEGORICAL, SAMPLE)
            relative = log_probability(logit, cell, CATEGORICAL) - peak
            weight = tl.exp(relative) * share
            d_mean_tile = weight[:, :, None] * d_mean[None, :, :]
            if ARITHMETIC:
                # w_l exp(s_l) / v, the share of a cell in the variance
                spread = load_map(maps[LOG_VARIANCE], image, cells, channels, map_inside, LAYOUTS, LOG_VARIANCE)
                portion = tl.exp(relative[:, :, None] + (spread - log_variance[None, :, :])) * share[:, :, None]
                d_spread_tile = portion * d_log_variance[None, :, :]
            else:
                d_spread_tile = weight[:, :, None] * d_log_variance[None, :, :]
            store_map(maps[D_MEAN], d_mean_tile, image, cells, channels, map_inside, LAYOUTS, D_MEAN)
            store_map(maps[D_LOG_VARIANCE], d_spread_tile, image, cells, channels, map_inside, LAYOUTS, D_LOG_VARIANCE)
            if not DETACH:
                # w d_w, a cell's term of the pooled numbers
                share_of_mean = d_mean_tile * load_map(maps[MEAN], image, cells, channels, map_inside, LAYOUTS, MEAN)
                if ARITHMETIC:
                    share_of_spread = d_spread_tile
                else:
                    spread = load_map(maps[LOG_VARIANCE], image, cells, channels, map_inside, LAYOUTS, LOG_VARIANCE)
                    share_of_spread = d_spread_tile * spread
                d_log_p = tl.sum(share_of_mean + share_of_spread, axis=2) - weight * d_weight_mean[None, :]
                if CATEGORICAL:
                    tl.store(coupled[1] + scratch_places(image, cells, parts, N, L), d_log_p, mask=cell_inside)
                else:
                    d_code = load_map(maps[CODE], image, cells, channels, map_inside, LAYOUTS, CODE)
                    _, slope = sample_occurrence(logit, cell, cells, parts, L, draw, CATEGORICAL, SAMPLE, HARD)
                    d_y = tl.sum(d_code * z[None, :, :], axis=2)
                    d_logit = bernoulli_gradient(logit, slope, d_y, d_log_p, d_kl_occurrence, prior)
                    store_map(maps[D_LOGITS], d_logit, image, cells, parts, cell_inside, LAYOUTS, D_LOGITS)


@triton.jit
def sum_kernel(partials, totals, BLOCKS: tl.constexpr, BLOCK: tl.constexpr):
    """Both divergences of an image from those of its part blocks, each in one order."""
    image = tl.program_id(0).to(tl.int64)
    offsets = tl.arange(0, BLOCK)
    for kind in tl.static_range(2):
        terms = tl.load(partials[kind] + image * BLOCKS + offsets, mask=offsets < BLOCKS, other=0.0)
        tl.store(totals[kind] + image, tl.sum(terms, axis=0))


# Launchers


def number(argument: Tensor | None, device):
    """A 0-d tensor as a kernel argument: its address if it is on the device, else what it holds."""
    return argument if argument is None or argument.device == device else argument.item()


def kernel_draw(draw: list[Tensor], device) -> tuple:
    """(seed, step, first image, temperature) as kernel arguments, from 0-d tensors; Nones where nothing is drawn."""
    return tuple(number(x, device) for x in draw) if draw else occurrence.NO_DRAW


def log_prior(options: BottleneckOptions, parts: int) -> tuple[float, float]:
    """log π, and log of what it leaves for absence: of a part, or of every part."""
    prior = options.occurrence_prior
    return math.log(prior), math.log1p(-prior * (parts if options.occurrence == "categorical" else 1))


def forward(
    logits: Tensor,
    mean: Tensor,
    log_variance: Tensor,
    options: BottleneckOptions,
    draw: list[Tensor],
    pooled: bool,
    outputs: tuple[Tensor, ...],
):
    """Fills outputs: code, m, v, KL_app, KL_occ and saved, as forward_kernel describes them, and the numbers of
    categorical cells.

    mean and log_variance are μ and s, or if pooled contiguous m and log v. draw: seed, step, the first image's index
    and the temperature, 0-d tensors; empty for the posterior's mean.
    """
    code, pooled_mean, pooled_variance, *totals, saved, numbers = outputs
    images, parts, height, width = logits.shape
    shape = parts, pooled_mean.shape[2], height * width
    maps = logits, mean, log_variance, code
    map_layouts = layouts(*maps)
    tile, warps = blocks(*shape, code.stride(1) == 1, code.element_size())
    part_blocks = triton.cdiv(parts, tile[0])
    partials = totals
    if part_blocks > 1:
        partials = [torch.empty(images, part_blocks, dtype=torch.float32, device=code.device) for _ in totals]
    arguments = kernel_draw(draw, code.device)
    categorical = options.occurrence == "categorical"
    if categorical:
        occurrence.cell_numbers(logits, arguments, numbers)
    seed, step, first_image, temperature = arguments
    forward_kernel[(images * part_blocks,)](
        maps=maps,
        numbers=numbers if categorical else None,
        pooled=(pooled_mean, pooled_variance),
        saved=saved,
        divergences=tuple(partials),
        seed=seed,
        step=step,
        first_image=first_image,
        temperature=temperature,
        prior=log_prior(options, parts),
        prior_mean=options.appearance_prior_mean,
        POOLED=pooled,
        ARITHMETIC=options.variance == "arithmetic",
        CATEGORICAL=categorical,
        SAMPLE=temperature is not None,
        HARD=options.straight_through,
        LAYOUTS=map_layouts,
        SHAPE=shape,
        BLOCKS=tile,
        INDEX=index_type(parts * shape[1], height, map_layouts),
        num_warps=warps,
    )
    if part_blocks > 1:
        sum_kernel[(images,)](
            partials=tuple(partials),
            totals=tuple(totals),
            BLOCKS=part_blocks,
            BLOCK=triton.next_power_of_2(part_blocks),
            num_warps=1,
        )


def backward(
    incoming: list[Tensor | None],
    logits: Tensor,
    mean: Tensor | None,
    log_variance: Tensor | None,
    pooled_mean: Tensor,
    saved: Tensor,
    numbers: Tensor,
    options: BottleneckOptions,
    draw: list[Tensor],
    pooled: bool,
    outputs: tuple[Tensor, ...],
):
    """Fills outputs: the gradients of a, μ and s, or if pooled of a, m and log v.

    incoming: the gradients of code, m, v, KL_app and KL_occ, of any strides, each None for zero. mean is given where
    gradients flow through the weights, log_variance there and under the arithmetic rule.
    """
    d_code, *d_pooled = incoming
    images, parts, height, width = logits.shape
    shape = parts, pooled_mean.shape[2], height * width
    if d_code is None:
        d_code = torch.zeros((), device=logits.device).expand(images, shape[0] * shape[1], height, width)
    maps = logits, mean, log_variance, d_code, *outputs
    map_layouts = layouts(*maps)
    code_like = d_code if pooled else outputs[1]
    detached = mean is None
    tile, warps = blocks(*shape, code_like.stride(1) == 1, code_like.element_size(), not detached)
    arguments = kernel_draw(draw, logits.device)
    seed, step, first_image, temperature = arguments
    prior = log_prior(options, parts)
    coupled = None, None
    categorical = options.occurrence == "categorical"
    if categorical:
        scratch = torch.empty(1 if detached else 2, images, parts, shape[2], dtype=torch.float32, device=logits.device)
        coupled = scratch[0], None if detached else scratch[1]
    backward_kernel[(images * triton.cdiv(parts, tile[0]),)](
        maps=maps,
        numbers=numbers if categorical else None,
        coupled=coupled,
        pooled_mean=pooled_mean,
        saved=saved,
        incoming=tuple(d_pooled),
        seed=seed,
        step=step,
        first_image=first_image,
        temperature=temperature,
        prior=prior,
        prior_mean=options.appearance_prior_mean,
        POOLED=pooled,
        ARITHMETIC=options.variance == "arithmetic",
        CATEGORICAL=categorical,
        SAMPLE=temperature is not None,
        HARD=options.straight_through,
        DETACH=detached,
        LAYOUTS=(*map_layouts, *(g if g is None else g.stride() for g in d_pooled)),
        SHAPE=shape,
        BLOCKS=tile,
        INDEX=index_type(parts * shape[1], height, map_layouts),
        num_warps=warps,
    )
    if categorical:
        occurrence.couple(logits, numbers, *coupled, d_pooled[3], prior, arguments, outputs[0])
