"""Launches the kernels of the PatchVAE bottleneck: one for each pass, and two small ones for categorical occurrences:
the first reads the logits before either pass, and the second couples the parts of a cell after the backward pass.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from accel.common.bottleneck import BottleneckOptions

from . import occurrence
from .bottleneck_backward import backward_kernel
from .bottleneck_forward import forward_kernel
from .tiles import blocks, index_type, layouts, side_by_side


@triton.jit
def sum_kernel(partials, totals, BLOCKS: tl.constexpr, BLOCK: tl.constexpr):
    """Sums both divergences of an image over its part blocks, in a fixed order."""
    image = tl.program_id(0).to(tl.int64)
    offsets = tl.arange(0, BLOCK)
    for kind in tl.static_range(2):
        terms = tl.load(partials[kind] + image * BLOCKS + offsets, mask=offsets < BLOCKS, other=0.0)
        tl.store(totals[kind] + image, tl.sum(terms, axis=0))


def number(argument: Tensor | None, device):
    """A 0-d tensor as a kernel argument: its address if it is on the device, else its value."""
    return argument if argument is None or argument.device == device else argument.item()


def kernel_draw(draw: list[Tensor], device) -> dict:
    """Seed, step, first image and temperature as kernel arguments, from 0-d tensors in this order."""
    if not draw:
        return occurrence.NO_DRAW
    names = "seed", "step", "first_image", "temperature"
    return {name: number(x, device) for name, x in zip(names, draw, strict=True)} | {"SAMPLE": True}


def log_prior(options: BottleneckOptions, parts: int) -> tuple[float, float]:
    """log π, and the logarithm of the remaining probability: of absence of a part, or of all parts."""
    prior = options.occurrence_prior
    return math.log(prior), math.log1p(-prior * (parts if options.occurrence == "categorical" else 1))


def kernel_options(options: BottleneckOptions, pooled: bool, parts: int) -> dict:
    """The arguments of both kernels with the bottleneck's options."""
    return {
        "prior": log_prior(options, parts),
        "prior_mean": options.appearance_prior_mean,
        "POOLED": pooled,
        "ARITHMETIC": options.variance == "arithmetic",
        "CATEGORICAL": options.occurrence == "categorical",
        "HARD": options.straight_through,
    }


def forward(
    logits: Tensor,
    mean: Tensor,
    log_variance: Tensor,
    options: BottleneckOptions,
    draw: list[Tensor],
    pooled: bool,
    outputs: tuple[Tensor, ...],
):
    """Fills outputs: code, m, v, KL_app, KL_occ and saved, as forward_kernel describes them, and the statistics of
    categorical cells.

    mean and log_variance are μ and s, or, if pooled, contiguous m and log v. draw: seed, step, index of the first image
    and temperature as 0-d tensors; empty for the posterior's mean.
    """
    code, pooled_mean, pooled_variance, *totals, saved, statistics = outputs
    images, parts, height, width = logits.shape
    shape = parts, pooled_mean.shape[2], height * width
    maps = logits, mean, log_variance, code
    map_layouts = layouts(*maps)
    heavy = options.variance == "arithmetic" and not pooled
    tile, warps = blocks(*shape, code.stride(1) == 1, code.element_size(), heavy)
    part_blocks = triton.cdiv(parts, tile[0])
    partials = totals
    if part_blocks > 1:
        partials = [torch.empty(images, part_blocks, dtype=torch.float32, device=code.device) for _ in totals]
    what, how = kernel_options(options, pooled, parts), kernel_draw(draw, code.device)
    if what["CATEGORICAL"]:
        occurrence.fill_cell_statistics(logits, how, statistics)
    forward_kernel[(images * part_blocks,)](
        maps=maps,
        statistics=statistics if what["CATEGORICAL"] else None,
        moments=(pooled_mean, pooled_variance),
        saved=saved,
        divergences=tuple(partials),
        **what,
        **how,
        LAYOUTS=map_layouts,
        SHAPE=shape,
        BLOCKS=(*tile, *side_by_side(tile, code, heavy)),
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
    statistics: Tensor,
    options: BottleneckOptions,
    draw: list[Tensor],
    pooled: bool,
    outputs: tuple[Tensor, ...],
):
    """Fills outputs: the gradients of a, μ and s, or, if pooled, of a, m and log v.

    incoming: the gradients of code, m, v, KL_app and KL_occ, with any strides, None for zero. mean is required if
    gradients flow through the weights; log_variance in this case and for the arithmetic rule.
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
    tile, warps = blocks(*shape, code_like.stride(1) == 1, code_like.element_size(), not detached, True)
    what, how = kernel_options(options, pooled, parts), kernel_draw(draw, logits.device)
    coupled = None, None
    if what["CATEGORICAL"]:
        count = 1 if detached else 2
        scratch = torch.empty(count, images, parts, shape[2], dtype=torch.float32, device=logits.device)
        coupled = scratch[0], None if detached else scratch[1]
    backward_kernel[(images * triton.cdiv(parts, tile[0]),)](
        maps=maps,
        statistics=statistics if what["CATEGORICAL"] else None,
        coupled=coupled,
        pooled_mean=pooled_mean,
        saved=saved,
        incoming=tuple(d_pooled),
        **what,
        **how,
        DETACH=detached,
        LAYOUTS=(*map_layouts, *(g if g is None else g.stride() for g in d_pooled)),
        SHAPE=shape,
        BLOCKS=(*tile, *side_by_side(tile, code_like, not detached)),
        INDEX=index_type(parts * shape[1], height, map_layouts),
        num_warps=warps,
    )
    if what["CATEGORICAL"]:
        occurrence.couple(logits, statistics, *coupled, d_pooled[3], what["prior"], how, outputs[0])
