"""Quality of reconstructions and samples: PSNR, SSIM and the Fréchet distance.

Pixels in [−1, 1] are first mapped to [0, 1], so that the data range is 1.
"""

import numpy as np

WINDOW_SIZE = 11
WINDOW_DEVIATION = 1.5
K1, K2 = 0.01, 0.03


def psnr(reconstruction, images):
    """10 log₁₀(1 / MSE), decibels, one value per image: (B, C, H, W) in [−1, 1] → (B,). Infinite if equal."""
    squared_error = ((reconstruction - images) / 2.0) ** 2
    with np.errstate(divide="ignore"):
        return -10.0 * np.log10(squared_error.mean((1, 2, 3)))


def gaussian_window():
    """The 11 weights of a Gaussian with deviation 1.5, sum 1; the 11 × 11 window is their outer product."""
    offset = np.arange(WINDOW_SIZE) - WINDOW_SIZE // 2
    window = np.exp(-0.5 * (offset / WINDOW_DEVIATION) ** 2)
    return window / window.sum()


def _local_mean(x):
    """Gaussian average around every pixel whose whole window lies inside the image."""
    window = gaussian_window()
    for axis in (2, 3):
        x = np.lib.stride_tricks.sliding_window_view(x, WINDOW_SIZE, axis) @ window
    return x


def ssim(reconstruction, images):
    """Structural similarity (Wang et al. 2004), the mean over windows and channels: (B, C, H, W) → (B,).

        SSIM = (2 μ_x μ_y + C₁)(2 σ_xy + C₂) / ((μ_x² + μ_y² + C₁)(σ_x² + σ_y² + C₂)),   C_i = K_i²

    with local moments in the Gaussian window. Raises ValueError for a height or width below 11.
    """
    if min(images.shape[2:]) < WINDOW_SIZE:
        raise ValueError(f"ssim needs images of at least 11x11 pixels, got {images.shape[2]}x{images.shape[3]}")
    x, y = (images + 1.0) / 2.0, (reconstruction + 1.0) / 2.0
    mean_x, mean_y = _local_mean(x), _local_mean(y)
    variance_x = _local_mean(x * x) - mean_x**2
    variance_y = _local_mean(y * y) - mean_y**2
    covariance = _local_mean(x * y) - mean_x * mean_y
    similarity = ((2.0 * mean_x * mean_y + K1**2) * (2.0 * covariance + K2**2)) / (
        (mean_x**2 + mean_y**2 + K1**2) * (variance_x + variance_y + K2**2)
    )
    return similarity.mean((1, 2, 3))


def frechet_distance(mean_1, covariance_1, mean_2, covariance_2):
    """|μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2 (Σ₁ Σ₂)^½), the squared Wasserstein-2 distance of two Gaussians.

    Σ₁ Σ₂ has the eigenvalues of the symmetric, positive semi-definite Σ₁^½ Σ₂ Σ₁^½, so the trace of its root
    is the sum of their roots. Eigenvalues that are negative by rounding are set to zero.
    means: (E,). covariances: (E, E). Returns a number, which is not negative except by rounding.
    """
    values, vectors = np.linalg.eigh(covariance_1)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    product_values = np.linalg.eigvalsh(root @ covariance_2 @ root)
    trace_of_root = np.sqrt(np.maximum(product_values, 0.0)).sum()
    difference = mean_1 - mean_2
    return difference @ difference + np.trace(covariance_1) + np.trace(covariance_2) - 2.0 * trace_of_root
