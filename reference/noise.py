"""Noise as a pure function of (seed, step, image, stream, position).

A random generator with a state gives different numbers if the batch is split, the run is resumed or the code is fused.
Here every random number has an address instead, and a counter-based generator maps addresses to bits:

    (w₀, w₁, w₂, w₃) = Philox-4x32-10(counter = (block, image, stream, step), key = (seed low, seed high))

so every implementation draws the same number for an address. Philox is from Salmon et al., "Parallel Random
Numbers: As Easy as 1, 2, 3", SC 2011. One evaluation gives four words at a fixed cost, so four neighbours share
a block. With K numbers per part,

    number k of part n is word k mod 4 of block n · ⌈K/4⌉ + ⌊k/4⌋.

Every part begins with a new block, so that a program for one part does not evaluate blocks of other parts. If 4 does
not divide K, the remaining words of a part's last block are unused.
"""

from dataclasses import dataclass

import numpy as np

OCCURRENCE_STREAM = 0
APPEARANCE_STREAM = 1
DROPOUT_STREAM = 2
PLACE_STREAM = 3
GROUND_STREAM = 4

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_KEY_INCREMENTS = (0x9E3779B9, 0xBB67AE85)
_LOW_WORD = 0xFFFFFFFF


@dataclass(frozen=True)
class Noise:
    """The address of a batch's random numbers.

    seed: 0 ≤ seed < 2⁶⁴, the key. step: 0 ≤ step < 2³², the training step. first_image: the index of the
    batch's first image in the global batch, so that processes that share a batch draw the same numbers as one process.
    """

    seed: int = 0
    step: int = 0
    first_image: int = 0


def philox(counter, key):
    """Philox-4x32-10: ten rounds of multiply, swap and xor.

    One round maps the counter words (c0, c1, c2, c3) with the key words (k0, k1) to

        (high(M1·c2) ⊕ c1 ⊕ k0,  low(M1·c2),  high(M0·c0) ⊕ c3 ⊕ k1,  low(M0·c0))

    and between rounds k0 += 0x9E3779B9, k1 += 0xBB67AE85, modulo 2³².
    counter: four arrays or integers below 2³² that broadcast. key: two integers below 2³². Returns four
    uint32 arrays.
    """
    c0, c1, c2, c3 = np.broadcast_arrays(*(np.asarray(word, np.uint64) for word in counter))
    k0, k1 = key
    for _ in range(10):
        product_0, product_1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (product_1 >> 32) ^ c1 ^ np.uint64(k0),
            product_1 & _LOW_WORD,
            (product_0 >> 32) ^ c3 ^ np.uint64(k1),
            product_0 & _LOW_WORD,
        )
        k0, k1 = ((k + increment) & _LOW_WORD for k, increment in zip((k0, k1), _KEY_INCREMENTS, strict=True))
    return tuple(word.astype(np.uint32) for word in (c0, c1, c2, c3))


def uniform(word):
    """u = (k + ½) · 2⁻²³ with k = word >> 9.

    The odd multiples of 2⁻²⁴: exact in float32, never 0 or 1, and 1 − u is on the same grid.
    """
    return ((word >> 9).astype(np.float64) + 0.5) * 2.0**-23


def draw_words(noise, stream, images, blocks):
    """The four Philox words of every (image, block): uint32 (images, blocks, 4)."""
    block = np.arange(blocks)[None, :]
    image = (noise.first_image + np.arange(images))[:, None] & _LOW_WORD
    key = (noise.seed & _LOW_WORD, noise.seed >> 32)
    return np.stack(philox((block, image, stream, noise.step), key), axis=2)


def blocks_of_a_part(numbers):
    """⌈K/4⌉, the number of blocks for a part's K numbers."""
    return -(-numbers // 4)


def of_each_part(draws, parts, numbers):
    """(B, N·⌈K/4⌉, 4) → (B, N, K): the numbers of each part in order, without the unused ones."""
    return draws.reshape(len(draws), parts, 4 * blocks_of_a_part(numbers))[:, :, :numbers]


def occurrence_noise(noise, images, parts, cells):
    """u ~ U(0, 1) for each (image, part, cell), from stream 0. (B, N, L).

    u[b, n, l] is the uniform of word l mod 4 of block n · ⌈L/4⌉ + ⌊l/4⌋. For categorical occurrences, 'none' is
    an additional last part.
    """
    words = draw_words(noise, OCCURRENCE_STREAM, images, parts * blocks_of_a_part(cells))
    return of_each_part(uniform(words), parts, cells)


def place_noise(noise, images, parts, cells, places):
    """u ~ U(0, 1) for each (image, part, cell, place), from stream 3, with L·K numbers per part. (B, N, L, K)."""
    words = draw_words(noise, PLACE_STREAM, images, parts * blocks_of_a_part(cells * places))
    return of_each_part(uniform(words), parts, cells * places).reshape(images, parts, cells, places)


def ground_noise(noise, images, numbers):
    """ε ~ N(0, 1) for each number of an image's background code, from stream 4. (B, numbers)."""
    return appearance_noise(noise, images, 1, numbers, GROUND_STREAM)[:, 0]


def appearance_noise(noise, images, parts, part_dim, stream=APPEARANCE_STREAM):
    """ε ~ N(0, 1) for each (image, part, dimension), from stream 1. (B, N, D).

    ε[b, n, d] is normal d mod 4 of block n · ⌈D/4⌉ + ⌊d/4⌋. The Box-Muller transform makes four normal numbers
    from a block's four uniform numbers, two from each pair:

        ε₀, ε₁ = √(−2 log u₀) · (cos, sin)(2π u₁),    ε₂, ε₃ = √(−2 log u₂) · (cos, sin)(2π u₃)
    """
    words = draw_words(noise, stream, images, parts * blocks_of_a_part(part_dim))
    u0, u1, u2, u3 = np.moveaxis(uniform(words), 2, 0)
    first, second = np.sqrt(-2.0 * np.log(u0)), np.sqrt(-2.0 * np.log(u2))
    angle, other = 2.0 * np.pi * u1, 2.0 * np.pi * u3
    normals = (first * np.cos(angle), first * np.sin(angle), second * np.cos(other), second * np.sin(other))
    return of_each_part(np.stack(normals, axis=2), parts, part_dim)


def dropout_noise(noise, images, elements):
    """Fair coins, bool (images, elements): from stream 2, where the 128 bits of a block are 128 coins.

    Coin i is bit i mod 32, counted from the lowest, of word (i // 32) mod 4 of block i // 128.
    """
    words = draw_words(noise, DROPOUT_STREAM, images, -(-elements // 128))
    i = np.arange(elements)
    return words[:, i // 128, i // 32 % 4] >> (i % 32).astype(np.uint32) & 1 == 1
