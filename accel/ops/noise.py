"""Random numbers as a pure function of (seed, step, image, stream, position), in PyTorch, on any device.

reference/noise.py specifies and derives the function; the uniform numbers here are bit-identical.
"""

import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Device = torch.device | str | None

OCCURRENCE_STREAM = 0
APPEARANCE_STREAM = 1
DROPOUT_STREAM = 2
PLACE_STREAM = 3
GROUND_STREAM = 4

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_INCREMENTS = (0x9E3779B9, 0xBB67AE85)
_LOW_WORD = 0xFFFFFFFF
_BLOCKS_A_THREAD = 2**15  # blocks that a CPU thread draws at once: ¼ MiB per word, so that a round fits into the cache


@dataclass(frozen=True)
class Noise:
    """The seed and counters that determine a batch's random draws: calls with equal Noise draw equal numbers.

    seed: 0 ≤ seed < 2⁶⁴. step: the training step, 0 ≤ step < 2³². first_image: the index of the batch's first
    image in the global batch. Each is an int, or a 0-d int64 tensor on the batch's device (for a seed of 2⁶³
    or more, the negative number with the same bits). A captured CUDA graph reads such a tensor at every replay.
    Raises ValueError for an int out of range or a tensor of another type.
    """

    seed: int | Tensor = 0
    step: int | Tensor = 0
    first_image: int | Tensor = 0

    def __post_init__(self) -> None:
        for name, bits in (("seed", 64), ("step", 32), ("first_image", 32)):
            value = getattr(self, name)
            if isinstance(value, Tensor):
                if value.ndim or value.dtype != torch.int64:
                    raise ValueError(
                        f"Noise: {name} must be an int or a 0-d int64 tensor, got {value.dtype} of shape "
                        f"{tuple(value.shape)}"
                    )
            elif not isinstance(value, numbers.Integral) or not 0 <= int(value) < 2**bits:
                raise ValueError(f"Noise: {name} must be an integer in [0, 2^{bits}), got {value!r}")
            else:
                object.__setattr__(self, name, int(value))  # NumPy's integers would wrap around

    def tensors(self, device: Device) -> tuple[Tensor, Tensor, Tensor]:
        """(seed, step, first_image) as 0-d int64 tensors on the device."""
        return _int64(self.seed, device), _int64(self.step, device), _int64(self.first_image, device)


def _int64(value: int | Tensor, device: Device) -> Tensor:
    if isinstance(value, Tensor):
        return value
    # full, not tensor: a fill kernel instead of a copy from the host, so it may be captured in a graph.
    return torch.full((), value - 2**64 if value >= 2**63 else value, dtype=torch.int64, device=device)


def philox(counter: Sequence[int | Tensor], key: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Philox-4x32-10 on int64 tensors whose low 32 bits are the words; the high 32 bits are ignored and undefined.

    counter: four tensors or ints that broadcast. Pass words that vary along one dimension only as such:
    the first three rounds then compute five of their six products once per row or column. key: two 0-d tensors.
    Returns four tensors.
    """
    c0, c1, c2, c3 = counter
    rounds = torch.arange(10, device=key[0].device)
    keys = [(word + rounds * increment).unbind() for word, increment in zip(key, _KEY_INCREMENTS, strict=True)]
    for k0, k1 in zip(*keys, strict=True):
        # int64 wraps around, which keeps all 64 bits of a product of two words; >> repeats the sign bit above them.
        product_0, product_1 = (c0 & _LOW_WORD) * _MULTIPLIERS[0], (c2 & _LOW_WORD) * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (product_1 >> 32) ^ (c1 ^ k0), product_1, (product_0 >> 32) ^ (c3 ^ k1), product_0
    return c0, c1, c2, c3  # type: ignore[return-value]  # tensors since the first round


def _draw_words(noise: Noise, stream: int, images: int, blocks: int, device: Device) -> Tensor:
    """The words of every block: int32 (images, blocks, 4)."""
    seed, step, first_image = noise.tensors(device)
    block = torch.arange(blocks, device=device)[None, :]
    image = (first_image + torch.arange(images, device=device))[:, None]

    def words(image: Tensor) -> Tensor:
        four = philox((block, image, stream, step), (seed, seed >> 32))
        return torch.stack([word.to(torch.int32) for word in four], dim=2)

    if image.device.type != "cpu" or torch.compiler.is_compiling():
        return words(image)  # a GPU needs few launches, and a compiler reduces the passes itself
    rows = max(1, _BLOCKS_A_THREAD * torch.get_num_threads() // max(1, blocks))
    return torch.cat([words(some) for some in image.split(rows)])


def _uniform(words: Tensor) -> Tensor:
    """(k + ½) · 2⁻²³ with k = word >> 9, float32, written over the words.

    It is exact: k is the mantissa of a float in [1, 2), less 1 − 2⁻²⁴. The mask drops the sign that >> repeats.
    """
    bits = words.bitwise_right_shift_(9).bitwise_and_(0x7FFFFF).bitwise_or_(0x3F800000)
    return bits.view(torch.float32).sub_(1.0 - 2.0**-24)


def _of_each_part(draws: Tensor, parts: int, length: int) -> Tensor:
    """(B, N·⌈length/4⌉, 4) → (B, N, length): unused words of a part's last block are dropped."""
    return draws.unflatten(1, (parts, -1)).flatten(2)[..., :length].contiguous()


def occurrence_noise(
    noise: Noise, images: int, parts: int, cells: int, *, device: Device = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """u ~ U(0, 1) for each (image, part, cell): (B, N, L) of dtype float32 or float64, never 0 or 1."""
    words = _draw_words(noise, OCCURRENCE_STREAM, images, parts * -(-cells // 4), device)
    return _of_each_part(_uniform(words), parts, cells).to(dtype)


def place_noise(
    noise: Noise,
    images: int,
    parts: int,
    cells: int,
    places: int,
    *,
    device: Device = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """u ~ U(0, 1) for each (image, part, cell, place): (B, N, L, K) of dtype float32 or float64, never 0 or 1."""
    words = _draw_words(noise, PLACE_STREAM, images, parts * -(-cells * places // 4), device)
    return _of_each_part(_uniform(words), parts, cells * places).unflatten(2, (cells, places)).to(dtype)


def appearance_noise(
    noise: Noise, images: int, parts: int, part_dim: int, *, device: Device = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """ε ~ N(0, 1) for each (image, part, dimension): (B, N, D) of dtype float32 or float64."""
    return _normals(noise, APPEARANCE_STREAM, images, parts, part_dim, device, dtype)


def ground_noise(
    noise: Noise, images: int, numbers: int, *, device: Device = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """ε ~ N(0, 1) for each number of an image's background code: (B, numbers) of dtype float32 or float64."""
    return _normals(noise, GROUND_STREAM, images, 1, numbers, device, dtype)[:, 0]


def _normals(
    noise: Noise, stream: int, images: int, parts: int, part_dim: int, device: Device, dtype: torch.dtype
) -> Tensor:
    words = _draw_words(noise, stream, images, parts * -(-part_dim // 4), device)
    uniform = _uniform(words).to(dtype)
    radius, angle = torch.sqrt(-2.0 * torch.log(uniform[..., 0::2])), 2.0 * math.pi * uniform[..., 1::2]
    normals = torch.stack((radius * torch.cos(angle), radius * torch.sin(angle)), dim=-1)
    return _of_each_part(normals, parts, part_dim)


def dropout_noise(noise: Noise, images: int, elements: int, *, device: Device = None) -> Tensor:
    """Fair coins, bool (images, elements): coin i is bit i mod 32 of word i // 32 mod 4 of block i // 128."""
    words = _draw_words(noise, DROPOUT_STREAM, images, -(-elements // 128), device)
    bits = words[..., None] >> torch.arange(32, dtype=torch.int32, device=device) & 1
    return bits.flatten(1)[:, :elements].bool()
