"""Noise as device functions, as specified in reference/noise.py: kernels generate it instead of reading it.

The words are those of Philox-4x32-10 (Salmon et al., SC 2011); uniform numbers are bit-identical to the reference.
"""

import triton
import triton.language as tl

from .tiles import reciprocal

OCCURRENCE_STREAM = tl.constexpr(0)
APPEARANCE_STREAM = tl.constexpr(1)

# As triton.jit, of a kernel with these arguments, each a number or a pointer to one: neither what an integer is nor
# where a pointer points compiles it anew, perhaps in the middle of a capture.
drawing_kernel = triton.jit(
    do_not_specialize=["seed", "step", "first_image"],
    do_not_specialize_on_alignment=["seed", "step", "first_image", "temperature"],
)


@triton.jit
def read(number):
    """A kernel argument that is a number, or a pointer to one (which each replay of a CUDA graph reads)."""
    if number.dtype.is_ptr():
        number = tl.load(number)
    return number


@triton.jit
def philox(block, image, stream: tl.constexpr, step, seed):
    """The four words of Philox-4x32-10 for a tensor of blocks; image, step and seed are integers."""
    c0 = block.to(tl.uint32)
    c1 = tl.zeros_like(c0) + image.to(tl.uint32)
    c2 = tl.full(c0.shape, stream, tl.uint32)
    c3 = tl.zeros_like(c0) + step.to(tl.uint32)
    k0 = seed.to(tl.uint32)
    k1 = (seed.to(tl.int64) >> 32).to(tl.uint32)
    for _ in tl.static_range(10):
        high_0, high_1 = tl.umulhi(c0, 0xD2511F53), tl.umulhi(c2, 0xCD9E8D57)
        c1, c3 = high_1 ^ c1 ^ k0, high_0 ^ c3 ^ k1
        # Words and keys wrap around at 2³², which Triton's debug mode would report as an error.
        low_0 = tl.core.mul(c0, 0xD2511F53, sanitize_overflow=False)
        low_1 = tl.core.mul(c2, 0xCD9E8D57, sanitize_overflow=False)
        c0, c1, c2, c3 = c1, low_1, c3, low_0
        k0 = tl.core.add(k0, 0x9E3779B9, sanitize_overflow=False)
        k1 = tl.core.add(k1, 0xBB67AE85, sanitize_overflow=False)
    return c0, c1, c2, c3


@triton.jit
def uniform(word):
    """(k + ½) · 2⁻²³ with k = word >> 9, exact: k is the mantissa of a float in [1, 2), less 1 − 2⁻²⁴."""
    return ((word >> 9) | 0x3F800000).to(tl.float32, bitcast=True) - (1.0 - 2.0**-24)


@triton.jit
def interleave(a, b, c, d):
    """(rows, columns, 4) of four tensors (rows, columns): a, b, c and d interleaved."""
    pairs = tl.join(tl.join(a, c), tl.join(b, d))
    return tl.reshape(pairs, (a.shape[0], a.shape[1], 4))


@triton.jit
def occurrence_uniform(start, CELLS: tl.constexpr, parts, L: tl.constexpr, draw):
    """u of (cell, part) for CELLS cells from start on, a multiple of CELLS, from a draw (seed, step, image, …).

    A block's four words serve four adjacent cells, so a quarter of the tile is drawn and expanded.
    """
    PART_BLOCKS: tl.constexpr = (L + 3) // 4
    if CELLS % 4 == 0:
        blocks = start // 4 + tl.arange(0, CELLS // 4)
        a, b, c, d = philox(
            parts[None, :] * PART_BLOCKS + blocks[:, None], draw[2], OCCURRENCE_STREAM, draw[1], draw[0]
        )
        word = tl.reshape(tl.permute(interleave(a, b, c, d), (0, 2, 1)), (CELLS, a.shape[1]))
    else:
        cells = (start + tl.arange(0, CELLS))[:, None]
        block = parts[None, :] * PART_BLOCKS + cells // 4
        a, b, c, d = philox(block, draw[2], OCCURRENCE_STREAM, draw[1], draw[0])
        word = tl.where(cells % 4 < 2, tl.where(cells % 2 == 0, a, b), tl.where(cells % 2 == 0, c, d))
    return uniform(word)


@triton.jit
def logistic_noise(start, CELLS: tl.constexpr, parts, L: tl.constexpr, draw):
    """log u − log(1 − u) of (cell, part)."""
    u = occurrence_uniform(start, CELLS, parts, L, draw)
    return tl.log(u * reciprocal(1.0 - u))


@triton.jit
def gumbel_noise(start, CELLS: tl.constexpr, parts, L: tl.constexpr, draw):
    """−log(−log u) of (cell, part); "none" is part N."""
    return -tl.log(-tl.log(occurrence_uniform(start, CELLS, parts, L, draw)))


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
def sine_of_turns(x):
    """sin(2πx) for 0 ≤ x ≤ 1, equally accurate: the cosine shifted by a quarter turn, which is exact."""
    return cosine_of_turns(tl.abs(x - 0.25))


@triton.jit
def normal_noise(parts, NUMBERS: tl.constexpr, D: tl.constexpr, draw):
    """Normals of (part, number) for NUMBERS numbers, a power of two: √(−2 log u₀) · (cos, sin)(2π u₁) and so on."""
    PART_BLOCKS: tl.constexpr = (D + 3) // 4
    BLOCKS: tl.constexpr = (NUMBERS + 3) // 4
    block = parts[:, None] * PART_BLOCKS + tl.arange(0, BLOCKS)[None, :]
    a, b, c, d = philox(block, draw[2], APPEARANCE_STREAM, draw[1], draw[0])
    first_radius, first_turn = tl.sqrt(-2.0 * tl.log(uniform(a))), uniform(b)
    first, second = first_radius * cosine_of_turns(first_turn), first_radius * sine_of_turns(first_turn)
    if NUMBERS == 1:
        normals = first
    elif NUMBERS == 2:
        normals = tl.reshape(tl.join(first, second), (parts.shape[0], NUMBERS))
    else:
        second_radius, second_turn = tl.sqrt(-2.0 * tl.log(uniform(c))), uniform(d)
        third, fourth = second_radius * cosine_of_turns(second_turn), second_radius * sine_of_turns(second_turn)
        normals = tl.reshape(interleave(first, second, third, fourth), (parts.shape[0], NUMBERS))
    return normals
