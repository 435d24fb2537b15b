"""The specification of patterns: evidence as the largest likelihood ratio, exchangeability, and cross-entropy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import reference


def case(seed, pieces=5, templates=3, size=4):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(size, size))
    covariance = root @ root.T + 0.1 * np.eye(size)
    return rng.normal(size=(pieces, size)), rng.normal(size=(templates, size)), rng.normal(size=size), covariance


def log_density(x, mean, covariance):
    apart = x - mean
    return -0.5 * (apart @ np.linalg.solve(covariance, apart) + np.linalg.slogdet(2 * np.pi * covariance)[1])


@given(seed=st.integers(0, 999))
def test_evidence_is_the_largest_logarithm_of_a_ratio_of_likelihoods(seed):
    pieces, templates, mean, covariance = case(seed)
    got = reference.evidence(pieces, templates, mean, covariance)
    for i, piece in enumerate(pieces):
        for k, template in enumerate(templates):
            without = log_density(piece, mean, covariance)

            def ratio(contrast, piece=piece, template=template, without=without):
                return log_density(piece, mean + contrast * template, covariance) - without

            values = [ratio(contrast) for contrast in np.linspace(0, 20, 2001)]
            assert max(values) <= got[i, k] + 1e-9
            # The ratio is a parabola of the contrast, so half a step beside its top it is nearly as large.
            bend = 0.5 * template @ np.linalg.solve(covariance, template)
            assert got[i, k] <= max(values) + bend * 0.005**2 + 1e-9 or values[-1] == max(values)


@given(seed=st.integers(0, 999), scale=st.floats(0.01, 100))
def test_evidence_depends_on_the_direction_of_a_template_only(seed, scale):
    pieces, templates, mean, covariance = case(seed)
    got = reference.evidence(pieces, scale * templates, mean, covariance)
    np.testing.assert_allclose(got, reference.evidence(pieces, templates, mean, covariance), rtol=1e-9, atol=1e-12)


def test_equal_templates_are_exchangeable_and_orthogonal_ones_are_not():
    evidence = np.array([[4.0, 4.0, 0.0], [2.0, 2.0, 0.0], [0.0, 1.0, 6.0]])
    got = reference.exchangeability(evidence[:, [0, 1, 2]], np.array([0, 1, 2]))
    # Pieces: of template 0 with 4 for both, of template 1 with 2 for both, of template 2 with 1 of 6 for template 1.
    np.testing.assert_allclose(got, [[1, 1, 0], [1, 1, 0], [0, 0, 1]])


@given(seed=st.integers(0, 999))
def test_cross_entropy_is_that_of_the_shares_at_known_cells(seed):
    rng = np.random.default_rng(seed)
    occurrence, identities = rng.uniform(0.01, 0.3, (2, 3, 2, 2)), rng.integers(-1, 3, (2, 2, 2))
    expected = 0.0
    for image, row, column in np.ndindex(2, 2, 2):
        part = identities[image, row, column]
        if part >= 0:
            p = occurrence[image, :, row, column]
            expected -= np.log(p[part] / p.sum()) / 2
    assert reference.identity_cross_entropy(occurrence, identities) == pytest.approx(expected, rel=1e-12)


@given(seed=st.integers(0, 999), d_output=st.floats(-3, 3))
def test_gradients_of_the_cross_entropy_are_finite_differences(seed, d_output):
    rng = np.random.default_rng(seed)
    occurrence, identities = rng.uniform(0.05, 0.3, (2, 3, 2, 2)), rng.integers(-1, 3, (2, 2, 2))
    got = reference.identity_cross_entropy_gradients(d_output, occurrence, identities)
    step = 1e-6
    for index in np.ndindex(occurrence.shape):
        values = []
        for sign in (1, -1):
            moved = occurrence.copy()
            moved[index] += sign * step
            values.append(reference.identity_cross_entropy(moved, identities))
        # The third derivative is below 2 / 0.05³, so the error of the difference is below 1e-12 / 3 of that.
        assert got[index] == pytest.approx(d_output * (values[0] - values[1]) / (2 * step), rel=1e-6, abs=1e-6)
