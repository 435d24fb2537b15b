"""The operators on Triton's kernels: what the public functions call for backend="triton"."""

import torch
from torch import Tensor

from ..kernels import bottleneck, pooled, weighted_loss
from .bottleneck import memory_format, project_pooled
from .noise import Noise
from .registration import define, define_launch, differentiate

# The bottleneck. Its rule is the variance's; or "pooled", and then mean and log_variance are m and log v (B, N, D).

SAMPLING = (
    "Tensor? temperature, Tensor? seed, Tensor? step, Tensor? first_image, "
    "float prior, float prior_mean, str rule, bool straight_through"
)


def _sampling(temperature, noise, sample):
    """temperature, seed, step and first_image as 0-d tensors: on the host where they were plain numbers."""
    if not sample:
        return None, None, None, None
    if not isinstance(temperature, Tensor):
        temperature = torch.full((), temperature, dtype=torch.float32)
    return temperature.to(torch.float32), *noise.tensors("cpu")


def _empty_map(like, channels, dtype, format):
    images, _, height, width = like.shape
    return torch.empty(images, channels, height, width, dtype=dtype, device=like.device, memory_format=format)


def _bottleneck_outputs(
    logits, mean, log_variance, temperature, seed, step, first_image,
    prior, prior_mean, rule, straight_through, detach_weights, dtype, format,
):  # fmt: skip
    images, parts = logits.shape[:2]
    part_dim = mean.shape[2] if rule == "pooled" else mean.shape[1] // parts
    saved = 2 * part_dim if rule == "pooled" else 2 * part_dim + 2
    sizes = (parts, part_dim), (parts, part_dim), (), (), (parts, saved)
    return (
        _empty_map(logits, parts * part_dim, dtype, format),
        *(torch.empty(images, *size, dtype=torch.float32, device=logits.device) for size in sizes),
    )


def _launch_bottleneck(
    logits, mean, log_variance, temperature, seed, step, first_image,
    prior, prior_mean, rule, straight_through, detach_weights, dtype, format, outputs,
):  # fmt: skip
    noise = seed, step, first_image
    bottleneck.forward(
        logits, mean, log_variance, temperature, noise, prior, prior_mean, rule, straight_through, outputs
    )


_bottleneck = define_launch(
    f"patch_bottleneck(Tensor logits, Tensor mean, Tensor log_variance, {SAMPLING}, bool detach_weights, "
    "ScalarType dtype, MemoryFormat format) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _bottleneck_outputs,
    _launch_bottleneck,
)


def _bottleneck_gradients(
    d_code, d_mean, d_variance, d_kl_appearance, d_kl_occurrence,
    logits, mean, log_variance, pooled_mean, saved, temperature, seed, step, first_image,
    prior, prior_mean, rule, straight_through, mean_dtype, log_variance_dtype, format,
):  # fmt: skip
    d_logits = _empty_map(logits, logits.shape[1], logits.dtype, memory_format(logits))
    if rule == "pooled":
        return d_logits, torch.empty_like(pooled_mean), torch.empty_like(pooled_mean)
    channels = pooled_mean.shape[1] * pooled_mean.shape[2]
    dtypes = mean_dtype, log_variance_dtype
    return d_logits, *(_empty_map(logits, channels, dtype, format) for dtype in dtypes)


def _launch_bottleneck_backward(
    d_code, d_mean, d_variance, d_kl_appearance, d_kl_occurrence,
    logits, mean, log_variance, pooled_mean, saved, temperature, seed, step, first_image,
    prior, prior_mean, rule, straight_through, mean_dtype, log_variance_dtype, format, outputs,
):  # fmt: skip
    incoming = d_code, d_mean, d_variance, d_kl_appearance, d_kl_occurrence
    noise = seed, step, first_image
    bottleneck.backward(
        incoming, logits, mean, log_variance, pooled_mean, saved, temperature, noise,
        prior, prior_mean, rule, straight_through, outputs,
    )  # fmt: skip


_bottleneck_backward = define_launch(
    "patch_bottleneck_backward(Tensor? d_code, Tensor? d_mean, Tensor? d_variance, Tensor? d_kl_appearance, "
    "Tensor? d_kl_occurrence, Tensor logits, Tensor? mean, Tensor? log_variance, Tensor pooled_mean, Tensor saved, "
    f"{SAMPLING}, ScalarType mean_dtype, ScalarType log_variance_dtype, MemoryFormat format) "
    "-> (Tensor, Tensor, Tensor)",
    _bottleneck_gradients,
    _launch_bottleneck_backward,
)


def _save_bottleneck(ctx, inputs, outputs):
    logits, mean, log_variance, *noise, prior, prior_mean, rule, straight_through, detach_weights, _, format = inputs
    attached = rule != "pooled" and not detach_weights
    ctx.save_for_backward(
        logits,
        mean if attached else None,
        log_variance if attached or rule == "arithmetic" else None,
        outputs[1],
        outputs[5],
        *noise,
    )
    ctx.options = prior, prior_mean, rule, straight_through, mean.dtype, log_variance.dtype, format
    ctx.mark_non_differentiable(outputs[5])


def _differentiate_bottleneck(ctx, *gradients):
    results = _bottleneck_backward(*gradients[:5], *ctx.saved_tensors, *ctx.options)
    return *results, *[None] * 11


differentiate(_bottleneck, _save_bottleneck, _differentiate_bottleneck)


def patch_bottleneck(
    logits: Tensor,
    mean: Tensor,
    log_variance: Tensor,
    temperature: float | Tensor,
    noise: Noise | None,
    prior: float,
    prior_mean: float,
    variance: str,
    straight_through: bool,
    detach_weights: bool,
    sample: bool,
):
    """code, m, v, KL_app and KL_occ of the public function's arguments."""
    sampling = _sampling(temperature, noise, sample)
    options = prior, prior_mean, variance, straight_through, detach_weights, mean.dtype, memory_format(mean)
    return _bottleneck(logits, mean, log_variance, *sampling, *options)[:5]


# Pooling features under the shifts of a kernel. The products are in the features' dtype, the result is in float32.


def _shifted_weights(logits, kernel_size, dtype):
    """(B, N·k², L)"""
    images, parts, height, width = logits.shape
    weights = torch.empty(images, parts, kernel_size**2, height * width, dtype=dtype, device=logits.device)
    pooled.shifted_weights(logits, kernel_size, weights)
    return weights.flatten(1, 2)


def _run_pool_features(features, logits, kernel_size, detach_weights):
    weights, features = _shifted_weights(logits, kernel_size, features.dtype), features.flatten(2).transpose(1, 2)
    if features.dtype == torch.float32:
        result = torch.bmm(weights, features)
    elif features.is_cuda:
        result = torch.bmm(weights, features, out_dtype=torch.float32)
    else:
        result = torch.bmm(weights.float(), features.float())
    return result.unflatten(1, (logits.shape[1], kernel_size**2))


def _fake_pool_features(features, logits, kernel_size, detach_weights):
    images, parts = logits.shape[:2]
    return features.new_empty(images, parts, kernel_size**2, features.shape[1], dtype=torch.float32)


_pool_features = define(
    "pool_features(Tensor features, Tensor logits, int kernel_size, bool detach_weights) -> Tensor",
    _run_pool_features,
    _fake_pool_features,
)


def _run_pool_features_backward(d_pooled, features, logits, kernel_size, detach_weights):
    grid = logits.shape[2:]
    weights = _shifted_weights(logits, kernel_size, features.dtype)
    d_pooled = d_pooled.flatten(1, 2).to(features.dtype)
    if memory_format(features) == torch.channels_last:
        d_features = torch.bmm(weights.transpose(1, 2), d_pooled).unflatten(1, grid).permute(0, 3, 1, 2)
    else:
        d_features = torch.bmm(d_pooled.transpose(1, 2), weights).unflatten(2, grid)
    d_logits = _fake_pool_features_backward(d_pooled, features, logits, kernel_size, detach_weights)[1]
    if not detach_weights:
        d_weights = torch.bmm(d_pooled, features.flatten(2))
        pooled.shifted_weights_backward(d_weights, logits, kernel_size, d_logits)
    return d_features, d_logits


def _fake_pool_features_backward(d_pooled, features, logits, kernel_size, detach_weights):
    d_features = _empty_map(features, features.shape[1], features.dtype, memory_format(features))
    if detach_weights:
        return d_features, logits.new_empty(0)
    return d_features, _empty_map(logits, logits.shape[1], logits.dtype, memory_format(logits))


_pool_features_backward = define(
    "pool_features_backward(Tensor d_pooled, Tensor features, Tensor logits, int kernel_size, bool detach_weights) "
    "-> (Tensor, Tensor)",
    _run_pool_features_backward,
    _fake_pool_features_backward,
)


def _save_pool_features(ctx, inputs, outputs):
    *tensors, ctx.kernel_size, ctx.detach_weights = inputs
    ctx.save_for_backward(*tensors)


def _differentiate_pool_features(ctx, d_pooled):
    options = ctx.kernel_size, ctx.detach_weights
    d_features, d_logits = _pool_features_backward(d_pooled, *ctx.saved_tensors, *options)
    return d_features, None if ctx.detach_weights else d_logits, None, None


differentiate(_pool_features, _save_pool_features, _differentiate_pool_features)


def pooled_patch_bottleneck(
    features: Tensor,
    logits: Tensor,
    weight: Tensor,
    bias: Tensor,
    temperature: float | Tensor,
    noise: Noise | None,
    prior: float,
    prior_mean: float,
    straight_through: bool,
    detach_weights: bool,
    sample: bool,
):
    """code, m, v, KL_app and KL_occ of the public function's arguments."""
    with torch.autocast(features.device.type, enabled=False):
        pooled_features = _pool_features(features, logits, weight.shape[-1], detach_weights)
        mean, log_variance = project_pooled(pooled_features, weight.float(), bias.float()).contiguous().unbind()
    sampling = _sampling(temperature, noise, sample)
    options = prior, prior_mean, "pooled", straight_through, True, features.dtype, memory_format(features)
    return _bottleneck(logits, mean, log_variance, *sampling, *options)[:5]


# The weighted squared error.


def _error_outputs(reconstruction, images, patch_size):
    batch, channels, height, width = images.shape
    sizes = (), (channels, height // patch_size, width // patch_size), (channels,)
    return tuple(torch.empty(batch, *size, dtype=torch.float32, device=images.device) for size in sizes)


_squared_error = define_launch(
    "weighted_squared_error(Tensor reconstruction, Tensor images, int patch_size) -> (Tensor, Tensor, Tensor)",
    _error_outputs,
    weighted_loss.forward,
)


def _error_gradients(d_total, reconstruction, images, energy, scale, patch_size):
    return _empty_map(reconstruction, reconstruction.shape[1], reconstruction.dtype, memory_format(reconstruction))


_squared_error_backward = define_launch(
    "weighted_squared_error_backward(Tensor d_total, Tensor reconstruction, Tensor images, Tensor energy, "
    "Tensor scale, int patch_size) -> Tensor",
    _error_gradients,
    weighted_loss.backward,
)


def _save_squared_error(ctx, inputs, outputs):
    *tensors, ctx.patch_size = inputs
    ctx.save_for_backward(*tensors, *outputs[1:])
    ctx.mark_non_differentiable(*outputs[1:])


def _differentiate_squared_error(ctx, d_total, *_):
    d_reconstruction = _squared_error_backward(d_total, *ctx.saved_tensors, ctx.patch_size)
    d_images = -d_reconstruction.to(ctx.saved_tensors[1].dtype) if ctx.needs_input_grad[1] else None
    return d_reconstruction, d_images, None


differentiate(_squared_error, _save_squared_error, _differentiate_squared_error)


def weighted_squared_error(reconstruction: Tensor, images: Tensor, patch_size: int):
    """R (B,)."""
    return _squared_error(reconstruction, images, patch_size)[0]


_gradient_energy = define_launch(
    "gradient_energy(Tensor images, int patch_size) -> (Tensor, Tensor)",
    lambda images, patch_size: _error_outputs(None, images, patch_size)[1:],
    lambda images, patch_size, outputs: weighted_loss.forward(None, images, patch_size, (None, *outputs)),
)


def gradient_energy_weights(images: Tensor, patch_size: int):
    """ω (B, C, H/p, W/p)."""
    energy, scale = (x for x in _gradient_energy(images, patch_size))
    scale = scale[:, :, None, None]
    return torch.where(scale > 0.0, energy * scale, 1.0)
