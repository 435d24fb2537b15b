"""The operators with Triton kernels, which the public functions call for backend="triton".

Registered operators take tensors, numbers and text. So the bottleneck's options are passed as one line of text, and the
arguments of sampling as a list of 0-d tensors: seed, step, first image and temperature, or empty for the posterior's
mean.
"""

import torch
from torch import Tensor

from accel.common.bottleneck import BottleneckOptions

from ..kernels import bottleneck, occurrence, pooled, weighted_loss
from .draw import Draw
from .layout import empty_map, memory_format
from .plain import project_pooled
from .registration import define, define_launch, differentiate


def _draw_tensors(draw: Draw, device: torch.device) -> list[Tensor]:
    """The arguments of sampling as tensors: plain numbers stay on the host, and kernels get them as numbers.

    In compiled code they are moved to the device, since the code may be captured as a CUDA graph, which would keep the
    host's values of the capture.
    """
    if not draw.sample:
        return []
    where = device if torch.compiler.is_compiling() else torch.device("cpu")
    temperature = draw.temperature
    if not isinstance(temperature, Tensor):
        temperature = torch.full((), temperature, dtype=torch.float32, device=where)
    return [*draw.noise.tensors(where), temperature.to(torch.float32)]


# The bottleneck, from maps μ and s, or, if `pooled`, from pooled m and log v (B, N, D).


def _bottleneck_outputs(logits, mean, log_variance, draw, options, pooled, dtype, format):
    """code, m, v, KL_app, KL_occ, and, saved for the backward pass, statistics of parts and of categorical cells."""
    images, parts, height, width = logits.shape
    part_dim = mean.shape[2] if pooled else mean.shape[1] // parts
    categorical = BottleneckOptions.from_text(options).occurrence == "categorical"
    statistics = (occurrence.CELL_STATISTICS.value, height * width) if categorical else (0, 0)
    sizes = (parts, part_dim), (parts, part_dim), (), (), (parts, 2 * part_dim + (0 if pooled else 2)), statistics
    return (
        empty_map(logits, parts * part_dim, dtype, format),
        *(torch.empty(images, *size, dtype=torch.float32, device=logits.device) for size in sizes),
    )


def _launch_bottleneck(logits, mean, log_variance, draw, options, pooled, dtype, format, outputs):
    options = BottleneckOptions.from_text(options)
    bottleneck.forward(logits, mean, log_variance, options, draw, pooled, outputs)


_bottleneck = define_launch(
    "patch_bottleneck(Tensor logits, Tensor mean, Tensor log_variance, Tensor[] draw, str options, bool pooled, "
    "ScalarType dtype, MemoryFormat format) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _bottleneck_outputs,
    _launch_bottleneck,
)


def _bottleneck_gradients(incoming, logits, mean, log_variance, pooled_mean, *others):
    *_, pooled, mean_dtype, log_variance_dtype, format = others
    d_logits = empty_map(logits, logits.shape[1], logits.dtype, memory_format(logits))
    if pooled:
        return d_logits, torch.empty_like(pooled_mean), torch.empty_like(pooled_mean)
    channels = pooled_mean.shape[1] * pooled_mean.shape[2]
    return d_logits, *(empty_map(logits, channels, dtype, format) for dtype in (mean_dtype, log_variance_dtype))


def _launch_bottleneck_backward(incoming, *arguments):
    *tensors, draw, options, pooled, _, _, _, outputs = arguments
    bottleneck.backward(incoming, *tensors, BottleneckOptions.from_text(options), draw, pooled, outputs)


_bottleneck_backward = define_launch(
    "patch_bottleneck_backward(Tensor?[] incoming, Tensor logits, Tensor? mean, Tensor? log_variance, "
    "Tensor pooled_mean, Tensor saved, Tensor statistics, Tensor[] draw, str options, bool pooled, "
    "ScalarType mean_dtype, ScalarType log_variance_dtype, MemoryFormat format) -> (Tensor, Tensor, Tensor)",
    _bottleneck_gradients,
    _launch_bottleneck_backward,
)


def _save_bottleneck(ctx, inputs, outputs):
    logits, mean, log_variance, draw, options, pooled, _, format = inputs
    declared = BottleneckOptions.from_text(options)
    attached = not pooled and not declared.detach_weights
    _, pooled_mean, _, _, _, saved, statistics = outputs
    ctx.save_for_backward(
        logits,
        mean if attached else None,
        log_variance if attached or (declared.variance == "arithmetic" and not pooled) else None,
        pooled_mean,
        saved,
        statistics,
        *draw,
    )
    ctx.options = options, pooled, mean.dtype, log_variance.dtype, format
    ctx.mark_non_differentiable(saved, statistics)


def _differentiate_bottleneck(ctx, *gradients):
    incoming = list(gradients[:5])  # the others are not differentiable
    *tensors, draw = *ctx.saved_tensors[:6], list(ctx.saved_tensors[6:])
    d_logits, d_mean, d_log_variance = _bottleneck_backward(incoming, *tensors, draw, *ctx.options)
    return d_logits, d_mean, d_log_variance, None, None, None, None, None


differentiate(_bottleneck, _save_bottleneck, _differentiate_bottleneck)


def patch_bottleneck(
    logits: Tensor, mean: Tensor, log_variance: Tensor, options: BottleneckOptions, draw: Draw
) -> tuple[Tensor, ...]:
    """code, m, v, KL_app and KL_occ of the public function's arguments."""
    how = _draw_tensors(draw, logits.device), options.text
    return _bottleneck(logits, mean, log_variance, *how, False, mean.dtype, memory_format(mean))[:5]


# Pooling of features for the shifts of a kernel. Products have the features' dtype, the result is float32.


def _shifted_weights(logits, kernel_size, options, dtype):
    """(B, N·k², L), and the statistics of categorical cells."""
    images, parts, height, width = logits.shape
    weights = torch.empty(images, parts, kernel_size**2, height * width, dtype=dtype, device=logits.device)
    statistics = occurrence.new_cell_statistics(logits, options)
    pooled.shifted_weights(logits, statistics, kernel_size, weights)
    return weights.flatten(1, 2), statistics


def _run_pool_features(features, logits, kernel_size, options):
    weights, _ = _shifted_weights(logits, kernel_size, BottleneckOptions.from_text(options), features.dtype)
    features = features.flatten(2).transpose(1, 2)
    if features.dtype == torch.float32:
        result = torch.bmm(weights, features)
    elif features.is_cuda:
        result = torch.bmm(weights, features, out_dtype=torch.float32)
    else:
        result = torch.bmm(weights.float(), features.float())
    return result.unflatten(1, (logits.shape[1], kernel_size**2))


def _fake_pool_features(features, logits, kernel_size, options):
    images, parts = logits.shape[:2]
    return features.new_empty(images, parts, kernel_size**2, features.shape[1], dtype=torch.float32)


_pool_features = define(
    "pool_features(Tensor features, Tensor logits, int kernel_size, str options) -> Tensor",
    _run_pool_features,
    _fake_pool_features,
)


def _run_pool_features_backward(d_pooled, features, logits, kernel_size, options):
    grid, options = logits.shape[2:], BottleneckOptions.from_text(options)
    weights, statistics = _shifted_weights(logits, kernel_size, options, features.dtype)
    d_pooled = d_pooled.flatten(1, 2)
    with torch.autocast(features.device.type, enabled=False):
        if memory_format(features) == torch.channels_last:
            d_features = torch.bmm(weights.transpose(1, 2), d_pooled).unflatten(1, grid).permute(0, 3, 1, 2)
        else:
            d_features = torch.bmm(d_pooled.transpose(1, 2), weights).unflatten(2, grid)
        d_weights = None if options.detach_weights else torch.bmm(d_pooled, features.flatten(2))
    if d_weights is None:
        return d_features, logits.new_empty(0)
    d_logits = empty_map(logits, logits.shape[1], logits.dtype, memory_format(logits))
    pooled.shifted_weights_backward(d_weights, logits, statistics, kernel_size, d_logits)
    return d_features, d_logits


def _fake_pool_features_backward(d_pooled, features, logits, kernel_size, options):
    d_features = empty_map(features, features.shape[1], features.dtype, memory_format(features))
    if BottleneckOptions.from_text(options).detach_weights:
        return d_features, logits.new_empty(0)
    return d_features, empty_map(logits, logits.shape[1], logits.dtype, memory_format(logits))


_pool_features_backward = define(
    "pool_features_backward(Tensor d_pooled, Tensor features, Tensor logits, int kernel_size, str options) "
    "-> (Tensor, Tensor)",
    _run_pool_features_backward,
    _fake_pool_features_backward,
)


def _save_pool_features(ctx, inputs, outputs):
    features, logits, ctx.kernel_size, ctx.options = inputs
    ctx.save_for_backward(features, logits)


def _differentiate_pool_features(ctx, d_pooled):
    features, logits = ctx.saved_tensors
    # Permuted here, where a compiler can do it in one tiled kernel.
    d_pooled = d_pooled.to(features.dtype).contiguous()
    d_features, d_logits = _pool_features_backward(d_pooled, features, logits, ctx.kernel_size, ctx.options)
    detached = BottleneckOptions.from_text(ctx.options).detach_weights
    return d_features, None if detached else d_logits, None, None


differentiate(_pool_features, _save_pool_features, _differentiate_pool_features)


def pooled_patch_bottleneck(
    features: Tensor, logits: Tensor, weight: Tensor, bias: Tensor, options: BottleneckOptions, draw: Draw
) -> tuple[Tensor, ...]:
    """code, m, v, KL_app and KL_occ of the public function's arguments."""
    with torch.autocast(features.device.type, enabled=False):
        pooled_features = _pool_features(features, logits, weight.shape[-1], options.text)
        mean, log_variance = project_pooled(pooled_features, weight.float(), bias.float()).contiguous().unbind()
    how = _draw_tensors(draw, logits.device), options.text
    return _bottleneck(logits, mean, log_variance, *how, True, features.dtype, memory_format(features))[:5]


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
    return empty_map(reconstruction, reconstruction.shape[1], reconstruction.dtype, memory_format(reconstruction))


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
    reconstruction, images, energy, scale = ctx.saved_tensors
    dtypes = reconstruction.dtype, images.dtype
    if ctx.needs_input_grad[1]:  # or their gradient would be rounded to the other's dtype
        reconstruction = reconstruction.to(torch.promote_types(*dtypes))
    gradient = _squared_error_backward(d_total, reconstruction, images, energy, scale, ctx.patch_size)
    return gradient.to(dtypes[0]), -gradient.to(dtypes[1]) if ctx.needs_input_grad[1] else None, None


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
    energy, scale = _gradient_energy(images, patch_size)
    scale = scale[:, :, None, None]
    return torch.where(scale == 0.0, 1.0, energy * scale)
