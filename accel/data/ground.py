"""Backgrounds with the statistics of photographs, as a function of (seed, image).

The amplitude spectrum of photographs decreases as 1/f (Field 1987), which in two dimensions means equal energy in every
octave. So a background is a sum of fields, each twice as fine as the one before: random numbers on a grid, interpolated
bilinearly. Only +, -, *, / and floor are used, as in `looks`.
"""

import numpy as np

from accel.data.words import GROUND_STREAM, uniforms

LATTICES = (2, 4, 8, 16, 32)  # intervals a side
LEVELS = 21.0  # largest absolute value on the coarsest grid; it grows by GROWTH for each finer one,
GROWTH = 1.4  # since interpolation attenuates fine detail by this factor
COLOUR = 0.25  # deviation of each channel's own field, relative to that of the brightness
BASE = (64.0, 192.0)  # range of an image's mean colour
SHADE = 0.5  # largest relative change of brightness at opposite borders

FIELD = sum((intervals + 1) ** 2 for intervals in LATTICES)
WORDS = -(-(4 * FIELD + 5) // 4) * 4  # random numbers an image


def natural_ground(count: int, seed: int, first_image: int, image_size: int) -> np.ndarray:
    """Float32 (count, image_size, image_size, 3) in [0, 255]; image i depends on (seed, first_image + i) alone."""
    drawn = uniforms(GROUND_STREAM, seed, first_image, count, WORDS)
    numbers = drawn[:, : 4 * FIELD].reshape(count, 4, FIELD) * 2 - 1
    fields, start = np.zeros((count, 4, image_size, image_size), np.float32), 0
    for octave, intervals in enumerate(LATTICES):
        lattice = numbers[:, :, start : start + (intervals + 1) ** 2]
        lattice = lattice.reshape(count, 4, intervals + 1, intervals + 1) * np.float32(LEVELS * GROWTH**octave)
        fields += _between(_between(lattice, image_size), image_size)
        start += (intervals + 1) ** 2
    base, shade = drawn[:, 4 * FIELD :][:, :3], drawn[:, 4 * FIELD :][:, 3:5] * 2 - 1
    low, high = (np.float32(end) for end in BASE)
    colours = (low + base * (high - low))[..., None, None]
    ground = colours + fields[:, :1] + fields[:, 1:] * np.float32(COLOUR)
    across = (np.arange(image_size, dtype=np.float32) + np.float32(0.5)) / np.float32(image_size) * 2 - 1
    slope = shade[:, 0, None, None] * across + shade[:, 1, None, None] * across[:, None]  # in [−2, 2]
    ground = ground * (1 + slope[:, None] * np.float32(SHADE / 2))
    return np.ascontiguousarray(np.clip(ground, 0, 255).transpose(0, 2, 3, 1))


def _between(lattice: np.ndarray, size: int) -> np.ndarray:
    """Interpolates the last axis at the centres of `size` pixels and swaps it with the axis before it.

    (n, C, a, b) → (n, C, size, a): applied twice, it interpolates both axes and restores their order.
    """
    at = (np.arange(size, dtype=np.float32) + np.float32(0.5)) / np.float32(size) * np.float32(lattice.shape[3] - 1)
    left = np.floor(at).astype(np.int64)  # a pixel's middle lies before the last point
    share = at - left.astype(np.float32)
    low, high = lattice[..., left], lattice[..., left + 1]
    return (low + (high - low) * share).swapaxes(2, 3)
