"""The choice of tiles, which affects only speed and rounding."""

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from accel.kernels import occurrence, pooled, tiles, weighted_loss

# parts, numbers, cells, channels-last, bytes a number, whether the pass is heavy: the tile and numbers a thread.
BLOCKS = {
    "an image of 8192 numbers": ((8, 16, 64, False, 4, False), (8, 16, 64), 32),
    "an image of more": ((8, 16, 65, False, 4, False), (2, 16, 128), 64),
    "an image of 4096 numbers in a heavy pass": ((8, 8, 64, False, 4, True), (8, 8, 64), 16),
    "an image of more in a heavy pass": ((8, 16, 64, False, 4, True), (1, 16, 64), 16),
    "channels-last, 64 cells": ((64, 16, 64, True, 4, False), (2, 16, 64), 64),
    "channels-last, 64 cells, heavy": ((64, 16, 64, True, 4, True), (8, 16, 8), 8),
    "channels-last, 65 cells": ((64, 16, 65, True, 4, False), (8, 16, 16), 16),
    "channels-last, 1023 cells, heavy": ((64, 16, 1023, True, 2, True), (8, 16, 8), 8),
    "channels-last, 1024 cells": ((64, 16, 1024, True, 2, False), (4, 16, 32), 32),
    "channels-last, long parts": ((64, 256, 64, True, 2, False), (1, 256, 8), 32),
    "contiguous, 64 cells": ((64, 6, 64, False, 4, False), (2, 8, 64), 32),
    "contiguous, 64 cells, halves": ((64, 6, 64, False, 2, False), (4, 8, 64), 64),
    "contiguous, 64 cells, heavy": ((64, 6, 64, False, 4, True), (2, 8, 64), 16),
    "contiguous, 65 cells": ((64, 6, 65, False, 4, False), (2, 8, 128), 64),
    "contiguous, 65 cells, halves": ((64, 6, 65, False, 2, False), (2, 8, 128), 64),
    "contiguous, 65 cells, halves, heavy": ((64, 6, 65, False, 2, True), (1, 8, 128), 32),
    "parts of two numbers": ((256, 2, 64, False, 4, False), (8, 2, 64), 16),
    "parts of four numbers": ((64, 4, 64, False, 2, False), (8, 4, 64), 32),
    "parts of 64 numbers": ((64, 64, 256, False, 4, False), (1, 64, 256), 64),
    "parts of more": ((64, 128, 256, False, 4, False), (1, 128, 16), 32),
    "parts of more, heavy": ((64, 128, 256, True, 4, True), (2, 128, 8), 16),
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
)
def test_tiles_are_what_triton_takes(parts, part_dim, cells, channels_last, item_size, heavy):
    tile, warps = tiles.blocks(parts, part_dim, cells, channels_last, item_size, heavy)
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
