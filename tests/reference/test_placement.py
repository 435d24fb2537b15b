"""Places within cells: the chain rule, the law of samples, and each gradient against differences."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference import (
    Noise,
    map_of_places,
    place,
    place_divergence,
    place_divergence_gradients,
    place_gradients,
    place_noise,
    places_of_cells,
    sample_place,
    sample_place_gradients,
    split_places,
    split_places_gradients,
)
from reference.occurrence import Categorical


def slope_is(function, gradient, at, incoming):
    """Checks a vector-Jacobian product against central differences along a random direction."""
    direction, step = np.random.default_rng(0).normal(size=at.shape), 1e-5
    above, below = ((function(at + sign * step * direction) * incoming).sum() for sign in (1, -1))
    # Rounding of both values over the step; truncation, step² times third derivatives, is smaller here.
    bound = 3e-9 * (np.abs(incoming).sum() + 1)
    assert (gradient * direction).sum() == pytest.approx((above - below) / (2 * step), abs=bound)


shapes = st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 4), st.sampled_from([1, 4, 9]))


@given(seed=st.integers(0, 999), shape=shapes)
def test_part_and_place_are_one_categorical_distribution(seed, shape):
    """KL_occ(A) + KL_place is the divergence of the N·K options of a cell from the prior π/K of each."""
    batch, parts, cells, places = shape
    logits = 2 * np.random.default_rng(seed).normal(size=shape)
    total, log_q = split_places(logits)
    prior = 0.5 / parts
    p = np.exp(Categorical.log_probability(total))
    joint = logits.transpose(0, 1, 3, 2).reshape(batch, parts * places, cells)
    expected = Categorical.divergence(joint, prior / places)
    got = Categorical.divergence(total, prior) + place_divergence(p, log_q)
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)  # sums of some hundred terms of order 1
    q = np.exp(Categorical.log_probability(joint)).reshape(batch, parts, places, cells).transpose(0, 1, 3, 2)
    np.testing.assert_allclose(p[..., None] * np.exp(log_q), q, rtol=1e-12)


@given(seed=st.integers(0, 999), shape=shapes, largest=st.sampled_from([np.inf, -np.inf]), count=st.integers(1, 9))
def test_infinite_logits_of_places_are_taken_as_equal(seed, shape, largest, count):
    rng = np.random.default_rng(seed)
    logits, count = rng.normal(size=shape), min(count, shape[3])
    logits[..., :count] = largest
    total, log_q = split_places(logits)
    certain = largest > 0 or count == shape[3]
    rounded = {"rtol": 1e-13, "atol": 1e-13}  # sums of up to nine terms of order 1, in another order
    np.testing.assert_allclose(np.exp(log_q[..., :count]), 1 / count if certain else 0.0, **rounded)
    if certain:
        p = np.exp(Categorical.log_probability(total))
        np.testing.assert_allclose(p, 1 / shape[1] if largest > 0 else 0.0, **rounded)
        expected = p.sum((1, 2)) * np.log(shape[3] / count)
    else:
        finite_total, finite_q = split_places(logits[..., count:])
        np.testing.assert_allclose(total, finite_total, **rounded)
        np.testing.assert_allclose(log_q[..., count:], finite_q, **rounded)
        p = np.exp(Categorical.log_probability(total))
        expected = place_divergence(p, finite_q) + p.sum((1, 2)) * np.log(shape[3] / (shape[3] - count))
    np.testing.assert_allclose(place_divergence(p, log_q), expected, rtol=1e-12, atol=1e-12)
    gradient = split_places_gradients(rng.normal(size=shape[:3]), rng.normal(size=shape), logits)
    assert (gradient[..., :count] == 0).all()


@given(seed=st.integers(0, 999), shape=shapes)
def test_every_gradient_equals_central_differences(seed, shape):
    rng = np.random.default_rng(seed)
    logits, d_log_q, d_total = 1.5 * rng.normal(size=shape), rng.normal(size=shape), rng.normal(size=shape[:3])
    gradient = split_places_gradients(d_total, np.zeros(shape), logits)
    slope_is(lambda a: split_places(a)[0], gradient, logits, d_total)
    gradient = split_places_gradients(np.zeros(shape[:3]), d_log_q, logits)
    slope_is(lambda a: split_places(a)[1], gradient, logits, d_log_q)
    log_q = split_places(logits)[1]
    for noise in (None, Noise(seed)):
        gradient = sample_place_gradients(d_log_q, log_q, 0.8, noise)
        slope_is(lambda q, noise=noise: sample_place(q, 0.8, noise), gradient, log_q, d_log_q)
    p, an_image = rng.uniform(size=shape[:3]), rng.normal(size=shape[0])
    d_p, gradient = place_divergence_gradients(an_image, p, log_q)
    slope_is(lambda p: place_divergence(p, log_q), d_p, p, an_image)
    slope_is(lambda q: place_divergence(p, q), gradient, log_q, an_image)
    code, incoming = rng.normal(size=(*shape[:2], 2, shape[2])), rng.normal(size=(*shape[:2], 2, *shape[2:]))
    s = np.exp(log_q)
    d_code, d_s = place_gradients(incoming, code, s)
    slope_is(lambda z: place(z, s), d_code, code, incoming)
    slope_is(lambda s: place(code, s), d_s, s, incoming)


@given(k=st.integers(1, 4), grid=st.tuples(st.integers(1, 3), st.integers(1, 3)))
def test_cells_are_blocks_of_the_map(k, grid):
    maps = np.arange(2 * grid[0] * grid[1] * k * k).reshape(1, 2, grid[0] * k, grid[1] * k)
    cells = places_of_cells(maps, k)
    assert np.array_equal(map_of_places(cells, k, grid), maps)
    for cell, (row, column) in enumerate(np.ndindex(*grid)):
        block = maps[0, 1, row * k : (row + 1) * k, column * k : (column + 1) * k]
        assert np.array_equal(cells[0, 1, cell], block.ravel())


def test_samples_follow_the_probabilities():
    log_q = split_places(np.random.default_rng(1).normal(size=(1, 1, 1, 4)))[1]
    many = np.repeat(log_q, 20_000, axis=0)
    chosen = sample_place(many, noise=Noise(3), straight_through=True)
    assert set(np.unique(chosen)) == {0.0, 1.0}
    expected = np.exp(log_q)[0, 0, 0] * 20_000
    statistic = ((chosen.sum((0, 1, 2)) - expected) ** 2 / expected).sum()
    assert statistic < 16.27  # chi-squared of three degrees of freedom at one in a thousand
    relaxed = sample_place(many, 1e-3, Noise(3))
    assert np.mean(relaxed.argmax(-1) == chosen.argmax(-1)) == 1


def test_places_have_draws_of_their_own():
    drawn = place_noise(Noise(5), 2, 3, 4, 9)
    assert drawn.shape == (2, 3, 4, 9)
    assert len(np.unique(drawn)) == drawn.size
    assert np.array_equal(place_noise(Noise(5, 0, 1), 1, 3, 4, 9), drawn[1:])
