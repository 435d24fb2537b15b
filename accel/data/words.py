"""Random numbers as functions: the same words for (stream, seed, position) on all machines and NumPy versions.

The words are the raw output of NumPy's Philox-4x64, which is stable across versions. The key consists of the stream and
the seed, so that different uses of a seed are independent.
"""

import numpy as np

PARTS_STREAM, ORDER_STREAM, FLIP_STREAM, HELD_OUT_STREAM, SUBSET_STREAM, GRAIN_STREAM = range(6)
GROUND_STREAM, CONTRAST_STREAM = range(6, 8)


def random_words(stream: int, seed: int, first_block: int, count: int) -> np.ndarray:
    """`count` uint64 words, beginning with block `first_block`; a block has 4 words.

    Raises ValueError unless 0 ≤ seed < 2⁶⁴.
    """
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed must be from 0 to 2^64 - 1, got {seed}")
    return np.random.Philox(key=(int(stream) << 64) + int(seed), counter=int(first_block)).random_raw(count)


def uniforms(stream: int, seed: int, first_image: int, count: int, words: int) -> np.ndarray:
    """Float32 (count, words) in [0, 1), exact multiples of 2⁻²⁴.

    Row i depends only on (stream, seed, first_image + i). words: a multiple of 4.
    """
    drawn = random_words(stream, seed, first_image * (words // 4), count * words)
    return ((drawn >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)).reshape(count, words)


def random_order(stream: int, seed: int, index: int, count: int) -> np.ndarray:
    """A permutation of range(count), int64, different for each index."""
    return np.argsort(random_words(stream, seed, index << 64, count), kind="stable")
