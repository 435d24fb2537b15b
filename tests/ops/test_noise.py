"""The PyTorch draws are the specification's: uniforms bit for bit, normals to rounding."""

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

import reference
from accel.ops import Noise, appearance_noise, dropout_noise, occurrence_noise

addresses = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**64 - 1),
        "step": st.integers(0, 2**32 - 1),
        "first_image": st.integers(0, 2**31),
    }
)
shapes = st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 20))


@given(addresses, shapes)
@example({"seed": 1, "step": 2, "first_image": 2**32 - 1}, (2, 1, 1))  # the image's counter word wraps around
def test_uniforms_are_the_references_bit_for_bit(address, shape):
    expected = reference.occurrence_noise(reference.Noise(**address), *shape)
    for dtype in (torch.float32, torch.float64):
        got = occurrence_noise(Noise(**address), *shape, dtype=dtype)
        np.testing.assert_array_equal(got.numpy(), expected)


@given(addresses, shapes)
def test_normals_are_the_references_to_rounding(address, shape):
    expected = reference.appearance_noise(reference.Noise(**address), *shape)
    got = appearance_noise(Noise(**address), *shape, dtype=torch.float64)
    np.testing.assert_allclose(got.numpy(), expected, rtol=0, atol=1e-14)
    # In float32 the angle, up to 2π, is off by 2π·2⁻²⁴ and the radius, up to 5.8, multiplies that.
    got = appearance_noise(Noise(**address), *shape, dtype=torch.float32)
    np.testing.assert_allclose(got.numpy(), expected, rtol=0, atol=4 * 2 * np.pi * 2**-24 * 5.8)


@given(addresses, st.integers(1, 3), st.integers(1, 300))
def test_coins_are_the_references(address, images, elements):
    expected = reference.dropout_noise(reference.Noise(**address), images, elements)
    np.testing.assert_array_equal(dropout_noise(Noise(**address), images, elements).numpy(), expected)


@given(addresses)
def test_device_tensors_draw_what_integers_draw(address):
    tensors = {name: torch.tensor(value - 2**64 if value >= 2**63 else value) for name, value in address.items()}
    for draw in (occurrence_noise, appearance_noise):
        assert torch.equal(draw(Noise(**address), 2, 3, 4), draw(Noise(**tensors), 2, 3, 4))


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"seed": -1}, r"seed must be an integer in \[0, 2\^64\), got -1"),
        ({"step": 2**32}, r"step must be an integer in \[0, 2\^32\), got 4294967296"),
        ({"step": 1.5}, r"step must be an integer in \[0, 2\^32\), got 1.5"),
        ({"first_image": torch.zeros(2, dtype=torch.int64)}, r"first_image must be an int or a 0-d int64 tensor"),
        ({"seed": torch.tensor(0.5)}, r"seed must be an int or a 0-d int64 tensor, got torch.float32"),
    ],
)
def test_other_addresses_are_refused(argument, message):
    with pytest.raises(ValueError, match=message):
        Noise(**argument)
