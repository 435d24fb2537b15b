"""The PatchVAE bottleneck as differentiable functions. The equations stand in reference/bottleneck.py."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .backend import accumulation_dtype, check_shape, check_tensors, choose_backend
from .noise import Noise, appearance_noise, occurrence_noise

VARIANCE_RULES = ("geometric", "arithmetic")
OCCURRENCES = ("bernoulli", "categorical")


@dataclass(frozen=True)
class PatchBottleneck:
    """B images, N parts, D numbers of appearance a part, a grid of h × w cells.

    code: (B, N·D, h, w), the patch latent code, in appearance_mean's dtype and memory format (for the pooled
    operator: in features'). The rest is float32 (float64 for float64 inputs): appearance_mean and
    appearance_variance (B, N, D), the posterior of each part's appearance; kl_appearance and kl_occurrence
    (B,), in nats an image.
    """

    code: Tensor
    appearance_mean: Tensor
    appearance_variance: Tensor
    kl_appearance: Tensor
    kl_occurrence: Tensor


def patch_bottleneck(
    occurrence_logits: Tensor,
    appearance_mean: Tensor,
    appearance_log_variance: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    noise: Noise | None = None,
    occurrence_prior: float | None = None,
    appearance_prior_mean: float = 0.0,
    variance: str = "geometric",
    straight_through: bool = False,
    detach_weights: bool = True,
    sample: bool = True,
    occurrence: str = "bernoulli",
    backend: str | None = None,
) -> PatchBottleneck:
    """Pool each part's appearance over the image, sample occurrence and appearance, place one by the other.

    Paper, sections 3.2 and 3.3; reference.patch_bottleneck is the same function on NumPy arrays.

    occurrence_logits: a (B, N, h, w). appearance_mean, appearance_log_variance: μ and s (B, N·D, h, w), part n,
    number d in channel n·D + d. Any strides; float64, float32, bfloat16 or float16, float32 inside.
    temperature: τ > 0 of the relaxed Bernoulli, a number or a 0-d tensor that needs no gradient. noise: the draws'
    address, needed when sampling. occurrence_prior: 0 < π < 1; 1/N if not given, ½ for N = 1.
    appearance_prior_mean: c of the prior N(c, 1) of each number of an appearance, finite. variance: "geometric"
    (log v = Σ w s) or "arithmetic" (v = Σ w exp s). straight_through: place hard Bernoulli samples, with the
    relaxed ones' gradient. detach_weights: no gradient flows through the pooling weights w. sample=False: the
    posterior's mean, deterministic. occurrence: "bernoulli", each part by itself, or "categorical", one part a cell
    at most: the parts and "none", whose logit is 0 and whose prior 1 − N·π, with π = 1/(N + 1) if not given,
    relaxed together (Gumbel-softmax; Jang et al. 2017; backend "torch" alone).
    backend: "triton" or "torch"; Triton for CUDA tensors if not given.

    Raises ValueError for an argument of another shape, kind or range, named in the message.
    """
    name = "patch_bottleneck"
    check_tensors(
        name,
        occurrence_logits=occurrence_logits,
        appearance_mean=appearance_mean,
        appearance_log_variance=appearance_log_variance,
    )
    images, parts, height, width = _check_logits(name, occurrence_logits)
    part_dim = appearance_mean.shape[1] // parts if appearance_mean.ndim == 4 else 0
    expected = (images, parts * max(part_dim, 1), height, width)
    check_shape(name, "appearance_mean", appearance_mean, f"(B, {parts}·D, h, w)", expected)
    check_shape(name, "appearance_log_variance", appearance_log_variance, "appearance_mean's shape", expected)
    if variance not in VARIANCE_RULES:
        raise ValueError(f"{name}: variance must be 'geometric' or 'arithmetic', got {variance!r}")
    occurrence_prior = _check_sampling(name, parts, temperature, noise, occurrence_prior, sample, occurrence)
    _check_prior_mean(name, appearance_prior_mean)
    backend = _check_occurrence(name, occurrence, backend)
    inputs = occurrence_logits, appearance_mean, appearance_log_variance
    if choose_backend(name, backend, *inputs) == "triton":
        from . import fused

        return PatchBottleneck(
            *fused.patch_bottleneck(
                *inputs,
                temperature,
                noise,
                occurrence_prior,
                appearance_prior_mean,
                variance,
                straight_through,
                detach_weights,
                sample,
            )
        )
    dtype = accumulation_dtype(*inputs)
    with torch.autocast(occurrence_logits.device.type, enabled=False):
        logits = occurrence_logits.to(dtype).flatten(2)
        mean_map, log_variance_map = (
            maps.to(dtype).reshape(images, parts, part_dim, height * width)
            for maps in (appearance_mean, appearance_log_variance)
        )
        weights = _occurrence_weights(logits, detach_weights, occurrence)
        mean = torch.einsum("bnl,bndl->bnd", weights, mean_map)
        if variance == "geometric":
            log_variance = torch.einsum("bnl,bndl->bnd", weights, log_variance_map)
        else:
            # Relative to each pooled number's largest s, so that exp neither overflows nor vanishes.
            peak = log_variance_map.detach().amax(-1, keepdim=True)
            spread = torch.einsum("bnl,bndl->bnd", weights, (log_variance_map - peak).exp())
            log_variance = peak.squeeze(-1) + spread.log()
        return _sample_and_place(
            logits, mean, log_variance, (height, width), appearance_mean,
            temperature, noise, occurrence_prior, appearance_prior_mean, straight_through, sample, occurrence,
        )  # fmt: skip


def pooled_patch_bottleneck(
    features: Tensor,
    occurrence_logits: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    noise: Noise | None = None,
    occurrence_prior: float | None = None,
    appearance_prior_mean: float = 0.0,
    straight_through: bool = False,
    detach_weights: bool = True,
    sample: bool = True,
    occurrence: str = "bernoulli",
    backend: str | None = None,
) -> PatchBottleneck:
    """patch_bottleneck(a, *conv2d(features, weight, bias).chunk(2, 1)) under the geometric rule, without the maps.

    Averaging over cells and convolution are both linear, so features are pooled first, under each shift of the
    kernel, and one vector a part is projected instead of one a cell (reference.pooled_patch_bottleneck).

    features: f (B, E, h, w). occurrence_logits: a (B, N, h, w). weight: (2·N·D, E, k, k), k odd, zero padding
    of k // 2; the first N·D outputs are means, the others log-variances. bias: (2·N·D,). The other arguments,
    the result and the errors are patch_bottleneck's.
    """
    name = "pooled_patch_bottleneck"
    check_tensors(name, features=features, occurrence_logits=occurrence_logits, weight=weight, bias=bias)
    images, parts, height, width = _check_logits(name, occurrence_logits)
    channels = features.shape[1] if features.ndim == 4 else 0
    check_shape(name, "features", features, "(B, E, h, w)", (images, channels, height, width))
    outputs, kernel = (weight.shape[0], weight.shape[-1]) if weight.ndim == 4 else (0, 1)
    if outputs == 0 or outputs % (2 * parts) or kernel % 2 == 0:
        raise ValueError(
            f"{name}: weight must be (2·{parts}·D, {channels}, k, k) with k odd, got {tuple(weight.shape)}"
        )
    check_shape(name, "weight", weight, "(2·N·D, E, k, k)", (outputs, channels, kernel, kernel))
    check_shape(name, "bias", bias, "(2·N·D,)", (outputs,))
    occurrence_prior = _check_sampling(name, parts, temperature, noise, occurrence_prior, sample, occurrence)
    _check_prior_mean(name, appearance_prior_mean)
    backend = _check_occurrence(name, occurrence, backend)
    inputs = features, occurrence_logits, weight, bias
    if choose_backend(name, backend, *inputs) == "triton":
        from . import fused

        return PatchBottleneck(
            *fused.pooled_patch_bottleneck(
                *inputs,
                temperature,
                noise,
                occurrence_prior,
                appearance_prior_mean,
                straight_through,
                detach_weights,
                sample,
            )
        )
    dtype = accumulation_dtype(*inputs)
    with torch.autocast(features.device.type, enabled=False):
        logits = occurrence_logits.to(dtype).flatten(2)
        weights = _occurrence_weights(logits, detach_weights, occurrence).reshape(images, parts, height, width)
        # Shifting the few weights instead of the many features: Σ_l w_l f_{l+δ} = Σ_l w_{l−δ} f_l, and unfold
        # lists w_{l+δ}, so the kernel's offsets are read backwards.
        shifted = F.unfold(weights, kernel, padding=kernel // 2).reshape(images, parts * kernel**2, height * width)
        pooled = torch.bmm(shifted, features.to(dtype).flatten(2).transpose(1, 2)).unflatten(1, (parts, kernel**2))
        mean, log_variance = project_pooled(pooled, weight.to(dtype).flip(2, 3), bias.to(dtype))
        return _sample_and_place(
            logits, mean, log_variance, (height, width), features,
            temperature, noise, occurrence_prior, appearance_prior_mean, straight_through, sample, occurrence,
        )  # fmt: skip


def project_pooled(pooled: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """m and log v, (2, B, N, D), of features that were pooled under every shift, (B, N, k², E).

    A product for each part, in whose layout the pooled features, by far the largest, are read as they are.
    """
    _, parts, shifts, channels = pooled.shape
    kernels = (
        weight.reshape(2, parts, -1, channels, shifts).permute(1, 0, 2, 4, 3).reshape(parts, -1, shifts * channels)
    )
    projected = torch.bmm(kernels, pooled.flatten(2).permute(1, 2, 0)).unflatten(1, (2, -1))
    return projected.permute(1, 3, 0, 2) + bias.reshape(2, 1, parts, -1)


def _check_logits(function, logits):
    if logits.ndim != 4 or 0 in logits.shape[1:]:
        raise ValueError(
            f"{function}: occurrence_logits must be (B, N, h, w) with N, h, w ≥ 1, got {tuple(logits.shape)}"
        )
    return tuple(logits.shape)


def _check_sampling(function, parts, temperature, noise, occurrence_prior, sample, occurrence):
    """Raises ValueError where sampling cannot go on; returns the prior, 1/N if it was not given."""
    if sample and noise is None:
        raise ValueError(f"{function}: sample=True needs noise=Noise(seed, step, first_image)")
    if isinstance(temperature, Tensor):
        if temperature.ndim:
            raise ValueError(
                f"{function}: temperature must be a number or a 0-d tensor, got shape {tuple(temperature.shape)}"
            )
        if temperature.requires_grad:
            raise ValueError(f"{function}: temperature gets no gradient, expected temperature.detach()")
    elif not 0.0 < temperature < math.inf:
        raise ValueError(f"{function}: temperature must be positive and finite, got {temperature}")
    if occurrence_prior is None:
        return default_prior(parts, occurrence)
    most = 1.0 / parts if occurrence == "categorical" else 1.0
    if not 0.0 < occurrence_prior < most:
        raise ValueError(f"{function}: occurrence_prior must lie between 0 and {most:g}, got {occurrence_prior}")
    return occurrence_prior


def _check_prior_mean(function, appearance_prior_mean):
    if not isinstance(appearance_prior_mean, (int, float)) or not math.isfinite(appearance_prior_mean):
        raise ValueError(f"{function}: appearance_prior_mean must be a finite number, got {appearance_prior_mean!r}")


def default_prior(parts: int, occurrence: str) -> float:
    """π where none is given: one part a cell is expected, or each part and none alike."""
    if occurrence == "categorical":
        return 1.0 / (parts + 1)
    # One part means a prior of 1, which has no logit; ½ is the nearest that says as little.
    return 1.0 / max(parts, 2)


def _check_occurrence(function, occurrence, backend):
    """Raises ValueError for an unknown kind or a backend that lacks it; returns the backend to ask for."""
    if occurrence not in OCCURRENCES:
        raise ValueError(f"{function}: occurrence must be 'bernoulli' or 'categorical', got {occurrence!r}")
    if occurrence == "bernoulli":
        return backend
    if backend == "triton":
        raise ValueError(f"{function}: occurrence='categorical' needs backend='torch'")
    return backend or "torch"


def _with_none(logits):
    """(B, N, L) → (B, N + 1, L), the last logit of a cell being that of no part."""
    return torch.cat([logits, torch.zeros_like(logits[:, :1])], dim=1)


def log_occurrence(logits: Tensor, occurrence: str) -> Tensor:
    """log p of each part in each cell, from a (B, N, …)."""
    return F.logsigmoid(logits) if occurrence == "bernoulli" else _with_none(logits).log_softmax(1)[:, :-1]


def _occurrence_weights(logits, detach_weights, occurrence):
    """w (B, N, L), summing to one over cells."""
    return log_occurrence(logits.detach() if detach_weights else logits, occurrence).softmax(-1)


def _bernoulli(logits, temperature, noise, prior, straight_through, sample):
    """(y (B, N, L), KL_occ (B,)) of parts that occur each by itself."""
    if sample:
        uniform = occurrence_noise(noise, *logits.shape, device=logits.device, dtype=logits.dtype)
        argument = logits + torch.log(uniform) - torch.log1p(-uniform)
        y = torch.sigmoid(argument / temperature)
        if straight_through:
            y = (argument > 0).to(y.dtype) + (y - y.detach())
    else:
        y = torch.sigmoid(logits)
    log_p, log_not_p = F.logsigmoid(logits), F.logsigmoid(-logits)
    divergence = torch.sigmoid(logits) * (log_p - math.log(prior))
    divergence = divergence + torch.sigmoid(-logits) * (log_not_p - math.log1p(-prior))
    return y, divergence.sum((1, 2))


def _categorical(logits, temperature, noise, prior, straight_through, sample):
    """(y (B, N, L), KL_occ (B,)) of cells that hold one part at most."""
    parts, log_p = logits.shape[1], _with_none(logits).log_softmax(1)
    p = log_p.exp()
    y = p
    if sample:
        shape = (len(logits), parts + 1, logits.shape[2])
        uniform = occurrence_noise(noise, *shape, device=logits.device, dtype=logits.dtype)
        argument = log_p - torch.log(-torch.log(uniform))
        y = (argument / temperature).softmax(1)
        if straight_through:
            hard = torch.zeros_like(y).scatter(1, argument.argmax(1, keepdim=True), 1.0)
            y = hard + (y - y.detach())
    nats = (p[:, :-1] * (log_p[:, :-1] - math.log(prior))).sum((1, 2))
    return y[:, :-1], nats + (p[:, -1] * (log_p[:, -1] - math.log1p(-parts * prior))).sum(1)


def _sample_and_place(
    logits, mean, log_variance, grid, like, temperature, noise, prior, prior_mean, straight_through, sample, occurrence
):
    images, parts, _ = logits.shape
    part_dim = mean.shape[2]
    z = mean
    if sample:
        draw = {"device": logits.device, "dtype": logits.dtype}
        z = mean + torch.exp(0.5 * log_variance) * appearance_noise(noise, images, parts, part_dim, **draw)
    sampled = _bernoulli if occurrence == "bernoulli" else _categorical
    y, kl_occurrence = sampled(logits, temperature, noise, prior, straight_through, sample)
    code = (z[..., None] * y[:, :, None]).reshape(images, parts * part_dim, *grid)
    kl_appearance = 0.5 * ((mean - prior_mean).square() + log_variance.exp() - 1.0 - log_variance).sum((1, 2))
    return PatchBottleneck(
        code.to(like.dtype).contiguous(memory_format=memory_format(like)),
        mean,
        log_variance.exp(),
        kl_appearance,
        kl_occurrence,
    )


def memory_format(tensor: Tensor) -> torch.memory_format:
    """Channels-last where a cell's channels are neighbours in memory, as in a slice of such a tensor."""
    if tensor.is_contiguous() or tensor.stride(1) != 1:
        return torch.contiguous_format
    return torch.channels_last
