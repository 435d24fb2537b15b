"""The temperature falls exponentially to its floor."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from accel.training.schedule import temperature


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
