"""PSNR, SSIM and the Fréchet distance: closed forms, identities, and values from other implementations."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import reference


def test_psnr_by_hand():
    x = np.zeros((2, 3, 4, 4))
    y = x.copy()
    y[0] += 0.2  # 0.1 on the [0, 1] scale: MSE 0.01
    y[1, 0, 0, 0] += 2.0  # one of 48 numbers off by the whole range
    np.testing.assert_allclose(reference.psnr(y, x), [20.0, 10 * np.log10(48)], rtol=1e-12)
    assert np.isposinf(reference.psnr(x, x)).all()


def direct_ssim(x, y):
    """SSIM of two single channels from its definition, window by window, with centred moments."""
    offsets = np.arange(11) - 5
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    values = []
    for i in range(x.shape[0] - 10):
        for j in range(x.shape[1] - 10):
            p, q = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
            mean_p, mean_q = (window * p).sum(), (window * q).sum()
            variance_p, variance_q = (window * (p - mean_p) ** 2).sum(), (window * (q - mean_q) ** 2).sum()
            covariance = (window * (p - mean_p) * (q - mean_q)).sum()
            values.append(
                (2 * mean_p * mean_q + 1e-4)
                * (2 * covariance + 9e-4)
                / ((mean_p**2 + mean_q**2 + 1e-4) * (variance_p + variance_q + 9e-4))
            )
    return np.mean(values)


def test_ssim_equals_its_definition():
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (2, 3, 13, 16))
    y = np.clip(x + 0.3 * rng.normal(size=x.shape), -1, 1)
    expected = [np.mean([direct_ssim((x[b, c] + 1) / 2, (y[b, c] + 1) / 2) for c in range(3)]) for b in range(2)]
    np.testing.assert_allclose(reference.ssim(y, x), expected, rtol=1e-11)


@given(seed=st.integers(0, 999), noise=st.floats(0.01, 1))
def test_ssim_is_symmetric_at_most_one_and_one_for_equal_images(seed, noise):
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (1, 1, 12, 12))
    y = np.clip(x + noise * rng.normal(size=x.shape), -1, 1)
    np.testing.assert_allclose(reference.ssim(x, y), reference.ssim(y, x), rtol=1e-12)
    assert reference.ssim(y, x)[0] < 1
    np.testing.assert_allclose(reference.ssim(x, x), 1, rtol=1e-12)


def test_ssim_needs_a_whole_window():
    with pytest.raises(ValueError, match="at least 11x11 pixels, got 10x32"):
        reference.ssim(np.zeros((1, 1, 10, 32)), np.zeros((1, 1, 10, 32)))


@given(dim=st.integers(1, 8), seed=st.integers(0, 999))
def test_frechet_distance_of_diagonal_gaussians(dim, seed):
    """It is |μ₁ − μ₂|² + Σ (σ₁ − σ₂)² in any orthonormal basis that both share."""
    rng = np.random.default_rng(seed)
    mean_1, mean_2 = rng.normal(size=(2, dim))
    deviation_1, deviation_2 = rng.uniform(0, 3, (2, dim))
    basis, _ = np.linalg.qr(rng.normal(size=(dim, dim)))
    expected = ((mean_1 - mean_2) ** 2).sum() + ((deviation_1 - deviation_2) ** 2).sum()
    got = reference.frechet_distance(
        basis @ mean_1, (basis * deviation_1**2) @ basis.T, basis @ mean_2, (basis * deviation_2**2) @ basis.T
    )
    # Roots of eigenvalues near zero keep half of the digits.
    assert got == pytest.approx(expected, abs=1e-7 * dim)


@given(dim=st.integers(1, 6), seed=st.integers(0, 999))
def test_frechet_distance_is_symmetric_and_zero_for_equal_gaussians(dim, seed):
    rng = np.random.default_rng(seed)
    mean_1, mean_2 = rng.normal(size=(2, dim))
    factor_1, factor_2 = rng.normal(size=(2, dim, dim))
    covariance_1, covariance_2 = factor_1 @ factor_1.T, factor_2 @ factor_2.T
    there = reference.frechet_distance(mean_1, covariance_1, mean_2, covariance_2)
    back = reference.frechet_distance(mean_2, covariance_2, mean_1, covariance_1)
    assert there == pytest.approx(back, rel=1e-6, abs=1e-6)
    assert reference.frechet_distance(mean_1, covariance_1, mean_1, covariance_1) == pytest.approx(0, abs=1e-6)
