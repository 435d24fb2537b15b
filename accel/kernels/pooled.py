"""The weights that pool features for every shift of a kernel. The equations are in reference/bottleneck.py.

F[n, δ] = Σ_l w_l f_{l+δ} is a matrix product over cells if the weights are shifted instead of the features:
F[n, δ] = Σ_l w_{l−δ} f_l, with w zero outside the grid. These kernels write the shifted weights and sum their gradient;
cuBLAS computes the products. The kernels of bottleneck.py, with POOLED, sample and place the results.
"""

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import occurrence
from .occurrence import load_cells, load_logits, of_finite, weight_terms
from .tiles import exponential, index_type, layouts, sigmoid_and_slope, store_map

# SHAPE, a compile-time constant: (parts, height, width, kernel size). BLOCKS: (cells, parts) of a tile. The shifted
# weights are (B, N, k², L), contiguous; shift k² // 2, by nothing, is the weights themselves.


@triton.jit
def part_block(SHAPE: tl.constexpr, BLOCKS: tl.constexpr, INDEX: tl.constexpr):
    """This program's image and parts."""
    PART_BLOCKS: tl.constexpr = (SHAPE[0] + BLOCKS[1] - 1) // BLOCKS[1]
    parts = tl.program_id(0) % PART_BLOCKS * BLOCKS[1] + tl.arange(0, BLOCKS[1])
    return (tl.program_id(0) // PART_BLOCKS).to(tl.int64), parts.to(INDEX)


@triton.jit
def cell_block(start, parts, SHAPE: tl.constexpr, BLOCKS: tl.constexpr, INDEX: tl.constexpr):
    """The cells beginning with start, and the mask of (cell, part)."""
    cells = (start + tl.arange(0, BLOCKS[0])).to(INDEX)
    return cells, (cells < SHAPE[1] * SHAPE[2])[:, None] & (parts < SHAPE[0])[None, :]


@triton.jit
def shift_of(offset, cells, parts, inside, SHAPE: tl.constexpr):
    """For the offset δ of the kernel, a number below k²: the cells l + δ, and whether they are in the grid.

    offset may be an element of a tensor or a constant; offsets are row by row.
    """
    REACH: tl.constexpr = SHAPE[3] // 2
    down, right = offset // SHAPE[3] - REACH, offset % SHAPE[3] - REACH
    row, column = cells // SHAPE[2] + down, cells % SHAPE[2] + right
    in_grid = (row >= 0) & (row < SHAPE[1]) & (column >= 0) & (column < SHAPE[2])
    return cells + down * SHAPE[2] + right, inside & in_grid[:, None]


@triton.jit
def load_weight_terms(
    logits, statistics, image, cells, parts, inside, peak,
    CATEGORICAL: tl.constexpr, LAYOUTS: tl.constexpr, SHAPE: tl.constexpr,
):  # fmt: skip
    """weight_terms of (cell, part)."""
    L: tl.constexpr = SHAPE[1] * SHAPE[2]
    cell = load_cells(statistics, image, cells, L, CATEGORICAL, False)
    return weight_terms(load_logits(logits, image, cells, parts, inside, LAYOUTS), cell, peak, CATEGORICAL)


@triton.jit
def normaliser(
    logits, statistics, image, parts,
    CATEGORICAL: tl.constexpr, LAYOUTS: tl.constexpr, SHAPE: tl.constexpr, BLOCKS: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """The largest exponent of weight_terms over the cells of each part, and 1 / Σ_l p_l / exp(peak)."""
    L: tl.constexpr = SHAPE[1] * SHAPE[2]
    largest = tl.full(BLOCKS, float("-inf"), tl.float32)
    for start in range(0, L, BLOCKS[0]):
        cells, inside = cell_block(start, parts, SHAPE, BLOCKS, INDEX)
        exponent, _ = load_weight_terms(
            logits, statistics, image, cells, parts, inside, 0.0, CATEGORICAL, LAYOUTS, SHAPE
        )
        largest = tl.maximum(largest, tl.where((cells < L)[:, None], exponent, float("-inf")))
    peak = tl.max(largest, axis=0)[None, :]
    total = tl.zeros(BLOCKS, tl.float32)
    for start in range(0, L, BLOCKS[0]):
        cells, inside = cell_block(start, parts, SHAPE, BLOCKS, INDEX)
        exponent, factor = load_weight_terms(
            logits, statistics, image, cells, parts, inside, peak, CATEGORICAL, LAYOUTS, SHAPE
        )
        total += tl.where((cells < L)[:, None], exponential(exponent) * factor, 0.0)
    return peak, (1.0 / tl.sum(total, axis=0))[None, :]


@triton.jit
def weights_kernel(
    logits,
    statistics,  # of categorical cells, else None
    weights,
    CATEGORICAL: tl.constexpr,
    LAYOUTS: tl.constexpr,
    SHAPE: tl.constexpr,
    BLOCKS: tl.constexpr,
    INDEX: tl.constexpr,
):
    """w_{l−δ} for every shift δ: first the weights themselves, then, from the cache, the shifted ones."""
    L: tl.constexpr = SHAPE[1] * SHAPE[2]
    SHIFTS: tl.constexpr = SHAPE[3] * SHAPE[3]
    image, parts = part_block(SHAPE, BLOCKS, INDEX)
    peak, share = normaliser(logits, statistics, image, parts, CATEGORICAL, LAYOUTS, SHAPE, BLOCKS, INDEX)
    rows = weights + ((image * SHAPE[0] + parts) * (SHIFTS * L))[None, :]
    for start in range(0, L, BLOCKS[0]):
        cells, inside = cell_block(start, parts, SHAPE, BLOCKS, INDEX)
        exponent, factor = load_weight_terms(
            logits, statistics, image, cells, parts, inside, peak, CATEGORICAL, LAYOUTS, SHAPE
        )
        weight = exponential(exponent) * (factor * share)
        tl.store(rows + SHIFTS // 2 * L + cells[:, None], weight.to(weights.dtype.element_ty), mask=inside)
    # The next loads read data that other threads of this program have written.
    tl.debug_barrier()
    for start in range(0, L, BLOCKS[0]):
        cells, inside = cell_block(start, parts, SHAPE, BLOCKS, INDEX)
        for shift in range(SHIFTS):
            if shift != SHIFTS // 2:
                # Offsets are symmetric: l − δ is l shifted by the offset counted from the end.
                source, source_inside = shift_of(SHIFTS - 1 - shift, cells, parts, inside, SHAPE)
                weight = tl.load(rows + SHIFTS // 2 * L + source[:, None], mask=source_inside, other=0.0)
                tl.store(rows + shift * L + cells[:, None], weight, mask=inside)


@triton.jit
def weights_backward_kernel(
    logits,
    statistics,  # of categorical cells, else None
    d_weights,
    d_logits,  # for categorical cells d_log p, float32, the input of couple_kernel
    CATEGORICAL: tl.constexpr,
    LAYOUTS: tl.constexpr,  # of logits and d_logits
    SHAPE: tl.constexpr,
    BLOCKS: tl.constexpr,
    INDEX: tl.constexpr,
):
    """d_w_l = Σ_δ of the shifted weights' gradients at l + δ, and d_log p_l = w_l (d_w_l − Σ_j w_j d_w_j)."""
    L: tl.constexpr = SHAPE[1] * SHAPE[2]
    SHIFTS: tl.constexpr = SHAPE[3] * SHAPE[3]
    image, parts = part_block(SHAPE, BLOCKS, INDEX)
    peak, share = normaliser(logits, statistics, image, parts, CATEGORICAL, LAYOUTS, SHAPE, BLOCKS, INDEX)
    rows = d_weights + ((image * SHAPE[0] + parts) * (SHIFTS * L))[None, :]
    mean_sum = tl.zeros(BLOCKS, tl.float32)
    for walk in tl.static_range(2):
        if walk == 1:
            mean = tl.sum(mean_sum, axis=0)[None, :]
        for start in range(0, L, BLOCKS[0]):
            cells, inside = cell_block(start, parts, SHAPE, BLOCKS, INDEX)
            d_weight = tl.zeros(BLOCKS, tl.float32)
            for shift in range(SHIFTS):
                target, target_inside = shift_of(shift, cells, parts, inside, SHAPE)
                moved = tl.load(rows + shift * L + target[:, None], mask=target_inside, other=0.0)
                d_weight += moved.to(tl.float32)
            exponent, factor = load_weight_terms(
                logits, statistics, image, cells, parts, inside, peak, CATEGORICAL, LAYOUTS, SHAPE
            )
            weight = tl.where(inside, exponential(exponent) * (factor * share), 0.0)
            if walk == 0:
                mean_sum += weight * d_weight
            else:
                gradient = weight * (d_weight - mean)
                if not CATEGORICAL:
                    logit = load_logits(logits, image, cells, parts, inside, LAYOUTS)
                    not_p, _ = sigmoid_and_slope(-logit)
                    gradient = of_finite(gradient * not_p, logit)
                store_map(d_logits, gradient, image, cells, parts, inside, LAYOUTS, 1)


# Launchers


@cache
def tiles(parts: int, cells: int):
    """Tiles of up to 1024 (cell, part) pairs in four warps, cells first, since they are adjacent in the output."""
    block_cells = min(1024, triton.next_power_of_2(cells))
    block_parts = min(triton.next_power_of_2(parts), 1024 // block_cells)
    return (block_cells, block_parts), max(1, block_cells * block_parts // 256), triton.cdiv(parts, block_parts)


def launch(kernel, logits: Tensor, statistics: Tensor | None, kernel_size: int, *others: Tensor):
    """Runs a kernel over all images and tiles of parts: logits (B, N, h, w), the cells' statistics of categorical
    occurrences or None, and the kernel's other tensors, maps after the first."""
    images, parts, height, width = logits.shape
    blocks, warps, part_blocks = tiles(parts, height * width)
    map_layouts = layouts(logits, *others[1:])
    kernel[(images * part_blocks,)](
        logits,
        statistics,
        *others,
        CATEGORICAL=statistics is not None,
        LAYOUTS=map_layouts,
        SHAPE=(parts, height, width, kernel_size),
        BLOCKS=blocks,
        INDEX=index_type(parts, height, map_layouts),
        num_warps=warps,
    )


def shifted_weights(logits: Tensor, statistics: Tensor | None, kernel_size: int, weights: Tensor):
    """Fills weights (B, N, k², L), of any dtype: w_{l−δ}, zero where l − δ lies outside the grid.

    statistics: of categorical cells (occurrence.py), None for Bernoulli occurrences.
    """
    launch(weights_kernel, logits, statistics, kernel_size, weights)


def shifted_weights_backward(
    d_weights: Tensor, logits: Tensor, statistics: Tensor | None, kernel_size: int, d_logits: Tensor
):
    """Fills d_logits (B, N, h, w) from the gradient of the shifted weights (B, N, k², L)."""
    if statistics is None:
        launch(weights_backward_kernel, logits, None, kernel_size, d_weights, d_logits)
        return
    d_log_p = torch.empty(logits.shape, dtype=torch.float32, device=logits.device)
    launch(weights_backward_kernel, logits, statistics, kernel_size, d_weights, d_log_p)
    no_prior = 0.0, 0.0
    occurrence.couple(logits, statistics, None, d_log_p, None, no_prior, occurrence.NO_DRAW, d_logits)
