"""The PyTorch backend of the weighted loss against the specification, and its argument checks."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import reference
from accel import ops
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
    """(reconstruction, images, patch size): uint8-like or arbitrary values, some channels constant."""
    patch = draw(st.integers(1, 9))
    batch, channels = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    rows, columns = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    shape = (batch, channels, rows * patch, columns * patch)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    images = rng.integers(0, 256, shape) / 127.5 - 1 if draw(st.booleans()) else rng.uniform(-1, 1, shape)
    if draw(st.booleans()):
        images[0, 0] = draw(st.floats(-1, 1))
    pair = rng.uniform(-1, 1, shape), images
    return *(torch.tensor(x).to(dtype) for x in pair), patch


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@given(data=st.data())
def test_equals_the_reference(dtype, data):
    reconstruction, images, patch = data.draw(image_pairs(dtype))
    d_error = torch.tensor(np.random.default_rng(0).normal(size=len(images)), dtype=dtype)
    expected_weights = reference.gradient_energy_weights(images.double().numpy(), patch)
    expected = reference.weighted_squared_error(reconstruction.double().numpy(), images.double().numpy(), patch)
    expected_gradients = reference.weighted_squared_error_gradients(
        d_error.double().numpy(), reconstruction.double().numpy(), images.double().numpy(), patch
    )
    leaves = [restride(x, data.draw(layouts)).requires_grad_() for x in (reconstruction, images)]
    error = ops.weighted_squared_error(*leaves, patch, backend="torch")
    gradients = torch.autograd.grad(error, leaves, d_error)
    # A patch sums up to 81 terms and an image nine of those in pairwise order: 64 roundings are ample.
    relative = 64 * ROUNDOFF[dtype]
    weights = ops.gradient_energy_weights(images, patch, backend="torch")
    assert_close("ω", weights, expected_weights, relative=relative)
    assert_close("R", error, expected, relative=relative)
    for got, wanted in zip(gradients, expected_gradients, strict=True):
        assert_close("gradient", got, wanted, relative=relative)


@pytest.mark.parametrize("constant", [-1.0, 0.1, 1 / 3, 0.7])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_constant_images_weigh_one_exactly(constant, dtype):
    weights = ops.gradient_energy_weights(torch.full((1, 3, 16, 8), constant, dtype=dtype))
    assert (weights == 1).all()


def test_no_gradient_flows_through_the_weights():
    images = torch.randn(1, 1, 16, 16, requires_grad=True)
    assert not ops.gradient_energy_weights(images).requires_grad


X = torch.zeros(2, 3, 16, 24)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((X[0], X[0]), r"images must be \(B, C, H, W\) with C, H, W ≥ 1, got \(3, 16, 24\)"),
        ((X[:, :1], X), r"reconstruction must be images' shape = \(2, 3, 16, 24\), got \(2, 1, 16, 24\)"),
        ((X, X, 5), r"patch_size must divide height and width 16x24, got 5"),
        ((X, X, 12), r"patch_size must divide height and width 16x24, got 12"),
        ((X, X, 16), r"patch_size must divide height and width 16x24, got 16"),
        ((X, X, 0), r"patch_size must divide height and width 16x24, got 0"),
        ((X, X.byte()), r"images must be a floating-point tensor, got torch.uint8"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=f"weighted_squared_error: {message}"):
        ops.weighted_squared_error(*arguments)


def test_a_patch_size_of_numpy_is_an_integer():
    images = torch.rand(1, 1, 8, 8)
    one, other = (ops.gradient_energy_weights(images, size) for size in (4, np.int64(4)))
    assert torch.equal(one, other)
    with pytest.raises(ValueError, match=r"patch_size must be an integer, got 4\.0"):
        ops.gradient_energy_weights(images, 4.0)


def test_an_infinite_pixel_is_no_flat_image():
    hold_an_infinite_pixel_to_its_channel("torch", "cpu")


def test_a_nan_in_an_image_is_in_its_error_alone():
    hold_a_nan_to_its_image("torch", "cpu")
