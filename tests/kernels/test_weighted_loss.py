"""The fused weighted squared error against the specification: values and gradients."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import reference
from accel import ops
from tests.kernels.common import DEVICE, STORED, poisoned_memory
from tests.support import (
    ROUNDOFF,
    assert_close,
    hold_a_nan_to_its_image,
    hold_an_infinite_pixel_to_its_channel,
    layouts,
    restride,
)


@st.composite
def image_pairs(draw, dtype):
    """(reconstruction, images, patch size, layouts of both), some channels constant."""
    patch = draw(st.sampled_from([1, 2, 3, 4, 5, 7, 8, 12]))
    shape = (
        draw(st.integers(1, 2)),
        draw(st.integers(1, 5)),
        patch * draw(st.integers(1, 3)),
        patch * draw(st.integers(1, 3)),
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    images = rng.integers(0, 256, shape) / 127.5 - 1 if draw(st.booleans()) else rng.uniform(-1, 1, shape)
    if draw(st.booleans()):
        images[0, 0] = draw(st.floats(-1, 1))
    pair = (torch.tensor(x).to(DEVICE, dtype) for x in (rng.uniform(-1, 1, shape), images))
    # Both channels-last is a case of its own in the kernels.
    both = draw(st.sampled_from([None, "contiguous", "channels_last"]))
    return *pair, patch, (both or draw(layouts), both or draw(layouts))


def hold_to_reference(case, dtype):
    reconstruction, images, patch, chosen = case
    leaves = [restride(x, layout).requires_grad_() for x, layout in zip((reconstruction, images), chosen, strict=True)]
    d_error = torch.randn(len(images), generator=torch.Generator().manual_seed(0))
    with poisoned_memory():
        error = ops.weighted_squared_error(*leaves, patch, backend="triton")
        gradients = torch.autograd.grad(error, leaves, d_error.to(DEVICE))
        weights = ops.gradient_energy_weights(leaves[1], patch, backend="triton")
    arrays = [x.detach().cpu().double().numpy() for x in leaves]
    expected = reference.weighted_squared_error_gradients(d_error.double().numpy(), *arrays, patch)
    # As for the PyTorch backend (tests/ops): sums of up to a few hundred terms, 64 roundings in float32.
    relative = 64 * ROUNDOFF[torch.float32]
    assert_close("ω", weights, reference.gradient_energy_weights(arrays[1], patch), relative=relative)
    assert_close("R", error, reference.weighted_squared_error(*arrays, patch), relative=relative)
    for leaf, got, wanted in zip(leaves, gradients, expected, strict=True):
        assert got.dtype == dtype
        assert got.shape == leaf.shape
        assert_close("gradient", got, wanted, relative=relative + STORED[dtype])
    assert torch.equal(leaves[0], reconstruction)
    assert torch.equal(leaves[1], images)


@settings(max_examples=20)
@given(image_pairs(torch.float32))
def test_float32_equals_the_reference(case):
    hold_to_reference(case, torch.float32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@settings(max_examples=10)
@given(data=st.data())
def test_half_precision_equals_the_reference_but_for_rounding(dtype, data):
    hold_to_reference(data.draw(image_pairs(dtype)), dtype)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_constant_images_weigh_one_exactly(dtype, layout):
    images = restride(torch.full((1, 3, 16, 8), 1 / 3, dtype=dtype, device=DEVICE), layout)
    assert (ops.gradient_energy_weights(images, backend="triton") == 1).all()


def test_large_patches_are_walked_in_rows():
    images = torch.randn(1, 1, 80, 40, device=DEVICE)
    weights = ops.gradient_energy_weights(images, 40, backend="triton")
    assert_close("ω", weights, reference.gradient_energy_weights(images.cpu().double().numpy(), 40), relative=1e-5)


def test_different_dtypes_of_both_images_and_an_expanded_gradient():
    reconstruction = torch.randn(2, 3, 8, 8, device=DEVICE, dtype=torch.bfloat16, requires_grad=True)
    images = torch.randn(2, 3, 8, 8, device=DEVICE, requires_grad=True)
    leaves = reconstruction, images
    got, wanted = (
        torch.autograd.grad(ops.weighted_squared_error(*leaves, 4, backend=b).mean(), leaves)
        for b in ("triton", "torch")
    )
    assert got[0].dtype == torch.bfloat16
    assert_close("gradient", got[0], wanted[0], relative=STORED[torch.bfloat16] + ROUNDOFF[torch.bfloat16])
    assert_close("of the images", got[1], wanted[1], relative=16 * ROUNDOFF[torch.float32])  # not rounded to bfloat16


def test_the_same_input_gives_the_same_bits():
    leaves = [torch.randn(2, 3, 16, 16, device=DEVICE, requires_grad=True) for _ in range(2)]
    results = []
    for _ in range(2):
        error = ops.weighted_squared_error(*leaves, backend="triton")
        results.append((error, *torch.autograd.grad(error.sum(), leaves)))
    for first, second in zip(*results, strict=True):
        assert torch.equal(first, second)


def test_an_infinite_pixel_is_no_flat_image():
    hold_an_infinite_pixel_to_its_channel("triton", DEVICE)


def test_a_nan_in_an_image_is_in_its_error_alone():
    hold_a_nan_to_its_image("triton", DEVICE)
