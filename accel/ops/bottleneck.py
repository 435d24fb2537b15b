"""The PatchVAE bottleneck as differentiable functions. The equations are in reference/bottleneck.py."""

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from accel.common.bottleneck import BottleneckOptions, declare, takes_bottleneck_options
from accel.common.describing import ShowsShapes

from . import plain
from .backend import check_shape, check_tensors, choose_backend
from .draw import Draw, check_draw
from .noise import Noise


@dataclass(frozen=True, repr=False)
class PatchBottleneck(ShowsShapes):
    """The result of the bottleneck for B images, N parts of D appearance dimensions, and a grid of h × w cells.

    code: (B, N·D, h, w), the patch latent code, in the dtype and memory format of appearance_mean (of features for the
    pooled operator). The other tensors are float32 (float64 for float64 inputs): appearance_mean and
    appearance_variance (B, N, D), the posterior of each part's appearance; kl_appearance and kl_occurrence
    (B,), in nats per image.
    """

    code: Tensor
    appearance_mean: Tensor
    appearance_variance: Tensor
    kl_appearance: Tensor
    kl_occurrence: Tensor


@takes_bottleneck_options
def patch_bottleneck(
    occurrence_logits: Tensor,
    appearance_mean: Tensor,
    appearance_log_variance: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    noise: Noise | None = None,
    sample: bool = True,
    backend: str | None = None,
    **options: Any,
) -> PatchBottleneck:
    """Pool each part's appearance over the image, sample appearance and occurrence, and multiply them into a code.

    Paper, sections 3.2 and 3.3; reference.patch_bottleneck is the same function on NumPy arrays.

    occurrence_logits: a (B, N, h, w); infinite logits are allowed, with p = 0 or 1 and gradient 0. appearance_mean,
    appearance_log_variance: μ and s (B, N·D, h, w); dimension d of part n is channel n·D + d. Any strides; float64,
    float32, bfloat16 or float16, with float32 arithmetic inside. Under autocast too, if the backward pass is outside of
    it, as PyTorch recommends; torch.compile needs torch._functorch.config.backward_pass_autocast = "off" for that.
    temperature: τ > 0 of the relaxed occurrences, a number or a 0-d tensor that does not require a gradient. noise:
    determines the random draws; required for sampling. sample=False: use the posterior's mean, without noise. backend:
    "triton" or "torch"; Triton for CUDA tensors by default, which has neither second derivatives, forward-mode
    derivatives, nor torch.func. options: variance, occurrence, occurrence_prior,
    appearance_prior_mean, straight_through and detach_weights, documented in accel.BottleneckOptions.

    Raises ValueError for an argument of wrong shape, type or range, which the message names, and TypeError for an
    unknown keyword.
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
    draw = Draw(temperature, noise, sample)
    check_draw(name, draw)
    declared = _declare(name, operator.index(parts), **options)
    inputs = occurrence_logits, appearance_mean, appearance_log_variance
    if choose_backend(name, backend, *inputs) == "torch":
        return PatchBottleneck(*plain.patch_bottleneck(*inputs, declared, draw))
    from . import fused  # Triton is not everywhere

    return PatchBottleneck(*fused.patch_bottleneck(*inputs, declared, draw))


@takes_bottleneck_options
def pooled_patch_bottleneck(
    features: Tensor,
    occurrence_logits: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    noise: Noise | None = None,
    sample: bool = True,
    backend: str | None = None,
    **options: Any,
) -> PatchBottleneck:
    """patch_bottleneck(a, *conv2d(features, weight, bias).chunk(2, 1)) for the geometric rule, without the maps.

    Averaging over cells and convolution are both linear. So features are pooled first, for each shift of the kernel,
    and then one vector per part is projected instead of one per cell (reference.pooled_patch_bottleneck).

    features: f (B, E, h, w). occurrence_logits: a (B, N, h, w). weight: (2·N·D, E, k, k), k odd, zero padding
    of k // 2; the first N·D outputs are means, the others log-variances. bias: (2·N·D,). The other arguments,
    the result and the errors are patch_bottleneck's; a variance rule other than "geometric" raises ValueError.
    """
    name = "pooled_patch_bottleneck"
    check_tensors(name, features=features, occurrence_logits=occurrence_logits, weight=weight, bias=bias)
    images, parts, height, width = _check_logits(name, occurrence_logits)
    channels = max(1, features.shape[1]) if features.ndim == 4 else 1
    check_shape(name, "features", features, "(B, E, h, w)", (images, channels, height, width))
    outputs, kernel = (weight.shape[0], weight.shape[-1]) if weight.ndim == 4 else (0, 1)
    if outputs == 0 or outputs % (2 * parts) or kernel % 2 == 0:
        raise ValueError(
            f"{name}: weight must be (2·{parts}·D, {channels}, k, k) with k odd, got {tuple(weight.shape)}"
        )
    check_shape(name, "weight", weight, "(2·N·D, E, k, k)", (outputs, channels, kernel, kernel))
    check_shape(name, "bias", bias, "(2·N·D,)", (outputs,))
    draw = Draw(temperature, noise, sample)
    check_draw(name, draw)
    declared = _declare(name, operator.index(parts), **options)
    if declared.variance != "geometric":
        raise ValueError(f"{name}: variance must be 'geometric', since the arithmetic rule is not linear")
    inputs = features, occurrence_logits, weight, bias
    if choose_backend(name, backend, *inputs) == "torch":
        return PatchBottleneck(*plain.pooled_patch_bottleneck(*inputs, declared, draw))
    from . import fused

    return PatchBottleneck(*fused.pooled_patch_bottleneck(*inputs, declared, draw))


def _declare(function: str, parts: int, **options: Any) -> BottleneckOptions:
    if not torch.compiler.is_compiling():
        return declare(function, parts, options)
    # A compiler may take numbers for variables, and has no constants of those; as text they are constants.
    given = {name: value for name, value in options.items() if isinstance(value, (int, float))}
    texts = {name: float(value).hex() for name, value in given.items() if not isinstance(value, bool)}
    return _declare_constant(function, parts, tuple(texts), **(options | texts))


@torch.compiler.assume_constant_result
def _declare_constant(function: str, parts: int, floats: tuple[str, ...], **options: Any) -> BottleneckOptions:
    return declare(function, parts, options | {name: float.fromhex(options[name]) for name in floats})


def _check_logits(function: str, logits: Tensor) -> tuple[int, ...]:
    if logits.ndim != 4 or 0 in logits.shape[1:]:
        raise ValueError(
            f"{function}: occurrence_logits must be (B, N, h, w) with N, h, w ≥ 1, got {tuple(logits.shape)}"
        )
    return tuple(logits.shape)
