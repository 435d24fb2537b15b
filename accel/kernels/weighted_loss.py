"""The weighted squared error in five passes over an image. The equations stand in reference/weighted_loss.py.

ω belongs to a patch, so R = Σ_q ω_q Σ_{l in q} (x − x̂)²: one kernel reads both images and leaves two numbers a
patch, its gradient energy and its squared error. A second, over those alone, normalises the energy and sums. The
backward kernel reads both images and the energy and writes the gradient.

A tile is (rows, patches, run), of patches numbered from left to right and top to bottom, so that neighbouring threads
read neighbouring patches. A run is the pixels of a patch in one row; in channels-last images, where the channels of a
pixel lie side by side, it is all of those pixels' channels. A place is a position in an image's row of runs.
"""

import math
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from .tiles import index_type, layouts

# GRID, a compile-time constant of every kernel: (channels, height, width, patch size, SIDE, STEP). SIDE: channels in a
# run, 1 or all. STEP: places that one thread holds side by side, SIDE or more. BLOCKS: (rows, patches, run) of a tile.


@triton.jit
def patch_tile(top, GRID: tl.constexpr, BLOCKS: tl.constexpr, INDEX: tl.constexpr):
    """This program's image, channel (the first of a run), patches, rows from top on and places, and which exist.

    What does not exist has the address of something that does, so that no load needs a mask.
    """
    SIDE: tl.constexpr = GRID[4]
    RUN: tl.constexpr = GRID[3] * SIDE
    ACROSS: tl.constexpr = GRID[2] // GRID[3]
    PATCHES: tl.constexpr = GRID[1] // GRID[3] * ACROSS
    PATCH_BLOCKS: tl.constexpr = (PATCHES + BLOCKS[1] - 1) // BLOCKS[1]
    plane = tl.program_id(0) // PATCH_BLOCKS
    image, channel = (plane // (GRID[0] // SIDE)).to(tl.int64), plane % (GRID[0] // SIDE) * SIDE
    patches = tl.program_id(0) % PATCH_BLOCKS * BLOCKS[1] + tl.arange(0, BLOCKS[1])
    down = (top + tl.arange(0, BLOCKS[0]))[:, None, None]
    along = tl.arange(0, BLOCKS[2])[None, None, :]
    inside = (patches < PATCHES)[None, :, None] & (down < GRID[3]) & (along < RUN)
    real = tl.minimum(patches, PATCHES - 1)
    row = ((real // ACROSS)[None, :, None] * GRID[3] + down % GRID[3]).to(INDEX)
    place = ((real % ACROSS)[None, :, None] * RUN + along % RUN).to(INDEX)
    return image, channel, patches, row, place, inside


@triton.jit
def pixels(images, image, channel, row, place, GRID: tl.constexpr, LAYOUTS: tl.constexpr, MAP: tl.constexpr):
    """Addresses in images of strides LAYOUTS[MAP]: image, channel, row, column."""
    SIDE: tl.constexpr = GRID[4]
    if SIDE == 1:
        offsets = place * LAYOUTS[MAP][3]
    elif LAYOUTS[MAP][3] == SIDE * LAYOUTS[MAP][1]:
        offsets = place * LAYOUTS[MAP][1]
    else:
        offsets = place // SIDE * LAYOUTS[MAP][3] + place % SIDE * LAYOUTS[MAP][1]
    return images + image * LAYOUTS[MAP][0] + channel.to(tl.int64) * LAYOUTS[MAP][1] + (row * LAYOUTS[MAP][2] + offsets)


@triton.jit
def previous(x, first, LENGTH: tl.constexpr):
    """Along the last axis, of LENGTH, the element before each; first comes before the zeroth. All within a thread.

    Before an odd place lies the even one of its pair; before an even place lies the odd one of the pair before, which
    is the same question at half the length.
    """
    if LENGTH == 1:
        result = first
    else:
        even, odd = tl.split(tl.reshape(x, x.shape[0], x.shape[1], x.shape[2], LENGTH // 2, 2))
        result = tl.reshape(tl.join(previous(odd, first, LENGTH // 2), even), x.shape)
    return result


@triton.jit
def following(x, last, LENGTH: tl.constexpr):
    """Along the last axis, of LENGTH, the element after each; last comes after the last."""
    if LENGTH == 1:
        result = last
    else:
        even, odd = tl.split(tl.reshape(x, x.shape[0], x.shape[1], x.shape[2], LENGTH // 2, 2))
        result = tl.reshape(tl.join(odd, following(even, last, LENGTH // 2)), x.shape)
    return result


@triton.jit
def element(x, PLACE: tl.constexpr, LENGTH: tl.constexpr):
    """The element at PLACE of the last axis, of LENGTH."""
    if LENGTH == 1:
        result = tl.reshape(x, (x.shape[0], x.shape[1], x.shape[2]))
    else:
        even, odd = tl.split(tl.reshape(x, (x.shape[0], x.shape[1], x.shape[2], LENGTH // 2, 2)))
        result = element(odd if PLACE % 2 else even, PLACE // 2, LENGTH // 2)
    return result


@triton.jit
def steps(x, STEP: tl.constexpr):
    """(rows, patches, run) → (rows, patches, run / STEP, STEP): the last axis is what a thread holds side by side."""
    return tl.reshape(x, (x.shape[0], x.shape[1], x.shape[2] // STEP, STEP))


@triton.jit
def left_and_right(x, before, after, place, GRID: tl.constexpr):
    """The sum of each pixel's neighbours in its row, SIDE places away; beyond a border lies the border itself.

    x, before, after: tiles of STEP places side by side, those before them and those after them.
    """
    SIDE: tl.constexpr = GRID[4]
    STEP: tl.constexpr = GRID[5]
    first_place = element(steps(place, STEP), 0, STEP)
    leftmost, rightmost = first_place == 0, first_place == GRID[2] * SIDE - STEP
    here, before, after = steps(x, STEP), steps(before, STEP), steps(after, STEP)
    left, right = here, here
    for k in tl.static_range(SIDE):
        beyond = tl.where(leftmost, element(here, SIDE - 1 - k, STEP), element(before, STEP - 1 - k, STEP))
        left = previous(left, beyond[:, :, :, None], STEP)
        beyond = tl.where(rightmost, element(here, STEP - SIDE + k, STEP), element(after, k, STEP))
        right = following(right, beyond[:, :, :, None], STEP)
    return tl.reshape(left + right, x.shape)


@triton.jit
def store_sums(sums, tile, image, channel, patches, GRID: tl.constexpr, BLOCKS: tl.constexpr):
    """The sum over each patch and channel of the tile, into (B, C, patches)."""
    SIDE: tl.constexpr = GRID[4]
    PATCHES: tl.constexpr = GRID[1] // GRID[3] * (GRID[2] // GRID[3])
    columns = tl.sum(tile, axis=0)
    side = (tl.arange(0, BLOCKS[2]) % SIDE)[None, :]
    for k in tl.static_range(SIDE):
        total = tl.sum(tl.where(side == k, columns, 0.0), axis=1)
        row = (image * GRID[0] + channel + k) * PATCHES
        tl.store(sums + row + patches, total, mask=patches < PATCHES)


@triton.jit
def patch_kernel(
    images,
    reconstruction,  # None where only the energy is wanted
    energy,  # Σ |∇²x| of each patch, (B, C, patches)
    error,  # Σ (x − x̂)² of each patch, (B, C, patches)
    LAYOUTS: tl.constexpr,  # of images and reconstruction
    GRID: tl.constexpr,
    BLOCKS: tl.constexpr,
    INDEX: tl.constexpr,
):
    """Two numbers a patch from one reading of both images.

    A program walks down the rows of its patches, so that a pixel is loaded once and is in turn the one below, the
    middle and the one above. A tile of one row leaves the compiler no choice but to lay its threads along that row.
    """
    STEP: tl.constexpr = GRID[5]
    ROW: tl.constexpr = LAYOUTS[0][2]
    image, channel, patches, row, place, inside = patch_tile(0, GRID, BLOCKS, INDEX)
    centre = pixels(images, image, channel, row, place, GRID, LAYOUTS, 0)
    # Neighbours in the row are loaded STEP at once, aligned: one at a time would cost a cache as much.
    before = tl.where(place < STEP, place, place - STEP)
    before = pixels(images, image, channel, row, before, GRID, LAYOUTS, 0)
    after = tl.where(place < GRID[2] * GRID[4] - STEP, place + STEP, place)
    after = pixels(images, image, channel, row, after, GRID, LAYOUTS, 0)
    # Beyond a border lies the border itself.
    above = tl.load(centre - tl.where(row > 0, ROW, 0)).to(tl.float32)
    x = tl.load(centre).to(tl.float32)
    response = tl.zeros(BLOCKS, tl.float32)
    square = tl.zeros(BLOCKS, tl.float32)
    if reconstruction is not None:
        theirs = pixels(reconstruction, image, channel, row, place, GRID, LAYOUTS, 1)
    for down in tl.range(GRID[3], loop_unroll_factor=2):  # more, and loads are moved ahead until registers spill
        within = (down < GRID[3] - 1) | (row < GRID[1] - GRID[3])
        below = tl.load(centre + tl.where(within, ROW, 0)).to(tl.float32)
        beside = left_and_right(x, tl.load(before).to(tl.float32), tl.load(after).to(tl.float32), place, GRID)
        # Added in pairs: exactly zero on a constant image.
        response += tl.abs((above + below) + beside - 4.0 * x)
        if reconstruction is not None:
            difference = x - tl.load(theirs).to(tl.float32)
            square += difference * difference
            theirs += LAYOUTS[1][2]
        above, x = x, below
        centre, before, after = centre + ROW, before + ROW, after + ROW
    store_sums(energy, tl.where(inside, response, 0.0), image, channel, patches, GRID, BLOCKS)
    if reconstruction is not None:
        store_sums(error, tl.where(inside, square, 0.0), image, channel, patches, GRID, BLOCKS)


@triton.jit
def normalise_kernel(energy, error, scale, total, C: tl.constexpr, PATCHES: tl.constexpr, BLOCKS: tl.constexpr):
    """1 / mean energy of each image and channel, 0 where it has none, and R = Σ ω · error of each image.

    ω = energy · scale, or 1 where scale is 0.
    """
    image = tl.program_id(0).to(tl.int64)
    channels = tl.arange(0, BLOCKS[0])
    energy += image * (C * PATCHES)
    energy_sum = tl.zeros(BLOCKS, tl.float32)
    for start in range(0, PATCHES, BLOCKS[1]):
        patches = start + tl.arange(0, BLOCKS[1])
        inside = (channels < C)[:, None] & (patches < PATCHES)[None, :]
        energy_sum += tl.load(energy + channels[:, None] * PATCHES + patches[None, :], mask=inside, other=0.0)
    mean = tl.sum(energy_sum, axis=1) / PATCHES
    # 1 / ∞ would be 0, which stands for an image without gradients.
    inverse = tl.where(mean == 0.0, 0.0, 1.0 / tl.where(mean == 0.0, 1.0, mean) + (mean - mean))
    tl.store(scale + image * C + channels, inverse, mask=channels < C)
    if error is not None:
        error += image * (C * PATCHES)
        weighted = tl.zeros(BLOCKS, tl.float32)
        for start in range(0, PATCHES, BLOCKS[1]):
            patches = start + tl.arange(0, BLOCKS[1])
            inside = (channels < C)[:, None] & (patches < PATCHES)[None, :]
            places = channels[:, None] * PATCHES + patches[None, :]
            weight = tl.load(energy + places, mask=inside, other=0.0) * inverse[:, None]
            weight = tl.where(inverse[:, None] == 0.0, 1.0, weight)
            weighted += weight * tl.load(error + places, mask=inside, other=0.0)
        tl.store(total + image, tl.sum(tl.sum(weighted, axis=1), axis=0))


@triton.jit
def backward_kernel(
    images,
    reconstruction,
    energy,
    scale,
    d_total,
    d_reconstruction,
    LAYOUTS: tl.constexpr,  # of images, reconstruction and d_reconstruction; the last is d_total's stride
    GRID: tl.constexpr,
    BLOCKS: tl.constexpr,
    INDEX: tl.constexpr,
):
    """d_x̂ = 2 ω (x̂ − x) d_R."""
    SIDE: tl.constexpr = GRID[4]
    PATCHES: tl.constexpr = GRID[1] // GRID[3] * (GRID[2] // GRID[3])
    image, channel, patches, _, _, _ = patch_tile(0, GRID, BLOCKS, INDEX)
    plane = image * GRID[0] + channel + tl.arange(0, BLOCKS[2])[None, :] % SIDE
    inverse = tl.load(scale + plane)
    weight = tl.load(energy + plane * PATCHES + patches[:, None], mask=(patches < PATCHES)[:, None], other=0.0)
    weight = tl.where(inverse == 0.0, 1.0, weight * inverse)
    factor = (2.0 * tl.load(d_total + image * LAYOUTS[3])) * weight[None, :, :]
    for top in range(0, GRID[3], BLOCKS[0]):
        image, channel, patches, row, place, inside = patch_tile(top, GRID, BLOCKS, INDEX)
        ours = pixels(images, image, channel, row, place, GRID, LAYOUTS, 0)
        theirs = pixels(reconstruction, image, channel, row, place, GRID, LAYOUTS, 1)
        difference = tl.load(theirs).to(tl.float32) - tl.load(ours).to(tl.float32)
        stored = pixels(d_reconstruction, image, channel, row, place, GRID, LAYOUTS, 2)
        tl.store(stored, (factor * difference).to(d_reconstruction.dtype.element_ty), mask=inside)


# Launchers


def geometry(patch_size: int, images: Tensor, *others: Tensor | None, walked: bool):
    """Programs, and the keyword arguments GRID, BLOCKS, LAYOUTS, INDEX and num_warps, for images of one shape."""
    _, channels, height, width = images.shape
    maps = images, *others
    # Channels side by side in every image that is read or written; many would make long runs.
    run_of_channels = channels <= 4 and all(m is None or m.stride()[1::2] == (1, channels) for m in maps)
    programs, arguments = tiles(channels, height, width, patch_size, run_of_channels, images.element_size(), walked)
    map_layouts = layouts(*maps)
    index = index_type(channels, height, map_layouts)
    return images.shape[0] * programs, arguments | {"LAYOUTS": map_layouts, "INDEX": index}


@cache
def tiles(channels, height, width, patch_size, run_of_channels, item_size, walked):
    """Programs an image and the shape of a tile, of one warp, so that sums over a patch stay inside it.

    Where the rows of a patch are walked a tile is one row, 16 bytes a thread; else 2048 bytes: on an H200 twice as many
    take 5 to 23 % longer, and half as many halves 6 to 9 % (bench/results/h200-tiles.json).
    """
    side = channels if run_of_channels else 1
    step = math.gcd(patch_size * side, 16 // item_size)
    if step < side:
        side, step = 1, math.gcd(patch_size, 16 // item_size)
    block_run = triton.next_power_of_2(patch_size * side)
    pixels = (512 if walked else 2048) // item_size
    block_rows = 1 if walked else min(triton.next_power_of_2(patch_size), max(1, pixels // block_run))
    patches = height // patch_size * (width // patch_size)
    block_patches = min(triton.next_power_of_2(patches), max(1, pixels // (block_rows * block_run)))
    arguments = {
        "GRID": (channels, height, width, patch_size, side, step),
        "BLOCKS": (block_rows, block_patches, block_run),
        "num_warps": min(16, max(1, block_rows * block_patches * block_run // pixels)),
    }
    return channels // side * triton.cdiv(patches, block_patches), arguments


def forward(reconstruction: Tensor | None, images: Tensor, patch_size: int, outputs: tuple[Tensor | None, ...]):
    """Fills outputs: R (B,), the gradient energy (B, C, H/p, W/p) and its scale (B, C); ω = energy · scale, 1 where the
    scale is 0. Without a reconstruction there is no R.
    """
    total, energy, scale = outputs
    error = None if reconstruction is None else torch.empty_like(energy)
    programs, arguments = geometry(patch_size, images, reconstruction, walked=True)
    patch_kernel[(programs,)](images, reconstruction, energy, error, **arguments)
    _, channels, down, across = energy.shape
    block_channels = triton.next_power_of_2(channels)
    block_patches = min(triton.next_power_of_2(down * across), max(32, 4096 // block_channels))
    normalise_kernel[(images.shape[0],)](
        energy,
        error,
        scale,
        total,
        C=channels,
        PATCHES=down * across,
        BLOCKS=(block_channels, block_patches),
        num_warps=max(1, min(8, block_channels * block_patches // 256)),
    )


def backward(
    d_total: Tensor,
    reconstruction: Tensor,
    images: Tensor,
    energy: Tensor,
    scale: Tensor,
    patch_size: int,
    d_reconstruction: Tensor,
):
    """Fills the gradient of the reconstruction; that of the images is its negative."""
    programs, arguments = geometry(patch_size, images, reconstruction, d_reconstruction, walked=False)
    arguments["LAYOUTS"] += d_total.stride()
    backward_kernel[(programs,)](images, reconstruction, energy, scale, d_total, d_reconstruction, **arguments)
