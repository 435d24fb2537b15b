"""The part types of the generated data set `parts`: shapes, textures and palettes.

Coordinates (u, v) are relative to the part, v downward, in units of its radius. A shape is an approximate signed
distance function: negative inside, zero on the outline. A texture gives the tone, 0 for the dark and 1
for the light colour of the palette; `sharpness` is the radius in pixels, so that an edge between tones is one pixel
wide at any size, and `phase` in [-1, 1] moves the texture inside the shape.

Only +, -, *, /, comparisons, floor and square roots are used: IEEE arithmetic gives the same results for these on every
machine.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

Array = np.ndarray

# (light, dark): each palette belongs to two or three part types, and to backgrounds and clutter.
PALETTES = np.array(
    [
        [(252, 214, 52), (164, 16, 40)],
        [(242, 242, 236), (24, 52, 168)],
        [(156, 232, 98), (84, 14, 116)],
        [(252, 146, 62), (6, 84, 92)],
    ],
    dtype=np.float32,
)


def edge(distance: Array, sharpness: Array) -> Array:
    """1 for positive and 0 for negative distances, with a ramp of one pixel in between."""
    return np.clip(0.5 + distance * sharpness, 0, 1)


def _wave(x: Array, period: float) -> Array:
    """Triangle wave: signed distance to the nearest edge, which are half a period apart; positive around x = 0."""
    x = x / np.float32(period)
    return (np.abs(x - np.floor(x) - np.float32(0.5)) - np.float32(0.25)) * np.float32(period)


def disc(u: Array, v: Array) -> Array:
    """A filled circle: the signed distance to its outline, as u and v."""
    return np.sqrt(u * u + v * v) - np.float32(0.94)


def square(u: Array, v: Array) -> Array:
    """A square: the signed distance to its outline, as u and v."""
    return np.maximum(np.abs(u), np.abs(v)) - np.float32(0.84)


def triangle(u: Array, v: Array) -> Array:
    """A triangle that points up: the signed distance to its outline, as u and v."""
    side = (np.abs(u) - (v + np.float32(1.15)) * np.float32(0.62)) * np.float32(0.85)
    return np.maximum(side, v - np.float32(0.8))


def ring(u: Array, v: Array) -> Array:
    """A circle with a round hole: the signed distance to its outline, as u and v."""
    return np.abs(np.sqrt(u * u + v * v) - np.float32(0.65)) - np.float32(0.37)


def plus(u: Array, v: Array) -> Array:
    """An upright cross: the signed distance to its outline, as u and v."""
    a, b = np.abs(u), np.abs(v)
    return np.maximum(np.maximum(a, b) - np.float32(1.05), np.minimum(a, b) - np.float32(0.36))


def diamond(u: Array, v: Array) -> Array:
    """A square that stands on a corner: the signed distance to its outline, as u and v."""
    return (np.abs(u) + np.abs(v) - np.float32(1.15)) * np.float32(0.71)


def hourglass(u: Array, v: Array) -> Array:
    """A waisted block, wide above and below: the signed distance to its outline, as u and v."""
    height = np.abs(v)
    side = (np.abs(u) - height * np.float32(0.7) - np.float32(0.35)) * np.float32(0.82)
    return np.maximum(height - np.float32(0.95), side)


def hexagon(u: Array, v: Array) -> Array:
    """A hexagon: the signed distance to its outline, as u and v."""
    a, b = np.abs(u), np.abs(v)
    return np.maximum(b, a * np.float32(0.87) + b * np.float32(0.5)) - np.float32(0.9)


def saltire(u: Array, v: Array) -> Array:
    """A diagonal cross: the signed distance to its outline, as u and v."""
    return plus((u + v) * np.float32(0.71), (u - v) * np.float32(0.71))


def crescent(u: Array, v: Array) -> Array:
    """A moon, open to the right: the signed distance to its outline, as u and v."""
    hole = np.float32(0.8) - np.sqrt((u - np.float32(0.5)) ** 2 + v * v)
    return np.maximum(np.sqrt(u * u + v * v) - 1, hole)


def bar(u: Array, v: Array) -> Array:
    """An upright rectangle: the signed distance to its outline, as u and v."""
    return np.maximum(np.abs(u) - np.float32(0.55), np.abs(v) - np.float32(1.2))


def half_disc(u: Array, v: Array) -> Array:
    """The lower half of a circle: the signed distance to its outline, as u and v."""
    v = v + np.float32(0.4)
    return np.maximum(np.sqrt(u * u + v * v) - np.float32(1.1), -v)


def stripes(u: Array, v: Array, phase: Array, sharpness: Array) -> Array:
    """Horizontal stripes: the tone from 0 to 1, as u and v."""
    return edge(_wave(v + phase * np.float32(0.5), 1.1) + np.float32(0.1), sharpness)


def spots(u: Array, v: Array, phase: Array, sharpness: Array) -> Array:
    """Four dark spots on light: the tone from 0 to 1, as u and v."""
    x, y = np.abs(np.abs(u + phase * np.float32(0.3)) - np.float32(0.42)), np.abs(v) - np.float32(0.42)
    return edge(np.sqrt(x * x + y * y) - np.float32(0.26), sharpness)


def gradient(u: Array, v: Array, phase: Array, sharpness: Array) -> Array:
    """Dark above, light below, without an edge: the tone from 0 to 1, as u and v."""
    return np.clip(np.float32(0.8) + (v + phase) * np.float32(0.6), 0, 1)


def light_side(u: Array, v: Array, phase: Array, sharpness: Array) -> Array:
    """A light right side, beyond the middle: the tone from 0 to 1, as u and v."""
    return edge(u + phase * np.float32(0.3) + np.float32(0.25), sharpness)


def dark_side(u: Array, v: Array, phase: Array, sharpness: Array) -> Array:
    """A light strip on the right of a dark side: the tone from 0 to 1, as u and v."""
    return edge(u + phase * np.float32(0.3) - np.float32(0.3), sharpness)


def dot(u: Array, v: Array, phase: Array, sharpness: Array) -> Array:
    """A light spot in the middle of dark: the tone from 0 to 1, as u and v."""
    u = u + phase * np.float32(0.3)
    return edge(np.float32(0.5) - np.sqrt(u * u + v * v), sharpness)


def target(u: Array, v: Array, phase: Array, sharpness: Array) -> Array:
    """Rings about the centre: the tone from 0 to 1, as u and v."""
    return edge(_wave(np.sqrt(u * u + v * v) + phase * np.float32(0.25), 1.15), sharpness)


@dataclass(frozen=True)
class Look:
    """A part type: name, row of `PALETTES`, shape and texture."""

    name: str
    palette: int
    shape: Callable[[Array, Array], Array]
    texture: Callable[[Array, Array, Array, Array], Array]


# Types with the same palette differ in shape and texture. Of the first eight, one is mostly light and one mostly dark:
# cells as wide as a part show little more than its mean colour, which must differ from a grey background. For any
# number of types, those with the same palette occur together in some images (`parts` shows each type with its
# neighbours in the ring): a model may represent types that never occur together by one part, with the type in its
# appearance.
LOOKS = (
    Look("striped disc", 0, disc, stripes),
    Look("dotted plus", 0, plus, dot),
    Look("spotted square", 1, square, spots),
    Look("target diamond", 1, diamond, target),
    Look("shaded triangle", 2, triangle, gradient),
    Look("two-sided hourglass", 2, hourglass, dark_side),
    Look("two-sided ring", 3, ring, light_side),
    Look("dotted hexagon", 3, hexagon, dot),
    Look("striped bar", 2, bar, stripes),
    Look("shaded saltire", 0, saltire, gradient),
    Look("striped crescent", 1, crescent, stripes),
    Look("spotted half-disc", 3, half_disc, spots),
)

# The same shapes in one palette and one texture: types differ only in shape.
ALIKE = tuple(replace(look, name=look.shape.__name__.replace("_", "-"), palette=0, texture=gradient) for look in LOOKS)
