"""The temperature falls exponentially to its floor, and both β rise evenly to their values."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from accel.training.schedule import betas_at, temperature, warm_up
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


@given(st.integers(0, 2**32 - 1), st.integers(1, 10**6), st.floats(0, 1))
def test_warm_up_rises_evenly_from_its_start_and_stays(step, steps, start):
    share = warm_up(step, steps, start)
    assert math.isclose(share, start + (1 - start) * min(1, step / steps), rel_tol=1e-12)
    got = warm_up(torch.tensor(step), steps, start)
    assert (got.dtype, got.shape) == (torch.float32, ())
    assert math.isclose(got.item(), share, rel_tol=2.0**-23)


def test_betas_warm_up_only_where_asked():
    constant = tiny_config("unused", beta_app=0.5, beta_occ=3.0)
    assert betas_at(0, constant) == (0.5, 3.0)
    rising = tiny_config("unused", beta_app=0.5, beta_occ=3.0, warm_up=10)
    assert [betas_at(step, rising)[0] for step in (0, 5, 10, 11)] == [0.0, 0.25, 0.5, 0.5]
    for step, expected in ((0, 0.6), (5, 1.8), (10, 3.0), (99, 3.0)):
        assert math.isclose(betas_at(step, rising)[1], expected)
