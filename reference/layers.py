"""Images in two layers: parts over a background of a few colours (the "ground").

Everything in an image must be decoded from its code. Without a background model, parts have to represent, for example,
the brightness of a wall. The ground has a small Gaussian code of its own, g ~ N(m, v) with prior N(0, 1): one number
for each channel and point of a coarse grid, which is interpolated bilinearly, with the corners of the grid at the
corners of the image. The decoder then predicts an opacity for each pixel in addition to its colour:

    x̂ = α tanh(c) + (1 − α) tanh(G),    α = σ(b),    G the ground at the pixel
"""

import numpy as np

from .divergence import sigmoid


def interpolation(points, pixels):
    """W (pixels, points): pixel i of n lies at i (points − 1) / (n − 1) on the grid, between its two neighbours."""
    at = np.linspace(0.0, points - 1.0, pixels)
    return np.maximum(0.0, 1.0 - np.abs(at[:, None] - np.arange(points)))


def ground_pixels(ground, height, width):
    """G = W g Wᵀ for each channel: (B, C, points, points) → (B, C, height, width)."""
    points = ground.shape[-1]
    return np.einsum("ya,bcaz,xz->bcyx", interpolation(points, height), ground, interpolation(points, width))


def ground_pixels_gradients(d_pixels, points):
    """d_g = Wᵀ d_G W: (B, C, height, width) → (B, C, points, points)."""
    rows, columns = (interpolation(points, pixels) for pixels in d_pixels.shape[2:])
    return np.einsum("ya,bcyx,xz->bcaz", rows, d_pixels, columns)


def compose(layers, ground):
    """x̂ of layers (B, C + 1, H, W), the colours c and, last, the logit b of the opacity, over G (B, C, H, W)."""
    colours, opacity = np.tanh(layers[:, :-1]), sigmoid(layers[:, -1:])
    return opacity * colours + (1.0 - opacity) * np.tanh(ground)


def compose_gradients(d_images, layers, ground):
    """(d_layers, d_G), of d (B, C, H, W) and in the shapes of `compose`.

    d_c = d α (1 − tanh² c),  d_b = Σ_C d (tanh c − tanh G) α (1 − α),  d_G = d (1 − α)(1 − tanh² G)
    """
    colours, opacity, behind = np.tanh(layers[:, :-1]), sigmoid(layers[:, -1:]), np.tanh(ground)
    d_colours = d_images * opacity * (1.0 - colours**2)
    d_opacity = (d_images * (colours - behind)).sum(1, keepdims=True) * opacity * (1.0 - opacity)
    return np.concatenate([d_colours, d_opacity], axis=1), d_images * (1.0 - opacity) * (1.0 - behind**2)
