"""PSNR and SSIM are those of the specification."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import reference
from accel.evaluation import psnr, ssim
from tests.support import assert_close


@st.composite
def image_pairs(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = (draw(st.integers(1, 3)), draw(st.sampled_from([1, 3])), *draw(st.tuples(*[st.integers(11, 20)] * 2)))
    images = rng.uniform(-1, 1, shape)
    noise = draw(st.sampled_from([1e-3, 0.1, 1.0]))
    return np.clip(images + noise * rng.normal(size=shape), -1, 1), images


@given(image_pairs(), st.sampled_from([torch.float64, torch.float32]))
def test_psnr_and_ssim_match_the_reference(pair, dtype):
    reconstruction, images = (torch.tensor(x).to(dtype) for x in pair)
    rounded = [x.double().numpy() for x in (reconstruction, images)]
    tolerance = 1e-12 if dtype is torch.float64 else 1e-4
    assert_close("psnr", psnr(reconstruction, images), reference.psnr(*rounded), relative=tolerance)
    assert_close("ssim", ssim(reconstruction, images), reference.ssim(*rounded), relative=tolerance)


def test_flat_images_keep_their_digits_in_float32():
    pattern = torch.linspace(0, 1e-3, 256).reshape(1, 1, 16, 16)
    images, reconstruction = 0.9 + pattern, 0.9 + pattern.flip(-1)
    expected = reference.ssim(reconstruction.double().numpy(), images.double().numpy())
    assert_close("ssim", ssim(reconstruction, images), expected, relative=1e-6)


def test_equal_images():
    images = torch.rand(2, 3, 12, 11) * 2 - 1
    assert torch.isinf(psnr(images, images)).all()
    assert_close("ssim", ssim(images, images), np.ones(2), relative=1e-6)


def test_small_images_are_refused():
    with pytest.raises(ValueError, match="at least 11x11 pixels, got 16x8"):
        ssim(torch.zeros(1, 3, 16, 8), torch.zeros(1, 3, 16, 8))


def test_psnr_and_ssim_are_those_of_scikit_image():
    """Golden values of scikit-image 0.26.0: peak_signal_noise_ratio, and structural_similarity with gaussian_weights,
    sigma 1.5, use_sample_covariance=False and data_range 1, whose map was averaged where the whole window is inside."""
    rng = np.random.default_rng(3)
    images = rng.uniform(0, 1, (2, 20, 24, 3))
    images[1] = np.linspace(0, 1, 24)[None, :, None]
    reconstruction = np.clip(images + 0.2 * rng.normal(size=images.shape), 0, 1)
    images, reconstruction = (torch.tensor(x * 2 - 1).permute(0, 3, 1, 2) for x in (images, reconstruction))
    # The two windows differ by where the Gaussian ends: 3.5 deviations there, 11 pixels here, which is the same.
    assert_close("psnr", psnr(reconstruction, images), [15.093949461659022, 15.237383529318883], relative=1e-12)
    assert_close("ssim", ssim(reconstruction, images), [0.8385027566402108, 0.21029276118394644], relative=1e-12)
