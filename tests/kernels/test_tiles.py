"""Functions of a logit, and the choice of tiles, which affects only speed and rounding."""

import math

import pytest
import torch
import triton
import triton.language as tl
from hypothesis import example, given
from hypothesis import strategies as st

from accel.kernels import occurrence, pooled, tiles, weighted_loss
from tests.kernels.common import DEVICE
from tests.support import ROUNDOFF


@triton.jit
def functions_kernel(x, results, SIZE: tl.constexpr):
    place = tl.arange(0, SIZE)
    logit = tl.load(x + place)
    p, slope = tiles.sigmoid_and_slope(logit)
    not_p, _ = tiles.sigmoid_and_slope(-logit)
    exponent, factor = occurrence.weight_terms(logit, None, 0.0, False)
    tl.store(results + place, p)
    tl.store(results + SIZE + place, not_p)
    tl.store(results + 2 * SIZE + place, slope)
    tl.store(results + 3 * SIZE + place, tiles.exponential(exponent) * factor)
    tl.store(results + 4 * SIZE + place, tiles.reciprocal(tl.exp2(logit)))


def functions(x):
    results = torch.empty(5, len(x), device=DEVICE)
    functions_kernel[(1,)](torch.tensor(x, device=DEVICE), results, SIZE=len(x))
    return results.cpu().double()


def test_functions_of_a_logit_are_accurate_wherever_their_values_are_normal():
    x = torch.linspace(-80, 80, 4096).tolist()
    p, not_p, slope, weight, inverse = functions(x)
    x = torch.tensor(x).double()
    # exp rounds x · log₂ e, by |x| half units of its last place; a dozen more for what follows, the two of 2⁻²² of a
    # GPU's approximate exponential and square root among them.
    relative = (x.abs() + 12) * ROUNDOFF[torch.float32]
    for name, got, wanted in (
        ("σ(x)", p, x.sigmoid()),
        ("σ(−x)", not_p, (-x).sigmoid()),
        ("slope", slope, x.sigmoid() * (-x).sigmoid()),
        ("weight", weight, x.sigmoid()),
        ("reciprocal", inverse, torch.exp2(-x)),
    ):
        assert ((got - wanted).abs() <= relative * wanted).all(), name
    assert torch.equal((p + not_p).float(), torch.ones(4096))


def test_functions_of_a_logit_are_exact_far_out_and_keep_nan():
    p, not_p, slope, weight, _ = functions([1e38, -1e38, 200.0, -200.0])
    assert p.tolist() == weight.tolist() == [1, 0, 1, 0]
    assert not_p.tolist() == [0, 1, 0, 1]
    assert slope.tolist() == [0, 0, 0, 0]
    assert functions([float("nan"), float("nan")])[:4].isnan().all()


# parts, numbers, cells, channels-last, bytes a number, whether the pass is heavy, and whether it is the backward one:
# the tile and numbers a thread.
BLOCKS = {
    "an image of 8192 numbers": ((8, 16, 64, False, 4, False), (8, 16, 64), 32),
    "an image of more": ((8, 16, 65, False, 4, False), (2, 16, 128), 64),
    "an image of 4096 numbers in a heavy pass": ((8, 8, 64, False, 4, True), (8, 8, 64), 16),
    "an image of more in a heavy pass": ((8, 16, 64, False, 4, True), (1, 16, 64), 16),
    "channels-last, 64 cells": ((64, 16, 64, True, 4, False), (2, 16, 64), 64),
    "channels-last, 64 cells, heavy": ((64, 16, 64, True, 4, True), (8, 16, 8), 8),
    "channels-last, 65 cells": ((64, 16, 65, True, 4, False), (8, 16, 16), 16),
    "channels-last, 1023 cells, heavy": ((64, 16, 1023, True, 2, True), (8, 16, 8), 8),
    "channels-last, 64 cells, halves, backward": ((64, 16, 64, True, 2, False, True), (4, 16, 64), 64),
    "channels-last, 512 cells": ((64, 16, 512, True, 4, False), (4, 16, 64), 32),
    "channels-last, 1024 cells, halves": ((64, 16, 1024, True, 2, False), (8, 16, 16), 32),
    "channels-last, long parts": ((64, 256, 64, True, 2, False), (1, 256, 8), 32),
    "contiguous, 64 cells": ((64, 6, 64, False, 4, False), (2, 8, 64), 32),
    "contiguous, 64 cells, halves": ((64, 6, 64, False, 2, False), (2, 8, 64), 32),
    "contiguous, 64 cells, heavy": ((64, 6, 64, False, 4, True), (2, 8, 64), 16),
    "contiguous, 65 cells": ((64, 6, 65, False, 4, False), (2, 8, 128), 64),
    "contiguous, 65 cells, halves": ((64, 6, 65, False, 2, False), (2, 8, 128), 64),
    "contiguous, 256 cells, halves": ((64, 16, 256, False, 2, False), (1, 16, 256), 64),
    "contiguous, 256 cells, halves, backward": ((64, 16, 256, False, 2, False, True), (1, 16, 256), 128),
    "contiguous, 65 cells, halves, heavy": ((64, 6, 65, False, 2, True), (1, 8, 128), 32),
    "parts of two numbers": ((256, 2, 64, False, 4, False), (8, 2, 64), 16),
    "parts of four numbers": ((64, 4, 64, False, 2, False), (4, 4, 64), 32),
    "parts of 64 numbers": ((64, 64, 256, False, 4, False), (1, 64, 256), 64),
    "parts of more": ((64, 128, 256, False, 4, False), (1, 128, 16), 32),
    "parts of more, heavy": ((64, 128, 256, True, 4, True), (1, 128, 8), 16),
    "parts of 512 numbers": ((4, 512, 256, False, 2, False), (1, 512, 4), 32),
}


@pytest.mark.parametrize("case", BLOCKS)
def test_tiles_of_the_bottleneck_are_as_large_as_they_are_said_to_be(case):
    arguments, expected, per_thread = BLOCKS[case]
    tile, warps = tiles.blocks(*arguments)
    assert tile == expected
    assert math.prod(tile) // (32 * warps) == per_thread


def is_power_of_two(number):
    return number & (number - 1) == 0 < number


@given(
    parts=st.integers(1, 600),
    part_dim=st.integers(1, 300),
    cells=st.integers(1, 5000),
    channels_last=st.booleans(),
    item_size=st.sampled_from([2, 4]),
    heavy=st.booleans(),
    backward=st.booleans(),
)
def test_tiles_are_what_triton_takes(parts, part_dim, cells, channels_last, item_size, heavy, backward):
    tile, warps = tiles.blocks(parts, part_dim, cells, channels_last, item_size, heavy, backward)
    assert all(map(is_power_of_two, (*tile, warps)))
    assert tile[1] >= part_dim
    assert warps <= 8
    for module, axis, size, largest in ((pooled, 1, parts, 1024), (occurrence, 0, cells, 2048)):
        tile, warps, programs = module.tiles(parts, cells)
        assert all(map(is_power_of_two, (*tile, warps)))
        assert math.prod(tile) <= largest
        assert warps == max(1, math.prod(tile) // 256)  # eight numbers a thread
        assert (programs - 1) * tile[axis] < size <= programs * tile[axis]


@given(
    part_dim=st.sampled_from([1, 6, 16, 100, 600]),
    grid=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    format=st.sampled_from([torch.contiguous_format, torch.channels_last]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    heavy=st.booleans(),
)
@example(part_dim=600, grid=(9, 9), format=torch.contiguous_format, dtype=torch.bfloat16, heavy=False)  # small tiles
def test_cells_that_are_summed_first_divide_a_tile_and_are_loaded_at_once(part_dim, grid, format, dtype, heavy):
    code = torch.empty(1, 4 * part_dim, *grid, dtype=dtype, device="meta").contiguous(memory_format=format)
    cells = math.prod(grid)
    tile, _ = tiles.blocks(4, part_dim, cells, code.stride(1) == 1, code.element_size(), heavy)
    side, channels_adjacent = tiles.side_by_side(tile, code, heavy)
    assert channels_adjacent == (code.stride(1) == 1)
    assert tile[2] % side == 0
    assert side * code.element_size() <= 16
    if channels_adjacent:
        assert side == 1
    elif cells <= tile[2] and not heavy:
        assert cells % side == 0  # each channel's cells begin at a multiple of what a thread loads
        assert side * code.element_size() == 16 or cells % (2 * side)  # and it loads no less than it can
    else:
        assert side == min(tile[2], 16 // code.element_size())


@given(
    channels=st.integers(1, 4),
    patch=st.integers(1, 64),
    grid=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    run_of_channels=st.booleans(),
    item_size=st.sampled_from([2, 4]),
    walked=st.booleans(),
)
@example(channels=1, patch=1, grid=(33, 32), run_of_channels=False, item_size=4, walked=False)  # more than a tile holds
def test_tiles_of_patches_are_one_warps_share_of_pixels(channels, patch, grid, run_of_channels, item_size, walked):
    height, width = grid[0] * patch, grid[1] * patch
    programs, arguments = weighted_loss.tiles(channels, height, width, patch, run_of_channels, item_size, walked)
    (*image, side, step), (rows, patches, run) = arguments["GRID"], arguments["BLOCKS"]
    assert image == [channels, height, width, patch]
    assert side in ((1, channels) if run_of_channels else (1,))
    assert all(map(is_power_of_two, (rows, patches, run, step, arguments["num_warps"])))
    assert run >= patch * side
    # A thread's places are loaded at once, 16 bytes at most, do not leave their run, and reach the next pixel.
    assert patch * side % step == 0
    assert side <= step <= 16 // item_size
    assert rows == 1 or not walked
    share = 512 if walked else 2048
    assert rows * patches * run * item_size <= share * arguments["num_warps"]
    assert arguments["num_warps"] == max(1, run * item_size // share)  # more than one for long runs alone
    blocks = programs * side // channels
    assert (blocks - 1) * patches < math.prod(grid) <= blocks * patches
