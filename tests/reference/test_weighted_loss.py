"""Gradient-energy weights and the weighted error: normalisation, constants, invariances, gradients."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import reference
from reference.weighted_loss import laplacian
from tests.support import assert_close


@st.composite
def images(draw, count=1):
    """count arrays of one shape (B, C, H, W) and the patch size that divides it."""
    patch = draw(st.integers(1, 8))
    batch, channels = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    rows, columns = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = (batch, channels, rows * patch, columns * patch)
    return [rng.uniform(-1, 1, shape) for _ in range(count)], patch


@given(images())
def test_weights_are_normalised_and_not_negative(case):
    (x,), patch = case
    weights = reference.gradient_energy_weights(x, patch)
    assert weights.shape == (*x.shape[:2], x.shape[2] // patch, x.shape[3] // patch)
    assert (weights >= 0).all()
    pixels = x.shape[2] * x.shape[3]
    np.testing.assert_allclose((weights * patch**2).sum((2, 3)), pixels, rtol=1e-13)


@given(constant=st.floats(-1, 1), channels=st.integers(1, 3))
def test_constant_channels_weigh_one_and_leave_the_others_alone(constant, channels):
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (2, channels, 16, 24))
    mixed = x.copy()
    mixed[0, 0] = constant
    with np.errstate(all="raise"):  # no quotient of zeros that a choice would hide
        weights = reference.gradient_energy_weights(mixed)
    assert (weights[0, 0] == 1).all()
    np.testing.assert_array_equal(weights[1], reference.gradient_energy_weights(x)[1])
    np.testing.assert_array_equal(weights[0, 1:], reference.gradient_energy_weights(x)[0, 1:])


@given(images(), st.floats(0.1, 10), st.floats(-1, 1))
def test_contrast_and_brightness_do_not_matter(case, contrast, brightness):
    (x,), patch = case
    weights = reference.gradient_energy_weights(x, patch)
    assert_close("ω", reference.gradient_energy_weights(contrast * x + brightness, patch), weights, relative=1e-11)


def test_laplacian_by_hand():
    x = np.zeros((1, 1, 3, 4))
    x[0, 0, 1, 1] = 1.0
    expected = [[0, 1, 0, 0], [1, -4, 1, 0], [0, 1, 0, 0]]
    np.testing.assert_array_equal(laplacian(x)[0, 0], expected)
    ramp = np.broadcast_to(np.arange(5.0), (1, 1, 4, 5))
    # Replicated borders bend a ramp at its two ends and nowhere else.
    np.testing.assert_array_equal(laplacian(ramp)[0, 0], np.tile([1.0, 0, 0, 0, -1.0], (4, 1)))


def test_energy_gathers_where_the_edges_are():
    x = np.zeros((1, 1, 16, 16))
    x[0, 0, 2:6, 2:6] = 1.0  # wholly inside the first patch
    np.testing.assert_array_equal(reference.gradient_energy_weights(x)[0, 0], [[4, 0], [0, 0]])


@given(images(count=2))
def test_one_patch_or_uniform_energy_is_the_plain_squared_error(case):
    (x, reconstruction), _ = case
    if x.shape[2] == x.shape[3]:
        error = reference.weighted_squared_error(reconstruction, x, patch_size=x.shape[2])
        np.testing.assert_allclose(error, ((x - reconstruction) ** 2).sum((1, 2, 3)), rtol=1e-13)


@given(images(count=2), st.integers(0, 2**32))
def test_gradients_equal_central_differences_with_the_weights_held(case, seed):
    (x, reconstruction), patch = case
    rng = np.random.default_rng(seed)
    d_error, direction = rng.normal(size=len(x)), rng.normal(size=x.shape)
    d_reconstruction, d_images = reference.weighted_squared_error_gradients(d_error, reconstruction, x, patch)
    # The error is quadratic in x̂, so a difference of any step is exact but for rounding.
    above, below = (
        (d_error * reference.weighted_squared_error(reconstruction + s * direction, x, patch)).sum()
        for s in (0.5, -0.5)
    )
    size = np.abs(d_reconstruction).sum() + 1
    assert (d_reconstruction * direction).sum() == pytest.approx(above - below, abs=1e-13 * size)
    np.testing.assert_array_equal(d_images, -d_reconstruction)


def test_sizes_that_patches_do_not_tile_are_refused():
    with pytest.raises(ValueError, match="divisible by patch_size 8, got 12x16"):
        reference.gradient_energy_weights(np.zeros((1, 1, 12, 16)))
