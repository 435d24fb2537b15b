"""The two distributions of occurrences: the law of samples, limits, and each gradient against differences."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import reference
from reference.occurrence import (
    Bernoulli,
    Categorical,
    occurrence_log_weights,
    occurrence_log_weights_gradients,
    sample_occurrence,
)
from tests.support import assert_close

BOTH = pytest.mark.parametrize("distribution", [Bernoulli, Categorical])

# Critical values of chi-squared at one in a thousand, by degrees of freedom.
CHI_SQUARED = {1: 10.83, 4: 18.47}


def draw_logits(seed, batch=2, parts=3, cells=5, spread=1.5):
    return spread * np.random.default_rng(seed).normal(size=(batch, parts, cells))


def differences(function, gradient, at, incoming, seed):
    """Checks a vector-Jacobian product against central differences along a random direction."""
    direction = np.random.default_rng(seed).normal(size=at.shape)
    step = 1e-5
    above, below = ((function(at + sign * step * direction) * incoming).sum() for sign in (1, -1))
    # Rounding of both values over the step; truncation, step² times third derivatives, is smaller here.
    bound = 3e-9 * (np.abs(incoming).sum() + 1)
    assert (gradient * direction).sum() == pytest.approx((above - below) / (2 * step), abs=bound)


@BOTH
@given(seed=st.integers(0, 999), parts=st.integers(1, 5), cells=st.integers(1, 6))
def test_every_gradient_equals_central_differences(distribution, seed, parts, cells):
    logits = draw_logits(seed, parts=parts, cells=cells)
    rng = np.random.default_rng(seed)
    incoming = rng.normal(size=logits.shape)
    differences(
        distribution.log_probability,
        distribution.log_probability_gradients(incoming, logits),
        logits,
        incoming,
        seed,
    )
    differences(
        lambda a: occurrence_log_weights(distribution, a),
        occurrence_log_weights_gradients(distribution, incoming, logits),
        logits,
        incoming,
        seed,
    )
    noise, prior = reference.Noise(seed), 0.3 / parts
    for address in (None, noise):
        _, x, slope = sample_occurrence(distribution, logits, 0.8, address, False)
        differences(
            lambda a, address=address: sample_occurrence(distribution, a, 0.8, address, False)[0],
            distribution.relax_gradients(incoming, x) * slope,
            logits,
            incoming,
            seed,
        )
    an_image = rng.normal(size=len(logits))
    differences(
        lambda a: distribution.divergence(a, prior),
        distribution.divergence_gradients(an_image, logits, prior),
        logits,
        an_image,
        seed,
    )


@BOTH
@given(seed=st.integers(0, 999), spread=st.sampled_from([0.0, 1.0, 30.0, 1e4]))
def test_weights_sum_to_one_over_cells(distribution, seed, spread):
    weights = np.exp(occurrence_log_weights(distribution, draw_logits(seed, spread=spread)))
    assert (weights >= 0).all()
    assert_close("sum", weights.sum(-1), np.ones((2, 3)), relative=1e-14)


@given(
    seed=st.integers(0, 999),
    parts=st.integers(1, 6),
    spread=st.sampled_from([0.0, 1.0, 30.0, 1e4]),
    temperature=st.sampled_from([1e-3, 0.1, 1.0, 5.0]),
)
def test_a_categorical_cell_lies_in_the_simplex(seed, parts, spread, temperature):
    logits = draw_logits(seed, parts=parts, spread=spread)
    p = Categorical.relax(Categorical.argument(logits))
    y, _, _ = sample_occurrence(Categorical, logits, temperature, reference.Noise(seed), False)
    decided, _, _ = sample_occurrence(Categorical, logits, temperature, reference.Noise(seed), True)
    for sample in (p, y, decided):
        assert (sample >= 0).all()
        assert (sample.sum(1) <= 1 + 1e-12).all()
    assert set(np.unique(decided)) <= {0.0, 1.0}
    assert_close("p", np.log(np.maximum(p, 1e-300)), np.maximum(Categorical.log_probability(logits), np.log(1e-300)),
                 relative=1e-12, absolute=1e-10)  # fmt: skip


def test_a_categorical_probability_by_hand():
    logits = np.log(np.array([2.0, 5.0]))[None, :, None]
    p = Categorical.relax(Categorical.argument(logits))
    np.testing.assert_allclose(p[0, :, 0], [2 / 8, 5 / 8], rtol=1e-14)
    np.testing.assert_allclose(np.exp(Categorical.log_probability(logits)), p, rtol=1e-14)


def test_the_largest_argument_is_each_categorys_as_often_as_it_should_be():
    logits = np.array([1.0, -0.5, 0.3, -2.0])[None, :, None] * np.ones((8, 4, 2500))
    decided = Categorical.decide(Categorical.argument(logits, reference.Noise(seed=11)))
    counts = decided.sum((0, 2))
    counts = np.append(counts, 8 * 2500 - counts.sum())
    p = np.exp(reference.category_log_probabilities(logits)[0, :, 0])
    expected = 8 * 2500 * p
    assert ((counts - expected) ** 2 / expected).sum() < CHI_SQUARED[4]


def test_a_bernoulli_argument_is_positive_as_often_as_it_should_be():
    logits = np.full((8, 1, 2500), -0.8)
    occurs = Bernoulli.decide(Bernoulli.argument(logits, reference.Noise(seed=11))).sum()
    p = 1 / (1 + np.exp(0.8))
    expected = 20000 * np.array([p, 1 - p])
    assert ((np.array([occurs, 20000 - occurs]) - expected) ** 2 / expected).sum() < CHI_SQUARED[1]


@given(seed=st.integers(0, 999), prior=st.sampled_from([1e-6, 0.1, 0.5, 0.9]))
def test_one_part_is_a_bernoulli_variable(seed, prior):
    logits = draw_logits(seed, parts=1, spread=4.0)
    incoming = np.random.default_rng(seed).normal(size=len(logits))
    pairs = {
        "p": [d.relax(d.argument(logits)) for d in (Bernoulli, Categorical)],
        "log p": [d.log_probability(logits) for d in (Bernoulli, Categorical)],
        "divergence": [d.divergence(logits, prior) for d in (Bernoulli, Categorical)],
        "gradient": [d.divergence_gradients(incoming, logits, prior) for d in (Bernoulli, Categorical)],
        "weights": [occurrence_log_weights(d, logits) for d in (Bernoulli, Categorical)],
    }
    for name, (one, other) in pairs.items():
        assert_close(name, other, one, relative=1e-12, absolute=1e-13)
    assert Bernoulli.default_prior(1) == Categorical.default_prior(1) == 0.5


def test_samples_of_one_part_have_the_law_of_the_binary_concrete():
    """Two-sample Kolmogorov-Smirnov: the largest distance between the two empirical distribution functions."""
    logits = np.full((1, 1, 20000), 0.4)
    one, other = (
        np.sort(sample_occurrence(d, logits, 0.6, reference.Noise(seed), False)[0].ravel())
        for d, seed in ((Bernoulli, 1), (Categorical, 2))
    )
    places = np.concatenate([one, other])
    distance = np.abs(np.searchsorted(one, places, "right") - np.searchsorted(other, places, "right")).max() / 20000
    # Exceeded once in a thousand: 1.95 √(2/n).
    assert distance < 1.95 * np.sqrt(2 / 20000)


@BOTH
@given(seed=st.integers(0, 99))
def test_relaxed_samples_become_decisions_as_the_temperature_falls(distribution, seed):
    logits, noise = draw_logits(seed), reference.Noise(seed)
    decided, _, _ = sample_occurrence(distribution, logits, 1.0, noise, True)
    previous = np.inf
    for temperature in (1.0, 0.1, 1e-2, 1e-3, 1e-6):
        y, _, _ = sample_occurrence(distribution, logits, temperature, noise, False)
        distance = np.abs(y - decided).max()
        assert distance <= previous + 1e-12
        previous = distance
    assert previous < 1e-6  # no argument of these draws is within 10⁻⁵ of a tie


@BOTH
def test_images_and_steps_draw_anew(distribution):
    logits = np.zeros((3, 2, 4))
    one = distribution.argument(logits, reference.Noise(seed=1, step=1))
    other = distribution.argument(logits, reference.Noise(seed=1, step=2))
    assert len(np.unique(np.concatenate([one, other]).round(12))) == one.size + other.size


@BOTH
@pytest.mark.parametrize("far", [[-1e4, 1e4, -1e4], [-1e4, -1e4, -1e4], [1e4, 1e4, 1e4], [0.0, 1e4, -1e4]])
def test_everything_is_finite_far_out(distribution, far):
    logits = np.array(far)[None, :, None] * np.ones((1, 3, 2))
    y, x, slope = sample_occurrence(distribution, logits, 0.05, reference.Noise(), False)
    ones = np.ones_like(logits)
    for name, value in {
        "y": y,
        "d_y": distribution.relax_gradients(ones, x) * slope,
        "divergence": distribution.divergence(logits, 0.2),
        "d_divergence": distribution.divergence_gradients(np.ones(1), logits, 0.2),
        "weights": occurrence_log_weights(distribution, logits),
        "d_weights": occurrence_log_weights_gradients(distribution, ones, logits),
    }.items():
        assert np.isfinite(value).all(), name


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"variance": "mean"}, "variance must be one of geometric, arithmetic, got 'mean'"),
        ({"occurrence": "categorial"}, "occurrence must be one of bernoulli, categorical, got 'categorial'"),
        ({"noise": None}, "sample=True draws from the posteriors and needs noise"),
    ],
)
def test_what_the_specification_does_not_know_is_refused(options, sentence):
    maps = np.zeros((1, 2, 2, 2))
    with pytest.raises(ValueError, match=sentence):
        reference.patch_bottleneck(maps, maps, maps, **{"noise": reference.Noise()} | options)


def test_features_are_pooled_before_projection_under_the_linear_rule_alone():
    features, logits, weight = np.zeros((1, 2, 2, 2)), np.zeros((1, 1, 2, 2)), np.zeros((2, 2, 1, 1))
    with pytest.raises(ValueError, match=r"must be .geometric."):
        reference.pooled_patch_bottleneck(features, logits, weight, np.zeros(2), sample=False, variance="arithmetic")
