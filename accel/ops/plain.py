"""The bottleneck in plain PyTorch, which the public functions call for backend="torch", on any device, with higher
derivatives. The equations are in reference/bottleneck.py.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from accel.common.bottleneck import BottleneckOptions

from .backend import accumulation_dtype
from .draw import Draw
from .gaussian import gaussian_divergence, sample_gaussian
from .layout import memory_format
from .noise import appearance_noise
from .occurrence import DISTRIBUTIONS, sample_occurrence


def patch_bottleneck(
    occurrence_logits: Tensor, mean: Tensor, log_variance: Tensor, options: BottleneckOptions, draw: Draw
) -> tuple[Tensor, ...]:
    """code, m, v, KL_app and KL_occ from maps a, μ and s."""
    images, parts, height, width = occurrence_logits.shape
    part_dim = mean.shape[1] // parts
    dtype = accumulation_dtype(occurrence_logits, mean, log_variance)
    with torch.autocast(occurrence_logits.device.type, enabled=False):
        distribution = DISTRIBUTIONS[options.occurrence]
        normalised = distribution.normalise(occurrence_logits.to(dtype).flatten(2))
        mean_map, log_variance_map = (
            maps.to(dtype).reshape(images, parts, part_dim, height * width) for maps in (mean, log_variance)
        )
        log_p = distribution.log_probability(normalised.detach() if options.detach_weights else normalised)
        weights = log_p.softmax(-1)
        pooled_mean = torch.einsum("bnl,bndl->bnd", weights, mean_map)
        if options.variance == "geometric":
            pooled = torch.einsum("bnl,bndl->bnd", weights, log_variance_map)
        else:
            pooled = (log_p.log_softmax(-1)[:, :, None] + log_variance_map).logsumexp(-1)
        return _sample_and_place(normalised, pooled_mean, pooled, (height, width), mean, options, draw)


def pooled_patch_bottleneck(
    features: Tensor, occurrence_logits: Tensor, weight: Tensor, bias: Tensor, options: BottleneckOptions, draw: Draw
) -> tuple[Tensor, ...]:
    """The same from features f, logits a and the convolution from f to μ and s."""
    images, parts, height, width = occurrence_logits.shape
    kernel = weight.shape[-1]
    dtype = accumulation_dtype(features, occurrence_logits, weight, bias)
    with torch.autocast(features.device.type, enabled=False):
        distribution = DISTRIBUTIONS[options.occurrence]
        normalised = distribution.normalise(occurrence_logits.to(dtype).flatten(2))
        log_p = distribution.log_probability(normalised.detach() if options.detach_weights else normalised)
        weights = log_p.softmax(-1)
        # Shifts the few weights instead of the many features: Σ_l w_l f_{l+δ} = Σ_l w_{l−δ} f_l. As unfold
        # lists w_{l+δ}, the offsets of the kernel are reversed.
        maps = weights.reshape(images, parts, height, width)
        shifted = F.unfold(maps, kernel, padding=kernel // 2).reshape(images, parts * kernel**2, height * width)
        pooled = torch.bmm(shifted, features.to(dtype).flatten(2).transpose(1, 2)).unflatten(1, (parts, kernel**2))
        mean, log_variance = project_pooled(pooled, weight.to(dtype).flip(2, 3), bias.to(dtype))
        return _sample_and_place(normalised, mean, log_variance, (height, width), features, options, draw)


def project_pooled(pooled: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """m and log v, (2, B, N, D), from features pooled for every shift, (B, N, k², E).

    One matrix product per part, which reads the pooled features, by far the largest tensor, without a copy; their
    gradient is contiguous for each image as well.
    """
    _, parts, shifts, channels = pooled.shape
    kernels = (
        weight.reshape(2, parts, -1, channels, shifts).permute(1, 4, 3, 0, 2).reshape(parts, shifts * channels, -1)
    )
    projected = torch.bmm(pooled.flatten(2).transpose(0, 1), kernels).unflatten(2, (2, -1))
    return projected.permute(2, 1, 0, 3) + bias.reshape(2, 1, parts, -1)


def _sample_and_place(
    normalised: Tensor,
    mean: Tensor,
    log_variance: Tensor,
    grid: tuple[int, int],
    like: Tensor,
    options: BottleneckOptions,
    draw: Draw,
) -> tuple[Tensor, ...]:
    """Samples, code and divergences; the code has the dtype and memory format of `like`."""
    distribution = DISTRIBUTIONS[options.occurrence]
    z = mean
    noise = draw.noise if draw.sample else None
    if noise is not None:
        epsilon = appearance_noise(noise, *mean.shape, device=mean.device, dtype=mean.dtype)
        z = sample_gaussian(mean, log_variance, epsilon)
    y = sample_occurrence(distribution, normalised, draw.temperature, noise, options.straight_through)
    code = (z[..., None] * y[:, :, None]).flatten(1, 2).unflatten(2, grid)
    kl_appearance = gaussian_divergence(mean - options.appearance_prior_mean, log_variance).sum((1, 2))
    assert options.occurrence_prior is not None  # of_parts has filled it in
    kl_occurrence = distribution.divergence(normalised, options.occurrence_prior)
    code = code.to(like.dtype).contiguous(memory_format=memory_format(like))
    return code, mean, log_variance.exp(), kl_appearance, kl_occurrence
