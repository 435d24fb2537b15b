"""The temperature decays exponentially, β_occ increases linearly, and the learning rate decreases at the end."""

import itertools
import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from accel.training.schedule import beta_occ, beta_occ_at, learning_rate, temperature
from tests.training.tiny import tiny_config


def test_papers_schedule():
    assert temperature(0) == 1.0
    assert math.isclose(temperature(12_000), math.exp(-0.36))
    assert temperature(76_752) > 0.1 == temperature(76_753)


@given(st.integers(0, 10**9), st.floats(0.01, 5), st.floats(0, 1), st.floats(0.01, 1))
def test_never_rises_and_never_leaves_its_range(step, start, rate, floor):
    now, later = temperature(step, start, rate, floor), temperature(step + 1, start, rate, floor)
    assert floor <= later <= now <= max(start, floor)


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 5), st.floats(0, 1), st.floats(0.01, 1))
def test_of_a_device_tensor_is_that_of_a_number_in_float32(step, start, rate, floor):
    got = temperature(torch.tensor(step), start, rate, floor)
    assert (got.dtype, got.shape) == (torch.float32, ())
    # One rounding to float32, after an exponential that two libraries round differently in float64.
    assert math.isclose(got.item(), temperature(step, start, rate, floor), rel_tol=2.0**-23)


@given(st.integers(0, 2**32 - 1), st.floats(0, 100), st.integers(1, 10**6))
def test_beta_occ_rises_evenly_from_a_fifth_and_stays(step, value, steps):
    got = beta_occ(step, value, steps)
    assert math.isclose(got, value * (0.2 + 0.8 * min(1, step / steps)), rel_tol=1e-12, abs_tol=1e-300)
    of_tensor = beta_occ(torch.tensor(step), value, steps)
    assert (of_tensor.dtype, of_tensor.shape) == (torch.float32, ())
    assert math.isclose(of_tensor.item(), got, rel_tol=2.0**-23, abs_tol=2.0**-149)  # float32 has no smaller numbers


def test_beta_occ_warms_up_only_where_asked():
    assert beta_occ_at(0, tiny_config("unused", beta_occ=3.0)) == 3.0
    rising = tiny_config("unused", beta_occ=3.0, warm_up=10)
    for step, expected in ((0, 0.6), (5, 1.8), (10, 3.0), (99, 3.0)):
        assert math.isclose(beta_occ_at(step, rising), expected)


@given(st.integers(1, 200), st.floats(0.01, 5), st.floats(0, 1))
def test_learning_rate_stays_and_then_falls_evenly_to_more_than_nothing(epochs, value, decay):
    rates = [learning_rate(epoch, epochs, value, decay) for epoch in range(epochs)]
    assert rates[-1] > 0
    falling = [rate for rate in rates if rate < value * (1 - 1e-9)]
    assert len(falling) <= math.ceil(decay * epochs)
    assert rates[: len(rates) - len(falling)] == [value] * (len(rates) - len(falling))
    steps = [one - other for one, other in itertools.pairwise(falling)]
    assert all(math.isclose(step, value / (decay * epochs + 1), rel_tol=1e-6) for step in steps)
