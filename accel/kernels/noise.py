"""Noise as device functions: the contract of reference/noise.py, drawn inside a kernel instead of read by it.

The words are Philox-4x32-10's (Salmon et al., SC 2011), the uniforms the reference's bit for bit.
"""

import triton
import triton.language as tl

OCCURRENCE_STREAM = tl.constexpr(0)
APPEARANCE_STREAM = tl.constexpr(1)


@triton.jit
def read(number):
    """A kernel argument that is a number, or a pointer to one (which a CUDA graph's replay reads anew)."""
    if number.dtype.is_ptr():
        number = tl.load(number)
    return number


@triton.jit
def philox(element, image, stream: tl.constexpr, step, seed):
    """Words 0 and 1 of Philox-4x32-10 for a tensor of elements; image, step and seed are integers."""
    c0 = element.to(tl.uint32)
    c1 = tl.zeros_like(c0) + image.to(tl.uint32)
    c2 = tl.full(c0.shape, stream, tl.uint32)
    c3 = tl.zeros_like(c0) + step.to(tl.uint32)
    k0 = seed.to(tl.uint32)
    k1 = (seed.to(tl.int64) >> 32).to(tl.uint32)
    for _ in tl.static_range(10):
        high_0, high_1 = tl.umulhi(c0, 0xD2511F53), tl.umulhi(c2, 0xCD9E8D57)
        c1, c3 = high_1 ^ c1 ^ k0, high_0 ^ c3 ^ k1
        # Words and keys wrap around at 2³², which Triton's debug mode would take for a mistake.
        low_0 = tl.core.mul(c0, 0xD2511F53, sanitize_overflow=False)
        low_1 = tl.core.mul(c2, 0xCD9E8D57, sanitize_overflow=False)
        c0, c1, c2, c3 = c1, low_1, c3, low_0
        k0 = tl.core.add(k0, 0x9E3779B9, sanitize_overflow=False)
        k1 = tl.core.add(k1, 0xBB67AE85, sanitize_overflow=False)
    return c0, c1


@triton.jit
def uniform(word):
    """(k + ½) · 2⁻²³ with k = word >> 9, exact: k is the mantissa of a float in [1, 2), less 1 − 2⁻²⁴."""
    return ((word >> 9) | 0x3F800000).to(tl.float32, bitcast=True) - (1.0 - 2.0**-24)


@triton.jit
def occurrence_uniform(cells, parts, L: tl.constexpr, draw):
    """u of (cell, part), from a draw (seed, step, image, …)."""
    word, _ = philox(parts[None, :] * L + cells[:, None], draw[2], OCCURRENCE_STREAM, draw[1], draw[0])
    return uniform(word)


@triton.jit
def logistic_noise(cells, parts, L: tl.constexpr, draw):
    """log u − log(1 − u) of (cell, part)."""
    u = occurrence_uniform(cells, parts, L, draw)
    return tl.log(u / (1.0 - u))


@triton.jit
def gumbel_noise(cells, parts, L: tl.constexpr, draw):
    """−log(−log u) of (cell, part); none is part N."""
    return -tl.log(-tl.log(occurrence_uniform(cells, parts, L, draw)))


@triton.jit
def cosine_of_turns(x):
    """cos(2πx) for 0 ≤ x ≤ 1, to 2·10⁻⁷.

    It is sin(2πq) with q = |x − ½| − ¼ in [−¼, ¼], an odd polynomial in q (minimax, 3·10⁻⁹). tl.cos would reduce
    its argument through local memory.
    """
    q = tl.abs(x - 0.5) - 0.25
    square = q * q
    series = 39.53670409 * square - 76.54978205
    series = series * square + 81.60100406
    series = series * square - 41.34165503
    series = series * square + 6.28318516
    return series * q


@triton.jit
def normal_noise(parts, numbers, D: tl.constexpr, draw):
    """√(−2 log u₀) · cos(2π u₁) of (part, number)."""
    element = parts[:, None] * D + numbers[None, :]
    word_0, word_1 = philox(element, draw[2], APPEARANCE_STREAM, draw[1], draw[0])
    return tl.sqrt(-2.0 * tl.log(uniform(word_0))) * cosine_of_turns(uniform(word_1))
