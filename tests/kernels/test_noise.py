"""The draws of a kernel against the specification's."""

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

import reference
from accel.kernels import noise as draws
from tests.kernels.common import DEVICE

ELEMENTS = 128


@triton.jit
def draw_kernel(uniforms, normals, seed, step, first_image, ELEMENTS: tl.constexpr):
    element = tl.arange(0, ELEMENTS)
    image = tl.program_id(0)
    seed, step, first_image = draws.read(seed), draws.read(step), draws.read(first_image)
    word, _ = draws.philox(element, first_image + image, draws.OCCURRENCE_STREAM, step, seed)
    tl.store(uniforms + image * ELEMENTS + element, draws.uniform(word))
    normal = draws.normal_noise(element, first_image + image, step, seed)
    tl.store(normals + image * ELEMENTS + element, normal)


@triton.jit
def cosine_kernel(x, cosine, SIZE: tl.constexpr):
    place = tl.arange(0, SIZE)
    tl.store(cosine + place, draws.cosine_of_turns(tl.load(x + place)))


@pytest.mark.parametrize("by_address", [False, True])
@pytest.mark.parametrize(
    ("seed", "step", "first_image"),
    [(0, 0, 0), (1, 16, 1), (2**31 + 7, 2**31, 2**31 + 1), (2**64 - 5, 2**32 - 1, 2**32 - 9), (2**40 + 3, 17, 5)],
)
def test_draws_are_the_references(seed, step, first_image, by_address):
    arguments = [seed - 2**64 if seed >= 2**63 else seed, step, first_image]
    if by_address:
        arguments = [torch.tensor(x, device=DEVICE) for x in arguments]
    elif DEVICE == "cpu" and any(2**31 <= x < 2**32 for x in arguments):
        pytest.skip("the interpreter takes such a number for uint32 where the compiler makes it int64")
    uniforms, normals = (torch.full((2, ELEMENTS), float("nan"), device=DEVICE) for _ in range(2))
    draw_kernel[(2,)](uniforms, normals, *arguments, ELEMENTS=ELEMENTS)
    noise = reference.Noise(seed, step, first_image)
    assert np.array_equal(uniforms.cpu().numpy(), reference.occurrence_noise(noise, 2, 1, ELEMENTS)[:, 0])
    expected = reference.appearance_noise(noise, 2, 1, ELEMENTS)[:, 0]
    # A radius of at most 5.8, and an angle to a few units in the last place of float32.
    assert np.abs(normals.cpu().numpy() - expected).max() < 2e-6


def test_cosine_of_turns_is_accurate_over_a_whole_turn():
    x = torch.linspace(0, 1, 4096, device=DEVICE)
    cosine = torch.empty_like(x)
    cosine_kernel[(1,)](x, cosine, SIZE=4096)
    error = cosine.cpu().double() - torch.cos(2 * torch.pi * x.cpu().double())
    assert error.abs().max() < 3e-7
