"""Draws as a pure function of (seed, step, image, stream, element), in PyTorch, on any device.

The contract and its derivation stand in reference/noise.py; the uniforms here are the same numbers bit for bit.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

OCCURRENCE_STREAM = 0
APPEARANCE_STREAM = 1
DROPOUT_STREAM = 2

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_INCREMENTS = (0x9E3779B9, 0xBB67AE85)
_LOW_WORD = 0xFFFFFFFF


@dataclass(frozen=True)
class Noise:
    """Where a batch's draws begin: two calls with equal Noise draw equal numbers.

    seed: 0 ≤ seed < 2⁶⁴. step: the training step, 0 ≤ step < 2³². first_image: the index of the batch's first
    image in the global batch. Each an int, or a 0-d int64 tensor on the batch's device (a seed of 2⁶³ or more
    as the negative number with the same bits), which a captured CUDA graph reads anew at every replay.
    Raises ValueError for an int out of range or a tensor of another kind.
    """

    seed: int | Tensor = 0
    step: int | Tensor = 0
    first_image: int | Tensor = 0

    def __post_init__(self):
        for name, bits in (("seed", 64), ("step", 32), ("first_image", 32)):
            value = getattr(self, name)
            if isinstance(value, Tensor):
                if value.ndim or value.dtype != torch.int64:
                    raise ValueError(
                        f"Noise: {name} must be an int or a 0-d int64 tensor, got {value.dtype} of shape "
                        f"{tuple(value.shape)}"
                    )
            elif not 0 <= value < 2**bits or value != int(value):
                raise ValueError(f"Noise: {name} must be an integer in [0, 2^{bits}), got {value}")

    def tensors(self, device):
        """(seed, step, first_image) as 0-d int64 tensors on the device."""
        return tuple(_int64(value, device) for value in (self.seed, self.step, self.first_image))


def _int64(value, device):
    if isinstance(value, Tensor):
        return value
    # full, not tensor: a fill kernel instead of a copy from the host, so it may be captured in a graph.
    return torch.full((), value - 2**64 if value >= 2**63 else value, dtype=torch.int64, device=device)


def _multiply(a: Tensor, multiplier: int):
    """High and low word of a 32 × 32 bit product: int64 wraps around, which keeps all 64 bits."""
    product = a * multiplier
    return (product >> 32) & _LOW_WORD, product & _LOW_WORD


def philox(counter, key):
    """Philox-4x32-10 on int64 tensors that hold 32-bit words. Returns the four output words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        high_0, low_0 = _multiply(c0, _MULTIPLIERS[0])
        high_1, low_1 = _multiply(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = high_1 ^ c1 ^ k0, low_1, high_0 ^ c3 ^ k1, low_0
        k0, k1 = (k0 + _KEY_INCREMENTS[0]) & _LOW_WORD, (k1 + _KEY_INCREMENTS[1]) & _LOW_WORD
    return c0, c1, c2, c3


def _draw_words(noise: Noise, stream: int, images: int, elements: int, device):
    seed, step, first_image = noise.tensors(device)
    element = torch.arange(elements, device=device)[None, :]
    image = (first_image + torch.arange(images, device=device))[:, None] & _LOW_WORD
    counter = (element, image, torch.full_like(element, stream), step & _LOW_WORD)
    return philox(counter, (seed & _LOW_WORD, (seed >> 32) & _LOW_WORD))


def _uniform(word: Tensor, dtype: torch.dtype):
    return ((word >> 9).to(dtype) + 0.5) * 2.0**-23


def occurrence_noise(noise: Noise, images: int, parts: int, cells: int, *, device=None, dtype=torch.float32):
    """u ~ U(0, 1) for each (image, part, cell): (B, N, L) of dtype float32 or float64, never 0 or 1."""
    words = _draw_words(noise, OCCURRENCE_STREAM, images, parts * cells, device)
    return _uniform(words[0], dtype).reshape(images, parts, cells)


def appearance_noise(noise: Noise, images: int, parts: int, part_dim: int, *, device=None, dtype=torch.float32):
    """ε ~ N(0, 1) for each (image, part, number): (B, N, D) of dtype float32 or float64."""
    words = _draw_words(noise, APPEARANCE_STREAM, images, parts * part_dim, device)
    radius = torch.sqrt(-2.0 * torch.log(_uniform(words[0], dtype)))
    return (radius * torch.cos(2.0 * math.pi * _uniform(words[1], dtype))).reshape(images, parts, part_dim)


def dropout_noise(noise: Noise, images: int, elements: int, *, device=None):
    """Fair coins, bool (images, elements): coin i is bit i mod 32 of word i // 32 mod 4 at element i // 128."""
    words = torch.stack(_draw_words(noise, DROPOUT_STREAM, images, -(-elements // 128), device), dim=2)
    bits = words[..., None] >> torch.arange(32, device=device) & 1
    return bits.flatten(1)[:, :elements].bool()
