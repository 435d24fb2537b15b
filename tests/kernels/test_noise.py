"""The random numbers of a kernel against the specification."""

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

import reference
from accel.kernels import noise as draws
from tests.kernels.common import DEVICE

# (parts, cells, numbers) and the tile of cells: blocks that are left over, tiles narrower than a block.
SHAPES = [(3, 49, 6, 16), (2, 128, 16, 64), (4, 5, 1, 8), (1, 3, 2, 2), (2, 2, 3, 1), (5, 9, 13, 4)]


@triton.jit
def draw_kernel(
    uniforms, normals, seed, step, first_image,
    N: tl.constexpr, L: tl.constexpr, D: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    image = tl.program_id(0)
    draw = (draws.read(seed), draws.read(step), draws.read(first_image) + image)
    parts, numbers = tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_D)
    for start in range(0, L, BLOCK_L):
        cells = start + tl.arange(0, BLOCK_L)
        place = (image * N + parts)[None, :] * L + cells[:, None]
        inside = (parts < N)[None, :] & (cells < L)[:, None]
        tl.store(uniforms + place, draws.occurrence_uniform(start, BLOCK_L, parts, L, draw), mask=inside)
    place = (image * N + parts)[:, None] * D + numbers[None, :]
    inside = (parts < N)[:, None] & (numbers < D)[None, :]
    tl.store(normals + place, draws.normal_noise(parts, BLOCK_D, D, draw), mask=inside)


@triton.jit
def turns_kernel(x, cosine, sine, SIZE: tl.constexpr):
    place = tl.arange(0, SIZE)
    tl.store(cosine + place, draws.cosine_of_turns(tl.load(x + place)))
    tl.store(sine + place, draws.sine_of_turns(tl.load(x + place)))


@pytest.mark.parametrize("by_address", [False, True])
@pytest.mark.parametrize(
    ("seed", "step", "first_image"),
    [(0, 0, 0), (1, 16, 1), (2**31 + 7, 2**31, 2**31 + 1), (2**64 - 5, 2**32 - 1, 2**32 - 9), (2**40 + 3, 17, 5)],
)
@pytest.mark.parametrize(("parts", "cells", "numbers", "block"), SHAPES)
def test_draws_are_the_references(seed, step, first_image, by_address, parts, cells, numbers, block):
    arguments = [seed - 2**64 if seed >= 2**63 else seed, step, first_image]
    if by_address:
        arguments = [torch.tensor(x, device=DEVICE) for x in arguments]
    elif DEVICE == "cpu" and any(2**31 <= x < 2**32 for x in arguments):
        pytest.skip("the interpreter takes such a number for uint32 where the compiler makes it int64")
    uniforms = torch.full((2, parts, cells), float("nan"), device=DEVICE)
    normals = torch.full((2, parts, numbers), float("nan"), device=DEVICE)
    draw_kernel[(2,)](
        uniforms, normals, *arguments, N=parts, L=cells, D=numbers, BLOCK_L=block,
        BLOCK_N=triton.next_power_of_2(parts), BLOCK_D=triton.next_power_of_2(numbers),
    )  # fmt: skip
    noise = reference.Noise(seed, step, first_image)
    assert np.array_equal(uniforms.cpu().numpy(), reference.occurrence_noise(noise, 2, parts, cells))
    expected = reference.appearance_noise(noise, 2, parts, numbers)
    # A radius of at most 5.8, and an angle to a few units in the last place of float32.
    assert np.abs(normals.cpu().numpy() - expected).max() < 2e-6


def test_cosine_and_sine_of_turns_are_accurate_over_a_whole_turn():
    x = torch.linspace(0, 1, 4096, device=DEVICE)
    cosine, sine = torch.empty_like(x), torch.empty_like(x)
    turns_kernel[(1,)](x, cosine, sine, SIZE=4096)
    angle = 2 * torch.pi * x.cpu().double()
    assert (cosine.cpu().double() - torch.cos(angle)).abs().max() < 3e-7
    assert (sine.cpu().double() - torch.sin(angle)).abs().max() < 3e-7
