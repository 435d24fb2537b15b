"""Shared code of kernels on maps (B, channels, h, w): tiles, addresses and functions of a logit.

Shapes and strides are compile-time constants: a model has one set of them, and the compiler can prove alignment, load
16 bytes at once and fold offsets into instructions.
"""

import math
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

# Indices of the bottleneck's maps in LAYOUTS; in the backward pass the last is the code's gradient.
LOGITS, MEAN, LOG_VARIANCE, CODE = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2), tl.constexpr(3)


@triton.jit
def exponential(x):
    """exp(x), or 0 where a float32 could only hold it denormal; two instructions instead of tl.exp's six."""
    return tl.exp2(x * 1.4426950408889634)


@triton.jit
def reciprocal(x):
    """1 / x of a positive number, to 3·10⁻⁷; two instructions instead of a division's nine."""
    root = tl.rsqrt(x)
    return root * root


@triton.jit
def log_one_plus(x):
    """log(1 + x) for 0 ≤ x ≤ 1, to 2·10⁻⁷ relative: what 1 + x loses of a small x is added again."""
    whole = 1.0 + x
    return tl.log(whole) + (x - (whole - 1.0))


@triton.jit
def sigmoid_and_slope(x):
    """σ(x) and σ(x)(1 − σ(x)), the latter without cancellation where σ is near 1."""
    ratio = exponential(-tl.abs(x))
    smaller = ratio * reciprocal(1.0 + ratio)
    larger = 1.0 - smaller  # exactly 1 where the other is 0
    return tl.where(x >= 0.0, larger, smaller), larger * smaller


@triton.jit
def part_tile(N: tl.constexpr, D: tl.constexpr, BLOCKS: tl.constexpr, INDEX: tl.constexpr):
    """This program's image, its parts, the channels of their numbers, and masks of both.

    Channels are one axis of parts times numbers, along which the compiler lays threads once the first axis in memory is
    full: in channels-last maps as they are in memory; in others part by part, so that a thread has all numbers
    of a part. With two axes, versions of Triton differ in which comes first.
    """
    BLOCK_N: tl.constexpr = BLOCKS[0]
    BLOCK_D: tl.constexpr = BLOCKS[1]
    part_blocks: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    image = (tl.program_id(0) // part_blocks).to(tl.int64)
    first = (tl.program_id(0) % part_blocks) * BLOCK_N
    parts = (first + tl.arange(0, BLOCK_N)).to(INDEX)
    place = tl.arange(0, BLOCK_N * BLOCK_D)
    if BLOCKS[4]:
        part, number = first + place // BLOCK_D, place % BLOCK_D
    else:
        part, number = first + place % BLOCK_N, place // BLOCK_N
    return image, parts, (part * D + number).to(INDEX), parts < N, (part < N) & (number < D)


@triton.jit
def number_tile(parts, N: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """The numbers of a part, and the mask of (part, number)."""
    numbers = tl.arange(0, BLOCK_D)[None, :]
    return numbers, (parts < N)[:, None] & (numbers < D)


@triton.jit
def cell_tile(start, L: tl.constexpr, BLOCK_L: tl.constexpr, part_inside, inside, INDEX: tl.constexpr):
    """The cells beginning with start, and the masks of (cell, part) and (cell, channel)."""
    cells = (start + tl.arange(0, BLOCK_L)).to(INDEX)
    cell_inside = (cells < L)[:, None]
    return cells, cell_inside & part_inside[None, :], cell_inside & inside[None, :]


@triton.jit
def map_offsets(cells, channels, LAYOUTS: tl.constexpr, MAP: tl.constexpr):
    """Offsets in one image of (cell, channel).

    LAYOUTS[MAP]: the map's strides of image, channel, row and column, and the grid's width.
    """
    if LAYOUTS[MAP][2] == LAYOUTS[MAP][3] * LAYOUTS[MAP][4]:
        offsets = cells * LAYOUTS[MAP][3]
    else:
        offsets = (cells // LAYOUTS[MAP][4]) * LAYOUTS[MAP][2] + (cells % LAYOUTS[MAP][4]) * LAYOUTS[MAP][3]
    return offsets[:, None] + channels[None, :] * LAYOUTS[MAP][1]


@triton.jit
def load_map(image_map, image, cells, channels, inside, LAYOUTS: tl.constexpr, MAP: tl.constexpr, outside=0.0):
    """A tile (cells, channels) of one image in float32, with the given value outside of the mask."""
    offsets = map_offsets(cells, channels, LAYOUTS, MAP)
    return tl.load(image_map + image * LAYOUTS[MAP][0] + offsets, mask=inside, other=outside).to(tl.float32)


@triton.jit
def load_numbers(
    maps, MAP: tl.constexpr, image, cells, channels, inside, LAYOUTS: tl.constexpr, BLOCKS: tl.constexpr, outside=0.0
):
    """A tile (cells, parts, numbers) of one image in float32; channels are those of part_tile."""
    tile = load_map(maps[MAP], image, cells, channels, inside, LAYOUTS, MAP, outside)
    if BLOCKS[4]:
        tile = tl.reshape(tile, (BLOCKS[2], BLOCKS[0], BLOCKS[1]))
    else:
        tile = tl.permute(tl.reshape(tile, (BLOCKS[2], BLOCKS[1], BLOCKS[0])), (0, 2, 1))
    return tile


@triton.jit
def folded(tile, FOLD: tl.constexpr):
    """(cells, …) → (cells / FOLD, …): sums of FOLD adjacent elements, which are in one thread."""
    if FOLD == 1:
        result = tile
    elif len(tile.shape) == 2:
        result = tl.sum(tl.reshape(tile, (tile.shape[0] // FOLD, FOLD, tile.shape[1])), axis=1)
    else:
        result = tl.sum(tl.reshape(tile, (tile.shape[0] // FOLD, FOLD, tile.shape[1], tile.shape[2])), axis=1)
    return result


@triton.jit
def store_map(image_map, tile, image, cells, channels, inside, LAYOUTS: tl.constexpr, MAP: tl.constexpr):
    """Stores a tile (cells, channels) of one image, rounded to the map's dtype."""
    offsets = map_offsets(cells, channels, LAYOUTS, MAP)
    tl.store(image_map + image * LAYOUTS[MAP][0] + offsets, tile.to(image_map.dtype.element_ty), mask=inside)


@triton.jit
def store_numbers(
    maps, MAP: tl.constexpr, tile, image, cells, channels, inside, LAYOUTS: tl.constexpr, BLOCKS: tl.constexpr
):
    """Stores a tile (cells, parts, numbers) of one image, rounded to the map's dtype."""
    if not BLOCKS[4]:
        tile = tl.permute(tile, (0, 2, 1))
    tile = tl.reshape(tile, (BLOCKS[2], BLOCKS[0] * BLOCKS[1]))
    store_map(maps[MAP], tile, image, cells, channels, inside, LAYOUTS, MAP)


# On the host


@cache
def layout(shape: torch.Size, strides: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of image, channel, row and column, and the width; rows that follow each other are made to look so."""
    _, _, height, width = shape
    image, channel, row, column = strides
    if width == 1:
        column = row
    if height == 1:
        row = width * column
    return image, channel, row, column, width


def layouts(*image_maps: Tensor | None):
    """The layout of each map, None for None."""
    return tuple(layout(m.shape, m.stride()) if m is not None and m.ndim == 4 else None for m in image_maps)


@cache
def index_type(channels: int, height: int, layouts: tuple):
    """int32 if all offsets inside one image fit; offsets of images are always int64."""
    reach = max(
        (channels - 1) * channel + (height - 1) * row + (width - 1) * column
        for _, channel, row, column, width in filter(None, layouts)
    )
    return tl.int32 if reach < 2**31 else tl.int64


@cache
def blocks(
    parts: int,
    part_dim: int,
    cells: int,
    channels_last: bool,
    item_size: int,
    heavy: bool = False,
    backward: bool = False,
):
    """The tile (parts, numbers, cells) of one program of a pass, and its warps.

    A pass is bound by memory if every thread has several independent 16-byte loads in flight, every multiprocessor runs
    several programs, and there are few instructions per number. Fewer warps per program need fewer instructions, since
    sums over cells then stay inside a warp, without barriers.

    - An image of up to 8192 numbers, 4096 in a heavy pass, is one program, and its divergences need no second sum.
    - Channels-last: 128 adjacent channels and 16 cells, or 64 and 64 for a large grid in float32; up to 64 cells are
      one tile, with 64 numbers per thread.
    - Contiguous, up to 64 cells: rows of cells are short and loads narrow, so 1024 numbers are one warp.
    - Contiguous, more cells: 256 cells, 128 in a heavy pass. Every lane then has its own cells, so that computations
      for a cell are done once per warp, and memory is read in long rows.

    In half precision, a backward pass has twice as many numbers per thread if these maps are contiguous, and twice as
    many parts per tile if channels are adjacent in up to 64 cells. Of the tiles that were measured on an H200, with
    D = 16 and 28 × 28 or 7 × 7 cells, none is more than 2 % faster (bench/results/h200-passes.json); the other entries
    were not compared.

    A thread takes at most 8 parts, since each needs registers for its noise and occurrence. A part has at most 2048
    sums at a time, or they would not fit into registers. A heavy pass has three tiles at once (the arithmetic rule
    forward, attached weights backward) and a separate table of tiles that fit.
    """
    block_n, block_l = triton.next_power_of_2(parts), triton.next_power_of_2(cells)
    block_d = triton.next_power_of_2(part_dim)
    per_thread = 16
    if block_n * block_d * block_l > (4096 if heavy else 8192):
        shape = block_d, cells, channels_last, item_size
        size, longest, per_thread = _heavy(*shape) if heavy else _light(*shape, backward)
        block_l = min(block_l, longest)
        block_n = min(block_n, max(1, size // (block_d * block_l)))
        per_thread = min(per_thread, 8 * block_d)
    tile = block_n, block_d, block_l
    return tile, min(8, max(1, math.prod(tile) // (32 * per_thread)))


def side_by_side(tile: tuple[int, int, int], code: Tensor, heavy: bool = False) -> tuple[int, bool]:
    """(number of adjacent cells whose sums are added first, whether channels rather than cells are adjacent in memory).

    If cells are adjacent, a thread usually loads 16 bytes of them. In grids of an odd size it does not, and adding
    neighbours would exchange them between threads: so a tile of all cells is summed at once. A larger grid or a heavy
    pass adds neighbours even then, since its sums would take too many registers otherwise.
    """
    if code.stride(1) == 1:
        return 1, True
    adjacent, cells = 16 // code.element_size(), code.shape[2] * code.shape[3]
    return math.gcd(adjacent, cells) if cells <= tile[2] and not heavy else min(adjacent, tile[2]), False


def _light(block_d, cells, channels_last, item_size, backward):
    """Numbers per tile, maximal cells, and numbers per thread, for a pass with two tiles."""
    longest = max(1, 2048 // block_d)
    if block_d > 64:
        return 2048, longest, 32
    if channels_last and cells <= 64:
        return 4096 if backward and item_size == 2 else 2048, min(64, longest), 64
    if channels_last and block_d == 1 and item_size == 4:
        return 512, min(8, longest), 16  # with 16 cells, the backward pass spills a word on sm_100
    if channels_last and item_size == 4 and block_d >= 8 and cells >= 512:
        return 4096, min(64, longest), 32
    if channels_last:
        return min(2048, 1024 * block_d), min(16, longest), 64 // item_size
    if cells <= 64:
        return 1024, min(64, longest), 32 if block_d <= 16 else 128 // item_size
    return 256 * max(block_d, 8), 256, 128 if backward and item_size == 2 else 64


def _heavy(block_d, cells, channels_last, item_size):
    """The same for a pass with three tiles."""
    longest = max(1, 2048 // block_d)
    if block_d > 64:
        return 1024, min(8, longest), 16
    if channels_last:
        return 1024, min(8, longest), 8
    if cells <= 64:
        return 1024, min(64, longest), 16
    return 128 * max(block_d, 4), 128, 64 // item_size
