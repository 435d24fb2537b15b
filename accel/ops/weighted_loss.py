"""The gradient-energy weighted reconstruction error. The equations are in reference/weighted_loss.py."""

import numbers

import torch
import torch.nn.functional as F
from torch import Tensor

from .backend import accumulation_dtype, check_shape, check_tensors, choose_backend


def gradient_energy_weights(images: Tensor, patch_size: int = 8, backend: str | None = None) -> Tensor:
    """The weight of each patch: its mean absolute Laplacian response, relative to the image's (paper, section 3.4).

    images: (B, C, H, W), H and W divisible by patch_size; any strides; float64, float32, bfloat16 or float16.
    Returns (B, C, H/p, W/p), float32 (float64 for float64 images), not negative, with mean 1 over patches for
    each image and channel, and all 1 where an image or channel has no gradient; NaN for a channel that
    contains a NaN. No gradient flows through it.
    Raises ValueError for an argument of wrong shape, type or range.
    """
    name = "gradient_energy_weights"
    check_tensors(name, images=images)
    _check_patches(name, images, patch_size)
    images = images.detach()
    if choose_backend(name, backend, images) == "triton":
        from . import fused

        return fused.gradient_energy_weights(images, patch_size)
    return _gradient_energy_weights(images.to(accumulation_dtype(images)), patch_size)


def weighted_squared_error(
    reconstruction: Tensor, images: Tensor, patch_size: int = 8, backend: str | None = None
) -> Tensor:
    """R = Σ ω (x − x̂)² over channels and pixels, ω the gradient-energy weight of each pixel's patch.

    reconstruction, images: (B, C, H, W), H and W divisible by patch_size; any strides, any two of float64,
    float32, bfloat16 and float16. Returns (B,), float32 (float64 if either is). No gradient flows through ω.
    Raises ValueError for an argument of wrong shape, type or range.
    """
    name = "weighted_squared_error"
    check_tensors(name, reconstruction=reconstruction, images=images)
    _check_patches(name, images, patch_size)
    check_shape(name, "reconstruction", reconstruction, "images' shape", tuple(images.shape))
    if choose_backend(name, backend, reconstruction, images) == "triton":
        from . import fused

        return fused.weighted_squared_error(reconstruction, images, patch_size)
    dtype = accumulation_dtype(reconstruction, images)
    images = images.to(dtype)
    squared_error = _patches((images - reconstruction.to(dtype)).square(), patch_size).sum((3, 5))
    return (_gradient_energy_weights(images.detach(), patch_size) * squared_error).sum((1, 2, 3))


def _check_patches(function: str, images: Tensor, patch_size: int) -> None:
    if images.ndim != 4 or 0 in images.shape[1:]:
        raise ValueError(f"{function}: images must be (B, C, H, W) with C, H, W ≥ 1, got {tuple(images.shape)}")
    if not isinstance(patch_size, numbers.Integral):
        raise ValueError(f"{function}: patch_size must be an integer, got {patch_size!r}")
    if patch_size < 1 or images.shape[2] % patch_size or images.shape[3] % patch_size:
        raise ValueError(
            f"{function}: patch_size must divide height and width {images.shape[2]}x{images.shape[3]}, got {patch_size}"
        )


def _patches(images: Tensor, patch_size: int) -> Tensor:
    """(B, C, H, W) → (B, C, H/p, p, W/p, p)."""
    batch, channels, height, width = images.shape
    return images.reshape(batch, channels, height // patch_size, patch_size, width // patch_size, patch_size)


def _gradient_energy_weights(images: Tensor, patch_size: int) -> Tensor:
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    up, down = padded[..., :-2, 1:-1], padded[..., 2:, 1:-1]
    left, right = padded[..., 1:-1, :-2], padded[..., 1:-1, 2:]
    # Added in pairs: exactly zero on a constant image, in every dtype.
    response = ((up + down) + (left + right) - 4.0 * images).abs()
    energy = _patches(response, patch_size).mean((3, 5))
    average = energy.mean((2, 3), keepdim=True)
    flat = average == 0
    return torch.where(flat, 1.0, energy / torch.where(flat, 1.0, average))  # NaN where an image has one
