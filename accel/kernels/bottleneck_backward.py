"""The backward pass of the bottleneck as one kernel. The equations are in reference/bottleneck.py.

Tiles and programs are those of the forward pass. Occurrence noise is drawn again, so no tensors of a map's size are
saved between the passes except the inputs.
"""

import triton
import triton.language as tl

from .noise import drawing_kernel
from .occurrence import bernoulli_gradient, load_cells, load_logits, read_draw, sample_occurrence, weight_terms
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
    store_map,
    store_numbers,
)

# Indices of maps, after those of both passes.
D_LOGITS, D_MEAN, D_LOG_VARIANCE = tl.constexpr(4), tl.constexpr(5), tl.constexpr(6)
# Indices of incoming gradients; in LAYOUTS they follow the maps.
OF_MEAN, OF_VARIANCE = tl.constexpr(0), tl.constexpr(1)
OF_KL_APPEARANCE, OF_KL_OCCURRENCE = tl.constexpr(2), tl.constexpr(3)
INCOMING = tl.constexpr(7)


@triton.jit
def load_gradient(incoming, WHICH: tl.constexpr, image, parts, numbers, inside, LAYOUTS: tl.constexpr):
    """The incoming gradient of a pooled number, with any (image, part, number) strides; zero if there is none."""
    tile = tl.zeros(inside.shape, tl.float32)
    if incoming[WHICH] is not None:
        STRIDES: tl.constexpr = LAYOUTS[INCOMING + WHICH]
        offsets = parts.to(tl.int64)[:, None] * STRIDES[1] + numbers * STRIDES[2]
        tile += tl.load(incoming[WHICH] + image * STRIDES[0] + offsets, mask=inside, other=0.0)
    return tile


@triton.jit
def load_divergence_gradient(incoming, WHICH: tl.constexpr, image, LAYOUTS: tl.constexpr):
    """The incoming gradient of an image's divergence; zero if there is none."""
    gradient = 0.0
    if incoming[WHICH] is not None:
        gradient = tl.load(incoming[WHICH] + image * LAYOUTS[INCOMING + WHICH][0])
    return gradient


@triton.jit
def scratch_places(image, cells, parts, N: tl.constexpr, L: tl.constexpr):
    """Offsets of (cell, part) in the maps (B, N, L) of couple_kernel."""
    return (image * N + parts)[None, :] * L + cells[:, None]


@triton.jit
def gather_samples(
    maps, statistics, coupled, tile, z, of_divergence, draw,
    CATEGORICAL: tl.constexpr, SAMPLE: tl.constexpr, HARD: tl.constexpr, DETACH: tl.constexpr,
    LAYOUTS: tl.constexpr, SHAPE: tl.constexpr, BLOCKS: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """First pass over cells: d_z = Σ_l d_ẑ y; and d_y = Σ_d d_ẑ z, for couple_kernel or, with detached weights, d_a."""
    N: tl.constexpr = SHAPE[0]
    L: tl.constexpr = SHAPE[2]
    BLOCK_N: tl.constexpr = BLOCKS[0]
    BLOCK_D: tl.constexpr = BLOCKS[1]
    BLOCK_L: tl.constexpr = BLOCKS[2]
    FOLD: tl.constexpr = BLOCKS[3]
    image, parts, channels, part_inside, inside = tile
    d_kl_occurrence, prior = of_divergence
    z_sum = tl.zeros([BLOCK_L // FOLD, BLOCK_N, BLOCK_D], tl.float32)
    for start in range(0, L, BLOCK_L):
        cells, cell_inside, map_inside = cell_tile(start, L, BLOCK_L, part_inside, inside, INDEX)
        d_code = load_numbers(maps, CODE, image, cells, channels, map_inside, LAYOUTS, BLOCKS)
        logit = load_logits(maps[LOGITS], image, cells, parts, cell_inside, LAYOUTS)
        cell = load_cells(statistics, image, cells, L, CATEGORICAL, SAMPLE)
        y, slope = sample_occurrence(logit, cell, start, parts, L, draw, CATEGORICAL, SAMPLE, HARD)
        z_sum += folded(d_code * y[:, :, None], FOLD)
        if CATEGORICAL:
            d_y = tl.sum(d_code * z[None, :, :], axis=2)
            tl.store(coupled[0] + scratch_places(image, cells, parts, N, L), d_y, mask=cell_inside)
        elif DETACH:
            d_y = tl.sum(d_code * z[None, :, :], axis=2)
            d_logit = bernoulli_gradient(logit, slope, d_y, 0.0, d_kl_occurrence, prior)
            store_map(maps[D_LOGITS], d_logit, image, cells, parts, cell_inside, LAYOUTS, D_LOGITS)
    return tl.sum(z_sum, axis=0)


@triton.jit
def spread_gradients(
    maps, statistics, coupled, tile, pooled, of_weights, of_divergence, draw,
    ARITHMETIC: tl.constexpr, CATEGORICAL: tl.constexpr, SAMPLE: tl.constexpr, HARD: tl.constexpr, DETACH: tl.constexpr,
    LAYOUTS: tl.constexpr, SHAPE: tl.constexpr, BLOCKS: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """The second pass over cells: d_μ = w d_m and d_s = w d_log v; with attached weights, also d_a or d_log p.

    pooled: m, log v and z, and the gradients of m and log v. of_weights: the largest exponent of weight_terms, and
    1 / Σ_l p_l / exp(peak). of_divergence: the gradient of KL_occ, and its prior.
    """
    N: tl.constexpr = SHAPE[0]
    L: tl.constexpr = SHAPE[2]
    BLOCK_L: tl.constexpr = BLOCKS[2]
    image, parts, channels, part_inside, inside = tile
    mean, log_variance, z, d_mean, d_log_variance = pooled
    peak, share = of_weights
    d_kl_occurrence, prior = of_divergence
    if not DETACH:
        # Σ_j w_j d_w_j, from the pooled numbers, without a pass over cells.
        d_weight_mean = tl.sum(d_mean * mean + d_log_variance * (1.0 if ARITHMETIC else log_variance), axis=1)
    for start in range(0, L, BLOCK_L):
        cells, cell_inside, map_inside = cell_tile(start, L, BLOCK_L, part_inside, inside, INDEX)
        logit = load_logits(maps[LOGITS], image, cells, parts, cell_inside, LAYOUTS)
        cell = load_cells(statistics, image, cells, L, CATEGORICAL, SAMPLE)
        exponent, factor = weight_terms(logit, cell, peak, CATEGORICAL)
        if ARITHMETIC and not CATEGORICAL:
            exponent, factor = exponent + tl.log(factor), 1.0  # beside s − log v, which may be large
        weight = exponential(exponent) * (factor * share)
        d_mean_tile = weight[:, :, None] * d_mean[None, :, :]
        if ARITHMETIC:
            # w_l exp(s_l) / v, the share of a cell in the variance
            spread = load_numbers(maps, LOG_VARIANCE, image, cells, channels, map_inside, LAYOUTS, BLOCKS)
            portion = exponential(exponent[:, :, None] + (spread - log_variance[None, :, :])) * share[:, :, None]
            d_spread_tile = portion * d_log_variance[None, :, :]
        else:
            d_spread_tile = weight[:, :, None] * d_log_variance[None, :, :]
        store_numbers(maps, D_MEAN, d_mean_tile, image, cells, channels, map_inside, LAYOUTS, BLOCKS)
        store_numbers(maps, D_LOG_VARIANCE, d_spread_tile, image, cells, channels, map_inside, LAYOUTS, BLOCKS)
        if not DETACH:
            # w d_w, a cell's term of the pooled numbers
            share_of_mean = d_mean_tile * load_numbers(maps, MEAN, image, cells, channels, map_inside, LAYOUTS, BLOCKS)
            if ARITHMETIC:
                share_of_spread = d_spread_tile
            else:
                spread = load_numbers(maps, LOG_VARIANCE, image, cells, channels, map_inside, LAYOUTS, BLOCKS)
                share_of_spread = d_spread_tile * spread
            d_log_p = tl.sum(share_of_mean + share_of_spread, axis=2) - weight * d_weight_mean[None, :]
            if CATEGORICAL:
                tl.store(coupled[1] + scratch_places(image, cells, parts, N, L), d_log_p, mask=cell_inside)
            else:
                d_code = load_numbers(maps, CODE, image, cells, channels, map_inside, LAYOUTS, BLOCKS)
                _, slope = sample_occurrence(logit, cell, start, parts, L, draw, CATEGORICAL, SAMPLE, HARD)
                d_y = tl.sum(d_code * z[None, :, :], axis=2)
                d_logit = bernoulli_gradient(logit, slope, d_y, d_log_p, d_kl_occurrence, prior)
                store_map(maps[D_LOGITS], d_logit, image, cells, parts, cell_inside, LAYOUTS, D_LOGITS)


@drawing_kernel
def backward_kernel(
    maps,  # inputs: a, μ and s if needed, the code's gradient; outputs: the gradients of a, μ and s
    statistics,  # for categorical cells, else None
    coupled,  # for categorical cells, outputs for couple_kernel instead of a's gradient: d_y and d_log p
    pooled_mean,  # m (B, N, D)
    saved,  # by the forward pass
    incoming,  # the gradients of m, v (B, N, D), KL_app and KL_occ (B,), None if absent
    seed,
    step,
    first_image,
    temperature,
    prior,  # log π, and the logarithm of the remaining probability
    prior_mean,  # c
    POOLED: tl.constexpr,  # writes the gradients of m and log v (B, N, D) instead of those of μ and s
    ARITHMETIC: tl.constexpr,
    CATEGORICAL: tl.constexpr,
    SAMPLE: tl.constexpr,
    HARD: tl.constexpr,
    DETACH: tl.constexpr,
    LAYOUTS: tl.constexpr,  # of the maps, then of the incoming gradients
    SHAPE: tl.constexpr,  # N, D, L
    BLOCKS: tl.constexpr,  # parts, numbers, cells, adjacent cells summed first, and whether channels are adjacent
    INDEX: tl.constexpr,
):
    """All gradients. Reads the code's gradient and a once, other maps only for attached weights or the arithmetic rule.

    The first pass over cells sums d_z = Σ_l d_ẑ y, the second writes d_μ = w d_m and d_s = w d_log v. With attached
    weights it also propagates d_w: d_log p = w (d_w − Σ_j w_j d_w_j), where the sum over j follows from the pooled
    numbers: Σ_d (d_m m + d_log v log v), or under the arithmetic rule Σ_d (d_m m + d_log v).
    """
    N: tl.constexpr = SHAPE[0]
    D: tl.constexpr = SHAPE[1]
    BLOCK_D: tl.constexpr = BLOCKS[1]
    SAVED: tl.constexpr = 2 * D if POOLED else 2 * D + 2
    tile = part_tile(N, D, BLOCKS, INDEX)
    image, parts, _channels, part_inside, _inside = tile
    numbers, number_inside = number_tile(parts, N, D, BLOCK_D)
    first_number = image * (N * D)
    pooled_numbers = parts[:, None] * D + numbers
    saved += image * (N * SAVED)
    saved_numbers = parts[:, None] * SAVED + numbers

    mean = tl.load(pooled_mean + first_number + pooled_numbers, mask=number_inside, other=0.0)
    log_variance = tl.load(saved + saved_numbers, mask=number_inside, other=0.0)
    z = tl.load(saved + saved_numbers + D, mask=number_inside, other=0.0)
    d_mean = load_gradient(incoming, OF_MEAN, image, parts, numbers, number_inside, LAYOUTS)
    d_variance = load_gradient(incoming, OF_VARIANCE, image, parts, numbers, number_inside, LAYOUTS)
    d_kl_appearance = load_divergence_gradient(incoming, OF_KL_APPEARANCE, image, LAYOUTS)
    of_divergence = (load_divergence_gradient(incoming, OF_KL_OCCURRENCE, image, LAYOUTS), prior)
    draw = read_draw(image, seed, step, first_image, temperature, SAMPLE)

    d_z = gather_samples(
        maps, statistics, coupled, tile, z, of_divergence, draw,
        CATEGORICAL, SAMPLE, HARD, DETACH, LAYOUTS, SHAPE, BLOCKS, INDEX,
    )  # fmt: skip
    variance = tl.exp(log_variance)
    d_mean += d_z + d_kl_appearance * (mean - prior_mean)
    # z − m = √v · ε
    d_log_variance = 0.5 * d_z * (z - mean)
    # What has no gradient adds none, also where the variance is more than a float32 holds.
    if incoming[OF_VARIANCE] is not None:
        d_log_variance += d_variance * variance
    if incoming[OF_KL_APPEARANCE] is not None:
        d_log_variance += d_kl_appearance * 0.5 * (variance - 1.0)

    if POOLED:
        tl.store(maps[D_MEAN] + first_number + pooled_numbers, d_mean, mask=number_inside)
        tl.store(maps[D_LOG_VARIANCE] + first_number + pooled_numbers, d_log_variance, mask=number_inside)
    else:
        peak = tl.load(saved + parts * SAVED + 2 * D, mask=part_inside, other=0.0)[None, :]
        share = 1.0 / tl.load(saved + parts * SAVED + 2 * D + 1, mask=part_inside, other=1.0)[None, :]
        pooled = (mean, log_variance, z, d_mean, d_log_variance)
        spread_gradients(
            maps, statistics, coupled, tile, pooled, (peak, share), of_divergence, draw,
            ARITHMETIC, CATEGORICAL, SAMPLE, HARD, DETACH, LAYOUTS, SHAPE, BLOCKS, INDEX,
        )  # fmt: skip
