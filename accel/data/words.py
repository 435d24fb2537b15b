"""Random numbers as functions: the same words for the same (stream, seed, place), on every machine and NumPy version.

The words come from NumPy's Philox-4x64 in its raw form, which NumPy keeps stable. The key holds the stream and the
seed, so that different uses of one seed have nothing in common.
"""

import numpy as np

PARTS_STREAM, ORDER_STREAM, FLIP_STREAM, HELD_OUT_STREAM, SUBSET_STREAM, GRAIN_STREAM = range(6)
GROUND_STREAM, CONTRAST_STREAM = range(6, 8)


def random_words(stream: int, seed: int, first_block: int, count: int) -> np.ndarray:
    """`count` uint64 words from the beginning of block `first_block` on; a block is 4 words.

    Raises ValueError unless 0 ≤ seed < 2⁶⁴.
    """
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed must be from 0 to 2^64 - 1, got {seed}")
    return np.random.Philox(key=(int(stream) << 64) + int(seed), counter=int(first_block)).random_raw(count)


def uniforms(stream: int, seed: int, first_image: int, count: int, words: int) -> np.ndarray:
    """Float32 (count, words) in [0, 1), exact multiples of 2⁻²⁴.

    Row i depends on (stream, seed, first_image + i) alone. words: a multiple of 4.
    """
    drawn = random_words(stream, seed, first_image * (words // 4), count * words)
    return ((drawn >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)).reshape(count, words)


def random_order(stream: int, seed: int, index: int, count: int) -> np.ndarray:
    """Permutation of range(count), int64; another one for each index."""
    return np.argsort(random_words(stream, seed, index << 64, count), kind="stable")
