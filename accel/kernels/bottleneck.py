"""The PatchVAE bottleneck, one kernel forward and one backward. The equations stand in reference/bottleneck.py.

A program owns some parts of one image and walks the grid in blocks of cells. Its tiles are (cells, parts, numbers): in
contiguous maps the cells are neighbours in memory, in channels-last maps the numbers and then the parts, and Triton
lays its threads out accordingly, so one source serves both.

Occurrence noise is drawn again wherever it is needed, by address, so nothing of a map's size is kept for the backward
pass but the inputs.
"""

import math
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from .noise import logistic_noise, normal_noise, read
from .tiles import cell_tile, index_type, layouts, load_map, log_sigmoid, part_tile, sigmoid_and_slope, store_map

NOTHING = tl.constexpr(float("-inf"))  # as a logit or a log-variance: the logarithm of no weight at all


@triton.jit
def bernoulli_divergence(logit, prior):
    """KL(Bern(p) ‖ Bern(π)) with p = σ(logit) and prior = (log π, log(1 − π))."""
    log_p = log_sigmoid(logit)
    p, _ = sigmoid_and_slope(logit)
    not_p, _ = sigmoid_and_slope(-logit)
    return p * (log_p - prior[0]) + not_p * (log_p - logit - prior[1])


@triton.jit
def sample_occurrence(logit, element, image, step, seed, sharpness, SAMPLE: tl.constexpr, HARD: tl.constexpr):
    """The y to place and its derivative by the logit: σ((logit + logistic draw) / τ), or σ(logit)."""
    if SAMPLE:
        argument = logit + logistic_noise(element, image, step, seed)
        y, slope = sigmoid_and_slope(argument * sharpness)
        slope *= sharpness
        if HARD:
            y = (argument > 0.0).to(tl.float32)
    else:
        y, slope = sigmoid_and_slope(logit)
    return y, slope


@triton.jit(do_not_specialize=["seed", "step", "first_image"])
def forward_kernel(
    maps,  # a (B, N, h, w); μ, s and the code (B, N·D, h, w)
    pooled,  # m and v (B, N, D)
    saved,  # for backward (B, N, 2·D + 2): log v, z, and unless pooled the weights' largest log σ(a) and relative sum
    divergences,  # KL_app and KL_occ (B, part blocks)
    seed,
    step,
    first_image,
    temperature,
    prior,  # log π, log(1 − π)
    prior_mean,  # c of the appearances' prior N(c, 1)
    RULE: tl.constexpr,  # "geometric", "arithmetic", or "pooled": m and log v (B, N, D) are read in place of μ and s
    SAMPLE: tl.constexpr,
    HARD: tl.constexpr,
    LAYOUTS: tl.constexpr,  # of the maps
    SHAPE: tl.constexpr,  # N, D, L
    BLOCKS: tl.constexpr,  # parts, numbers, cells
    INDEX: tl.constexpr,
):
    """Pool over the cells, sample, place and measure: reads a, μ and s once, writes the code once.

    Cells that do not fit one block are walked three times: for the largest logit, to pool, to place. The later walks
    find the logits in cache.
    """
    logits, mean_map, log_variance_map, code = maps
    pooled_mean, pooled_variance = pooled
    N: tl.constexpr = SHAPE[0]
    D: tl.constexpr = SHAPE[1]
    L: tl.constexpr = SHAPE[2]
    BLOCK_N: tl.constexpr = BLOCKS[0]
    BLOCK_D: tl.constexpr = BLOCKS[1]
    BLOCK_L: tl.constexpr = BLOCKS[2]
    image, parts, channels, part_inside, inside = part_tile(N, D, BLOCK_N, BLOCK_D, INDEX)
    first_number = image * (N * D)
    SAVED: tl.constexpr = 2 * D if RULE == "pooled" else 2 * D + 2
    saved += image * (N * SAVED)
    saved_numbers = parts[:, None] * SAVED + tl.arange(0, BLOCK_D)[None, :]

    if RULE == "pooled":
        mean = tl.load(mean_map + first_number + channels, mask=inside, other=0.0)
        log_variance = tl.load(log_variance_map + first_number + channels, mask=inside, other=0.0)
    else:
        largest = tl.full([BLOCK_L, BLOCK_N], NOTHING, tl.float32)
        for start in range(0, L, BLOCK_L):
            cells, cell_inside, map_inside = cell_tile(start, L, BLOCK_L, part_inside, inside, INDEX)
            logit = load_map(logits, image, cells, parts, cell_inside, LAYOUTS, 0)
            largest = tl.maximum(largest, tl.where((cells < L)[:, None], logit, NOTHING))
        # σ rises with its argument, so the largest logit has the largest log σ.
        peak = log_sigmoid(tl.max(largest, axis=0))

        weight_sum = tl.zeros([BLOCK_L, BLOCK_N], tl.float32)
        mean_sum = tl.zeros([BLOCK_L, BLOCK_N, BLOCK_D], tl.float32)
        spread_sum = tl.zeros([BLOCK_L, BLOCK_N, BLOCK_D], tl.float32)
        # The arithmetic rule takes exp(s) relative to the largest s so far, so that it neither overflows nor vanishes.
        OUTSIDE: tl.constexpr = NOTHING if RULE == "arithmetic" else 0.0
        tallest = tl.full([BLOCK_L, BLOCK_N, BLOCK_D], NOTHING, tl.float32)
        if RULE == "arithmetic" and BLOCK_L >= L:
            # All of them at once: the largest of all.
            cells, cell_inside, map_inside = cell_tile(0, L, BLOCK_L, part_inside, inside, INDEX)
            spread_tile = load_map(log_variance_map, image, cells, channels, map_inside, LAYOUTS, 2, OUTSIDE)
            top = tl.max(spread_tile, axis=0)
        for start in range(0, L, BLOCK_L):
            cells, cell_inside, map_inside = cell_tile(start, L, BLOCK_L, part_inside, inside, INDEX)
            mean_tile = load_map(mean_map, image, cells, channels, map_inside, LAYOUTS, 1)
            spread_tile = load_map(log_variance_map, image, cells, channels, map_inside, LAYOUTS, 2, OUTSIDE)
            logit = load_map(logits, image, cells, parts, cell_inside, LAYOUTS, 0)
            weight = tl.where((cells < L)[:, None], tl.exp(log_sigmoid(logit) - peak[None, :]), 0.0)
            if RULE == "arithmetic":
                if BLOCK_L < L:
                    taller = tl.maximum(tallest, spread_tile)
                    spread_sum *= tl.exp(tallest - taller)
                    tallest = taller
                    spread_tile = tl.exp(spread_tile - taller)
                else:
                    spread_tile = tl.exp(spread_tile - top[None, :, :])
            weight_sum += weight
            mean_sum += weight[:, :, None] * mean_tile
            spread_sum += weight[:, :, None] * spread_tile
        total = tl.sum(weight_sum, axis=0)
        share = (1.0 / total)[:, None]
        mean = tl.sum(mean_sum, axis=0) * share
        if RULE == "arithmetic":
            if BLOCK_L < L:
                top = tl.max(tallest, axis=0)
                spread_sum *= tl.exp(tallest - top[None, :, :])
            log_variance = top + tl.log(tl.sum(spread_sum, axis=0) * share)
        else:
            log_variance = tl.sum(spread_sum, axis=0) * share
        tl.store(saved + parts * SAVED + 2 * D, peak, mask=part_inside)
        tl.store(saved + parts * SAVED + 2 * D + 1, total, mask=part_inside)

    part_blocks: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    variance, distance = tl.exp(log_variance), mean - prior_mean
    kl_appearance = tl.where(inside, 0.5 * (distance * distance + variance - 1.0 - log_variance), 0.0)
    tl.store(pooled_mean + first_number + channels, mean, mask=inside)
    tl.store(pooled_variance + first_number + channels, variance, mask=inside)
    tl.store(saved + saved_numbers, log_variance, mask=inside)
    block = image * part_blocks + tl.program_id(0) % part_blocks
    tl.store(divergences[0] + block, tl.sum(tl.sum(kl_appearance, axis=1), axis=0))

    z = mean
    draw_image, sharpness = image, 1.0
    if SAMPLE:
        seed, step, draw_image = read(seed), read(step), read(first_image) + image
        sharpness /= read(temperature)
        z += tl.exp(0.5 * log_variance) * normal_noise(channels, draw_image, step, seed)
    tl.store(saved + saved_numbers + D, z, mask=inside)
    if SAMPLE:
        # Read back, z is spread over the threads that place it; otherwise each of these would draw the noise of all its
        # numbers for itself.
        tl.debug_barrier()
        z = tl.load(saved + saved_numbers + D, mask=inside, other=0.0)
    kl_occurrence = tl.zeros([BLOCK_L, BLOCK_N], tl.float32)
    for start in range(0, L, BLOCK_L):
        cells, cell_inside, map_inside = cell_tile(start, L, BLOCK_L, part_inside, inside, INDEX)
        logit = load_map(logits, image, cells, parts, cell_inside, LAYOUTS, 0)
        element = parts[None, :] * L + cells[:, None]
        y, _ = sample_occurrence(logit, element, draw_image, step, seed, sharpness, SAMPLE, HARD)
        store_map(code, z[None, :, :] * y[:, :, None], image, cells, channels, map_inside, LAYOUTS, 3)
        kl_occurrence += tl.where(cell_inside, bernoulli_divergence(logit, prior), 0.0)
    tl.store(divergences[1] + block, tl.sum(tl.sum(kl_occurrence, axis=1), axis=0))


@triton.jit
def load_gradient(gradient, image, parts, numbers, inside, LAYOUTS: tl.constexpr, MAP: tl.constexpr):
    """The incoming gradient of a pooled number, of any (image, part, number) strides; zero where there is none."""
    tile = tl.zeros(inside.shape, tl.float32)
    if gradient is not None:
        gradient += image * LAYOUTS[MAP][0]
        offsets = parts.to(tl.int64)[:, None] * LAYOUTS[MAP][1] + numbers[None, :] * LAYOUTS[MAP][2]
        tile += tl.load(gradient + offsets, mask=inside, other=0.0)
    return tile


@triton.jit(do_not_specialize=["seed", "step", "first_image"])
def backward_kernel(
    maps,  # a; μ and s where they are needed; the code's gradient; to be written, the gradients of a, μ and s
    pooled_mean,  # m (B, N, D)
    saved,  # by the forward pass
    incoming,  # the gradients of m, v (B, N, D), KL_app and KL_occ (B,), each None where there is none
    seed,
    step,
    first_image,
    temperature,
    prior_logit,
    prior_mean,  # c
    RULE: tl.constexpr,  # "pooled": the gradients of m and log v (B, N, D) are written in place of μ's and s's
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
    attached weights it also sends d_w back, d_a += w σ(−a) (d_w − Σ_j w_j d_w_j), where the sum over j is known from
    the pooled numbers: Σ_d (d_m m + d_log v log v), or under the arithmetic rule Σ_d (d_m m + d_log v).
    """
    logits, mean_map, log_variance_map, d_code, d_logits, d_mean_map, d_log_variance_map = maps
    N: tl.constexpr = SHAPE[0]
    D: tl.constexpr = SHAPE[1]
    L: tl.constexpr = SHAPE[2]
    BLOCK_N: tl.constexpr = BLOCKS[0]
    BLOCK_D: tl.constexpr = BLOCKS[1]
    BLOCK_L: tl.constexpr = BLOCKS[2]
    image, parts, channels, part_inside, inside = part_tile(N, D, BLOCK_N, BLOCK_D, INDEX)
    first_number = image * (N * D)
    SAVED: tl.constexpr = 2 * D if RULE == "pooled" else 2 * D + 2
    saved += image * (N * SAVED)
    saved_numbers = parts[:, None] * SAVED + tl.arange(0, BLOCK_D)[None, :]

    mean = tl.load(pooled_mean + first_number + channels, mask=inside, other=0.0)
    log_variance = tl.load(saved + saved_numbers, mask=inside, other=0.0)
    numbers = tl.arange(0, BLOCK_D)
    d_mean = load_gradient(incoming[0], image, parts, numbers, inside, LAYOUTS, 7)
    d_variance = load_gradient(incoming[1], image, parts, numbers, inside, LAYOUTS, 8)
    d_kl_appearance = 0.0
    if incoming[2] is not None:
        d_kl_appearance = tl.load(incoming[2] + image * LAYOUTS[9][0])
    d_kl_occurrence = 0.0
    if incoming[3] is not None:
        d_kl_occurrence = tl.load(incoming[3] + image * LAYOUTS[10][0])
    z = tl.load(saved + saved_numbers + D, mask=inside, other=0.0)
    draw_image, sharpness = image, 1.0
    if SAMPLE:
        seed, step, draw_image = read(seed), read(step), read(first_image) + image
        sharpness /= read(temperature)

    z_sum = tl.zeros([BLOCK_L, BLOCK_N, BLOCK_D], tl.float32)
    for start in range(0, L, BLOCK_L):
        cells, cell_inside, map_inside = cell_tile(start, L, BLOCK_L, part_inside, inside, INDEX)
        d_code_tile = load_map(d_code, image, cells, channels, map_inside, LAYOUTS, 3)
        logit = load_map(logits, image, cells, parts, cell_inside, LAYOUTS, 0)
        element = parts[None, :] * L + cells[:, None]
        y, slope = sample_occurrence(logit, element, draw_image, step, seed, sharpness, SAMPLE, HARD)
        z_sum += d_code_tile * y[:, :, None]
        if DETACH:
            _, p_slope = sigmoid_and_slope(logit)
            d_logit = tl.sum(d_code_tile * z[None, :, :], axis=2) * slope
            d_logit += d_kl_occurrence * p_slope * (logit - prior_logit)
            store_map(d_logits, d_logit, image, cells, parts, cell_inside, LAYOUTS, 4)
    d_z = tl.sum(z_sum, axis=0)
    variance = tl.exp(log_variance)
    d_mean += d_z + d_kl_appearance * (mean - prior_mean)
    # z − m = √v · ε
    d_log_variance = 0.5 * d_z * (z - mean) + d_variance * variance + d_kl_appearance * 0.5 * (variance - 1.0)

    if RULE == "pooled":
        tl.store(d_mean_map + first_number + channels, d_mean, mask=inside)
        tl.store(d_log_variance_map + first_number + channels, d_log_variance, mask=inside)
    else:
        peak = tl.load(saved + parts * SAVED + 2 * D, mask=part_inside, other=0.0)[None, :]
        share = 1.0 / tl.load(saved + parts * SAVED + 2 * D + 1, mask=part_inside, other=1.0)[None, :]
        if not DETACH:
            pooled_spread = log_variance if RULE == "geometric" else 1.0
            d_weight_mean = tl.sum(d_mean * mean + d_log_variance * pooled_spread, axis=1)[None, :]
        for start in range(0, L, BLOCK_L):
            cells, cell_inside, map_inside = cell_tile(start, L, BLOCK_L, part_inside, inside, INDEX)
            logit = load_map(logits, image, cells, parts, cell_inside, LAYOUTS, 0)
            relative = log_sigmoid(logit) - peak
            weight = tl.exp(relative) * share
            d_mean_tile = weight[:, :, None] * d_mean[None, :, :]
            if RULE == "arithmetic":
                # w_l exp(s_l) / v, the share of a cell in the variance
                spread_tile = load_map(log_variance_map, image, cells, channels, map_inside, LAYOUTS, 2)
                part_of = tl.exp(relative[:, :, None] + (spread_tile - log_variance[None, :, :])) * share[:, :, None]
                d_spread_tile = part_of * d_log_variance[None, :, :]
            else:
                d_spread_tile = weight[:, :, None] * d_log_variance[None, :, :]
            store_map(d_mean_map, d_mean_tile, image, cells, channels, map_inside, LAYOUTS, 5)
            store_map(d_log_variance_map, d_spread_tile, image, cells, channels, map_inside, LAYOUTS, 6)
            if not DETACH:
                d_weight_tile = d_mean_tile * load_map(mean_map, image, cells, channels, map_inside, LAYOUTS, 1)
                if RULE == "arithmetic":
                    d_weight_tile += d_spread_tile
                else:
                    spread_tile = load_map(log_variance_map, image, cells, channels, map_inside, LAYOUTS, 2)
                    d_weight_tile += d_spread_tile * spread_tile
                d_code_tile = load_map(d_code, image, cells, channels, map_inside, LAYOUTS, 3)
                element = parts[None, :] * L + cells[:, None]
                _, slope = sample_occurrence(logit, element, draw_image, step, seed, sharpness, SAMPLE, HARD)
                not_p, _ = sigmoid_and_slope(-logit)
                _, p_slope = sigmoid_and_slope(logit)
                d_logit = tl.sum(d_code_tile * z[None, :, :], axis=2) * slope
                d_logit += d_kl_occurrence * p_slope * (logit - prior_logit)
                d_logit += not_p * (tl.sum(d_weight_tile, axis=2) - weight * d_weight_mean)
                store_map(d_logits, d_logit, image, cells, parts, cell_inside, LAYOUTS, 4)


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


@cache
def blocks(parts: int, part_dim: int, cells: int, channels_last: bool, item_size: int, weights_learn: bool = False):
    """The (parts, numbers, cells) of a program's tile and its warps.

    Memory sets the pace where every thread has several independent 16-byte loads in flight and spends few
    instructions a number. Fewer warps a program spend fewer, since the sums over cells then stay inside a warp.

    - An image of up to 8192 numbers is one program, and its divergences need no second sum.
    - Channels-last: 256 channels side by side and 8 cells, 16 numbers a thread.
    - Contiguous, up to 64 cells: rows of cells are short and loads narrow, so one warp takes 64 numbers a thread.
    - Contiguous, more cells: 64 or 128 at once, whole lines for a warp, 64 bytes of numbers a thread.

    Of parts of one or two numbers a thread takes 16, of up to four 32: each has its own noise and occurrence to hold.
    Parts of more than 64 numbers take half as many cells at once, or their sums leave the registers. Where the weights
    learn, three maps are held at once, and tiles of the first and third kind are half as large.
    """
    block_n, block_l = triton.next_power_of_2(parts), triton.next_power_of_2(cells)
    block_d = triton.next_power_of_2(part_dim)
    per_thread = 16
    if block_n * block_d * block_l > (4096 if weights_learn else 8192):
        if channels_last:
            size, longest = 2048, 8
        elif cells <= 64:
            per_thread = 32 if weights_learn else 64
            size, longest = 32 * per_thread, 64
        else:
            per_thread = 64 // item_size
            size, longest = 1024, 64 if cells <= 256 else 128
        longest = min(longest, max(1, (2048 if block_d <= 64 else 1024) // block_d))
        block_l = min(block_l, longest)
        block_n = min(block_n, max(1, size // (block_d * block_l)))
        per_thread = min(per_thread, max(16, 8 * block_d))
    tile = block_n, block_d, block_l
    return tile, min(8, max(1, math.prod(tile) // (32 * per_thread)))


def forward(
    logits: Tensor,
    mean: Tensor,
    log_variance: Tensor,
    temperature: Tensor | None,
    noise: tuple[Tensor | None, ...],
    prior: float,
    prior_mean: float,
    rule: str,
    straight_through: bool,
    outputs: tuple[Tensor, ...],
):
    """Fills outputs: code, m, v, KL_app, KL_occ and saved, as forward_kernel describes them.

    mean and log_variance are μ and s, or for the rule "pooled" contiguous m and log v. noise: seed, step and the first
    image's index; Nones, and temperature None, for the posterior's mean.
    """
    code, pooled_mean, pooled_variance, *totals, saved = outputs
    images, parts, height, width = logits.shape
    shape = parts, pooled_mean.shape[2], height * width
    maps = logits, mean, log_variance, code
    map_layouts = layouts(*maps)
    tile, warps = blocks(*shape, code.stride(1) == 1, code.element_size())
    part_blocks = triton.cdiv(parts, tile[0])
    partials = totals
    if part_blocks > 1:
        partials = [torch.empty(images, part_blocks, dtype=torch.float32, device=code.device) for _ in totals]
    seed, step, first_image, temperature = (number(x, code.device) for x in (*noise, temperature))
    forward_kernel[(images * part_blocks,)](
        maps=maps,
        pooled=(pooled_mean, pooled_variance),
        saved=saved,
        divergences=tuple(partials),
        seed=seed,
        step=step,
        first_image=first_image,
        temperature=temperature,
        prior=(math.log(prior), math.log1p(-prior)),
        prior_mean=prior_mean,
        RULE=rule,
        SAMPLE=temperature is not None,
        HARD=straight_through,
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
    incoming: tuple[Tensor | None, ...],
    logits: Tensor,
    mean: Tensor | None,
    log_variance: Tensor | None,
    pooled_mean: Tensor,
    saved: Tensor,
    temperature: Tensor | None,
    noise: tuple[Tensor | None, ...],
    prior: float,
    prior_mean: float,
    rule: str,
    straight_through: bool,
    outputs: tuple[Tensor, ...],
):
    """Fills outputs: the gradients of a, μ and s, or for the rule "pooled" of a, m and log v.

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
    code_like = d_code if rule == "pooled" else outputs[1]
    tile, warps = blocks(*shape, code_like.stride(1) == 1, code_like.element_size(), mean is not None)
    seed, step, first_image, temperature = (number(x, logits.device) for x in (*noise, temperature))
    backward_kernel[(images * triton.cdiv(parts, tile[0]),)](
        maps=maps,
        pooled_mean=pooled_mean,
        saved=saved,
        incoming=tuple(d_pooled),
        seed=seed,
        step=step,
        first_image=first_image,
        temperature=temperature,
        prior_logit=math.log(prior) - math.log1p(-prior),
        prior_mean=prior_mean,
        RULE=rule,
        SAMPLE=temperature is not None,
        HARD=straight_through,
        DETACH=mean is None,
        LAYOUTS=(*map_layouts, *(g if g is None else g.stride() for g in d_pooled)),
        SHAPE=shape,
        BLOCKS=tile,
        INDEX=index_type(parts * shape[1], height, map_layouts),
        num_warps=warps,
    )
