"""The divergences against independent formulas and numerical integration, their gradients against differences."""

import functools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Bernoulli, kl_divergence

import reference

logits = st.floats(-30, 30)
priors = st.sampled_from([1e-6, 0.01, 1 / 16, 0.5, 0.9, 1 - 1e-6])


@given(logit=logits, prior=priors)
def test_bernoulli_divergence_equals_torch_distributions(logit, prior):
    a, pi = torch.tensor(logit, dtype=torch.float64), torch.tensor(prior, dtype=torch.float64)
    expected = kl_divergence(Bernoulli(logits=a), Bernoulli(probs=pi)).item()
    # torch forms the same sum in another order: its terms are at most |a| + |logit π| in size.
    size = abs(logit) + abs(np.log(prior) - np.log1p(-prior)) + 1
    assert reference.bernoulli_divergence(np.float64(logit), prior) == pytest.approx(expected, abs=1e-14 * size)


@given(prior=priors)
def test_bernoulli_divergence_is_zero_at_the_prior_alone(prior):
    at_prior = np.log(prior) - np.log1p(-prior)
    assert abs(reference.bernoulli_divergence(at_prior, prior)) < 1e-14
    for offset in (-0.5, 0.5):
        assert reference.bernoulli_divergence(at_prior + offset, prior) > 0


@pytest.mark.parametrize("logit", [-1e4, 1e4])
def test_bernoulli_divergence_far_out_is_that_of_a_certain_outcome(logit):
    expected = -np.log(0.1) if logit > 0 else -np.log1p(-0.1)
    assert reference.bernoulli_divergence(np.float64(logit), 0.1) == pytest.approx(expected, rel=1e-14)


def test_bernoulli_gradient_does_not_vanish_where_the_probability_rounds_to_one():
    """For logits above about 17, a float32 probability is 1, and a clamped logarithm has no gradient."""
    gradient = reference.bernoulli_divergence_gradients(1.0, np.float64(20.0), 1 / 16)
    assert gradient == pytest.approx(np.exp(-20.0) * (20.0 + np.log(15)), rel=1e-6)


@given(logit=st.floats(-15, 15), prior=priors)
def test_bernoulli_gradient_equals_central_differences(logit, prior):
    step = 1e-5
    above, below = (reference.bernoulli_divergence(np.float64(logit + s), prior) for s in (step, -step))
    # Truncation step²/6 times the third derivative (below 20 here), rounding 2⁻⁵³ · 30 / step.
    assert reference.bernoulli_divergence_gradients(1.0, logit, prior) == pytest.approx(
        (above - below) / (2 * step), abs=1e-8
    )


@given(mean=st.floats(-4, 4), log_variance=st.floats(-6, 4), prior_mean=st.floats(-3, 3))
def test_gaussian_divergence_equals_the_integral(mean, log_variance, prior_mean):
    deviation = np.exp(0.5 * log_variance)
    x, width = np.linspace(mean - 12 * deviation, mean + 12 * deviation, 20_001, retstep=True)
    log_q = -0.5 * ((x - mean) / deviation) ** 2 - 0.5 * (log_variance + np.log(2 * np.pi))
    log_prior = -0.5 * (x - prior_mean) ** 2 - 0.5 * np.log(2 * np.pi)
    # The trapezoid rule on an analytic function that is 0 at both ends converges faster than any power.
    integral = width * (np.exp(log_q) * (log_q - log_prior)).sum()
    divergence = reference.gaussian_divergence(mean, log_variance, prior_mean)
    assert divergence == pytest.approx(integral, rel=1e-10, abs=1e-10)
    assert divergence >= 0


@given(mean=st.floats(-4, 4), log_variance=st.floats(-6, 4), prior_mean=st.floats(-3, 3))
def test_gaussian_gradients_equal_central_differences(mean, log_variance, prior_mean):
    step = 1e-5
    kl = functools.partial(reference.gaussian_divergence, prior_mean=prior_mean)
    d_mean, d_log_variance = reference.gaussian_divergence_gradients(1.0, mean, log_variance, prior_mean)
    assert d_mean == pytest.approx(
        (kl(mean + step, log_variance) - kl(mean - step, log_variance)) / (2 * step), abs=1e-8
    )
    assert d_log_variance == pytest.approx(
        (kl(mean, log_variance + step) - kl(mean, log_variance - step)) / (2 * step), abs=1e-8
    )


def test_gaussian_divergence_is_zero_at_the_prior():
    assert reference.gaussian_divergence(0.0, 0.0) == 0.0


@pytest.mark.parametrize(("parts", "prior"), [(1, 0.3), (4, 0.01), (6, 0.16)])
def test_categorical_divergence_is_a_sum_over_categories_with_its_derivative(parts, prior):
    logits = np.random.default_rng(parts).normal(size=(2, parts, 3)) * 2
    weights = np.exp(np.concatenate([logits, np.zeros((2, 1, 3))], 1))
    p = weights / weights.sum(1, keepdims=True)
    q = np.array([prior] * parts + [1 - parts * prior])[None, :, None]
    np.testing.assert_allclose(reference.categorical_divergence(logits, prior), (p * np.log(p / q)).sum(1), rtol=1e-12)
    incoming = np.random.default_rng(0).normal(size=(2, 3))
    gradient = reference.categorical_divergence_gradients(incoming, logits, prior)
    step = 1e-6
    for index in np.ndindex(logits.shape):
        moved = np.zeros_like(logits)
        moved[index] = step
        change = reference.categorical_divergence(logits + moved, prior) - reference.categorical_divergence(
            logits - moved, prior
        )
        # Central differences: an error of step² and of rounding over step.
        np.testing.assert_allclose(gradient[index], (incoming * change).sum() / (2 * step), atol=1e-8)


def test_categorical_divergence_is_zero_at_the_prior_and_finite_anywhere():
    at_prior = np.log(np.full((1, 3, 2), 0.2) / 0.4)
    np.testing.assert_allclose(reference.categorical_divergence(at_prior, 0.2), 0, atol=1e-15)
    for size in (80.0, 1e4):
        for logits in (np.full((1, 3, 1), -size), np.array([[[size], [-size], [size]]])):
            assert np.isfinite(reference.categorical_divergence(logits, 0.2)).all()
            assert np.isfinite(reference.categorical_divergence_gradients(np.ones((1, 1)), logits, 0.2)).all()


identities = st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 4))


def draw_parts(seed, shape, size=1.0):
    """Probabilities of categorical parts (B, N, L), and their logits."""
    logits = size * np.random.default_rng(seed).normal(size=shape)
    return np.exp(reference.category_log_probabilities(logits))[:, :-1], logits


@given(seed=st.integers(0, 999), shape=identities)
def test_information_is_what_the_chain_rule_leaves(seed, shape):
    p, logits = draw_parts(seed, shape)
    parts, prior = shape[1], 0.5 / shape[1]
    anyone, average = p.sum(1), p.sum((0, 2)) / p.sum()
    whether = reference.bernoulli_divergence(np.log(anyone) - np.log1p(-anyone), parts * prior).sum()
    unequal = anyone.sum() * (average * np.log(average * parts)).sum()
    expected = reference.categorical_divergence(logits, prior).sum() - whether - unequal
    assert reference.identity_information(p) == pytest.approx(expected, rel=1e-10, abs=1e-12)


@given(seed=st.integers(0, 999), shape=identities)
def test_information_is_zero_if_every_occurrence_is_like_the_average(seed, shape):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(shape[1]))[None, :, None] * rng.uniform(size=(shape[0], 1, shape[2]))
    assert reference.identity_information(p) == pytest.approx(0, abs=1e-13)  # sums of at most 60 terms of order 1


@given(parts=st.integers(1, 6), occurrences=st.integers(1, 4))
def test_information_of_certain_parts_that_are_used_alike_is_log_n_an_occurrence(parts, occurrences):
    p = np.zeros((1, parts, parts * occurrences))
    p[0, np.arange(parts * occurrences) % parts, np.arange(parts * occurrences)] = 1.0
    assert reference.identity_information(p) == pytest.approx(parts * occurrences * np.log(parts), abs=1e-12)


@given(seed=st.integers(0, 999), shape=identities)
def test_gradient_of_information_equals_differences(seed, shape):
    p, _ = draw_parts(seed, shape)
    direction = p * np.random.default_rng(seed).normal(size=shape)
    above, below = (reference.identity_information(p + s * 1e-5 * direction) for s in (1, -1))
    gradient = reference.identity_information_gradients(2.0, p)
    # Third derivatives of p log p along p are of order p, so the error is about 1e-10; rounding adds 1e-16 / 1e-5.
    assert (gradient * direction).sum() == pytest.approx((above - below) / 1e-5, abs=1e-8)


def test_information_is_finite_where_parts_are_impossible():
    p = np.zeros((2, 3, 4))
    assert reference.identity_information(p) == 0
    p[0, 1, 2] = 1.0
    assert reference.identity_information(p) == 0  # one part alone says nothing
    assert np.isfinite(reference.identity_information_gradients(1.0, p)).all()
