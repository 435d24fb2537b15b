"""Quality of reconstructions: PSNR and SSIM on pixels mapped to [0, 1], one value per image."""

import torch
from torch import Tensor
from torch.nn import functional

from accel.training.held_out import psnr

__all__ = ["psnr", "ssim"]

WINDOW_SIZE, WINDOW_DEVIATION = 11, 1.5
K1, K2 = 0.01, 0.03


def ssim(reconstruction: Tensor, images: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004), the mean over windows inside the image and over channels.

        SSIM = (2 μ_x μ_y + C₁)(2 σ_xy + C₂) / ((μ_x² + μ_y² + C₁)(σ_x² + σ_y² + C₂)),   C_i = K_i²

    with moments in an 11 × 11 Gaussian window of deviation 1.5. Both (B, C, H, W) in [−1, 1] → (B,), at
    most 1. Raises ValueError for images smaller than the window.
    """
    height, width = images.shape[2:]
    if min(height, width) < WINDOW_SIZE:
        raise ValueError(f"ssim needs images of at least 11x11 pixels, got {height}x{width}")
    offset = torch.arange(WINDOW_SIZE, dtype=images.dtype, device=images.device) - WINDOW_SIZE // 2
    window = torch.exp(-0.5 * (offset / WINDOW_DEVIATION) ** 2)
    window = window / window.sum()

    def local_mean(x: Tensor) -> Tensor:
        x = x.flatten(0, 1)[:, None]
        x = functional.conv2d(x, window[None, None, :, None])
        return functional.conv2d(x, window[None, None, None, :]).unflatten(0, images.shape[:2])[:, :, 0]

    x, y = (images + 1) / 2, (reconstruction + 1) / 2
    mean_x, mean_y = local_mean(x), local_mean(y)
    # Moments are taken relative to the image's mean, since cancellation loses digits where contrast is low.
    centred_x, centred_y = x - x.mean((2, 3), keepdim=True), y - y.mean((2, 3), keepdim=True)
    local_x, local_y = local_mean(centred_x), local_mean(centred_y)
    variance_x = local_mean(centred_x**2) - local_x**2
    variance_y = local_mean(centred_y**2) - local_y**2
    covariance = local_mean(centred_x * centred_y) - local_x * local_y
    similarity = ((2 * mean_x * mean_y + K1**2) * (2 * covariance + K2**2)) / (
        (mean_x**2 + mean_y**2 + K1**2) * (variance_x + variance_y + K2**2)
    )
    return similarity.mean((1, 2, 3))
