"""Noise as a pure function of (seed, step, image, stream, element).

A sampler with a state gives different draws when the batch is split, the run resumed or the code fused.
Here every draw has an address instead, and a counter-based generator turns the address into bits:

    (w0, w1, w2, w3) = Philox-4x32-10(counter = (element, image, stream, step), key = (seed low, seed high))

so any program that knows the address draws the same number. Philox is from Salmon et al., "Parallel Random
Numbers: As Easy as 1, 2, 3", SC 2011.
"""

from dataclasses import dataclass

import numpy as np

OCCURRENCE_STREAM = 0
APPEARANCE_STREAM = 1
DROPOUT_STREAM = 2

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_KEY_INCREMENTS = (0x9E3779B9, 0xBB67AE85)
_LOW_WORD = 0xFFFFFFFF


@dataclass(frozen=True)
class Noise:
    """Where a batch's draws begin.

    seed: 0 ≤ seed < 2⁶⁴, the key. step: 0 ≤ step < 2³², the training step. first_image: the index of the
    batch's first image in the global batch, so that processes that share a batch draw what one would.
    """

    seed: int = 0
    step: int = 0
    first_image: int = 0


def philox(counter, key):
    """Philox-4x32-10: ten rounds of multiply, swap and xor.

    One round maps the counter words (c0, c1, c2, c3) under the key words (k0, k1) to

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


def draw_words(noise, stream, images, elements):
    """The four Philox words of every (image, element): four uint32 arrays (images, elements)."""
    element = np.arange(elements)[None, :]
    image = (noise.first_image + np.arange(images))[:, None] & _LOW_WORD
    key = (noise.seed & _LOW_WORD, noise.seed >> 32)
    return philox((element, image, stream, noise.step), key)


def occurrence_noise(noise, images, parts, cells):
    """u ~ U(0, 1) for each (image, part, cell): word 0 of stream 0 at element n·L + l. (B, N, L)."""
    words = draw_words(noise, OCCURRENCE_STREAM, images, parts * cells)
    return uniform(words[0]).reshape(images, parts, cells)


def appearance_noise(noise, images, parts, part_dim):
    """ε ~ N(0, 1) for each (image, part, number): stream 1 at element n·D + d. (B, N, D).

    Box and Muller: ε = √(−2 log u₀) · cos(2π u₁), from words 0 and 1.
    """
    words = draw_words(noise, APPEARANCE_STREAM, images, parts * part_dim)
    radius = np.sqrt(-2.0 * np.log(uniform(words[0])))
    angle = 2.0 * np.pi * uniform(words[1])
    return (radius * np.cos(angle)).reshape(images, parts, part_dim)


def dropout_noise(noise, images, elements):
    """Fair coins, bool (images, elements): stream 2, whose 128 bits an element are 128 coins.

    Coin i is bit i mod 32, counted from the lowest, of word (i // 32) mod 4 of element i // 128.
    """
    words = np.stack(draw_words(noise, DROPOUT_STREAM, images, -(-elements // 128)), axis=2)
    i = np.arange(elements)
    return words[:, i // 128, i // 32 % 4] >> (i % 32).astype(np.uint32) & 1 == 1
