"""The reconstruction error, weighted by gradient energy (paper, section 3.4).

Images are (B, C, H, W); patches are p × p pixels, p = 8 unless given, and tile the image.
"""

import numpy as np


def laplacian(images):
    """∇²x with the stencil [0 1 0; 1 −4 1; 0 1 0], borders replicated. (B, C, H, W) → the same.

    The neighbours are added in pairs, (up + down) + (left + right) − 4·centre, which is exactly zero on a
    constant image in any floating-point format.
    """
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    up, down = padded[..., :-2, 1:-1], padded[..., 2:, 1:-1]
    left, right = padded[..., 1:-1, :-2], padded[..., 1:-1, 2:]
    return (up + down) + (left + right) - 4.0 * images


def gradient_energy_weights(images, patch_size=8):
    """ω_q = e_q / mean_q' e_q'  with  e_q = mean over patch q of |∇²x|. (B, C, H/p, W/p), mean 1.

    One mean for each image and channel. The paper normalises the weights to sum to one over the image; here
    they are multiplied by H·W, so that a uniform weight is 1, and β has the same meaning with and without weighting.
    For an image or channel without any gradient, ω = 1.
    Raises ValueError if p does not divide height and width.
    """
    batch, channels, height, width = images.shape
    if height % patch_size or width % patch_size:
        raise ValueError(
            f"images must have height and width divisible by patch_size {patch_size}, got {height}x{width}"
        )
    rows, columns = height // patch_size, width // patch_size
    response = np.abs(laplacian(images))
    energy = response.reshape(batch, channels, rows, patch_size, columns, patch_size).mean((3, 5))
    average = energy.mean((2, 3), keepdims=True)
    return np.where(average == 0, 1.0, energy / np.where(average == 0, 1.0, average))  # NaN where an image has one


def _pixel_weights(images, patch_size):
    """ω of each pixel's patch, (B, C, H, W)."""
    return gradient_energy_weights(images, patch_size).repeat(patch_size, 2).repeat(patch_size, 3)


def weighted_squared_error(reconstruction, images, patch_size=8):
    """R = Σ ω (x − x̂)² over channels and pixels: reconstruction x̂ and images x, (B, C, H, W), → (B,)."""
    return (_pixel_weights(images, patch_size) * (images - reconstruction) ** 2).sum((1, 2, 3))


def weighted_squared_error_gradients(d_error, reconstruction, images, patch_size=8):
    """d_x̂ = 2 ω (x̂ − x) d_R and d_x = −d_x̂, each (B, C, H, W), of d_R (B,): no gradient flows through ω."""
    weights = _pixel_weights(images, patch_size)
    d_reconstruction = 2.0 * weights * (reconstruction - images) * d_error[:, None, None, None]
    return d_reconstruction, -d_reconstruction
