"""The random numbers in PyTorch agree with the specification: uniforms exactly, normals up to rounding."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

import reference
from accel.ops import Noise, appearance_noise, dropout_noise, noise, occurrence_noise
from tests.support import needs_gpu

# In float32 the angle, up to 2π, is off by 2π·2⁻²⁴ and the radius, up to 5.8, multiplies that.
NORMAL_ROUNDING = 4 * 2 * np.pi * 2**-24 * 5.8

addresses = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**64 - 1),
        "step": st.integers(0, 2**32 - 1),
        "first_image": st.integers(0, 2**31),
    }
)
# The last number fills blocks of four, or leaves one, two or three words of a part's last block over.
shapes = st.tuples(st.integers(1, 4), st.integers(1, 9), st.sampled_from([1, 2, 3, 5]) | st.integers(4, 20))
words = st.integers(0, 2**32 - 1)


@given(st.tuples(words, words, words, words), st.tuples(words, words), st.integers(-(2**31), 2**31 - 1))
def test_words_are_the_references_whatever_stands_above_them(counter, key, above):
    expected = [int(word) for word in reference.noise.philox(counter, key)]
    above = above * 2**32
    got = noise.philox([torch.tensor(above + word) for word in counter], [torch.tensor(above + word) for word in key])
    assert [int(word) & 0xFFFFFFFF for word in got] == expected


@given(addresses, shapes)
@example({"seed": 1, "step": 2, "first_image": 2**32 - 1}, (2, 1, 1))  # the image's counter word wraps around
def test_uniforms_are_the_references_bit_for_bit(address, shape):
    expected = reference.occurrence_noise(reference.Noise(**address), *shape)
    for dtype in (torch.float32, torch.float64):
        got = occurrence_noise(Noise(**address), *shape, dtype=dtype)
        assert got.dtype == dtype
        assert got.is_contiguous()
        np.testing.assert_array_equal(got.numpy(), expected)


@given(addresses, shapes)
def test_normals_are_the_references_to_rounding(address, shape):
    expected = reference.appearance_noise(reference.Noise(**address), *shape)
    got = appearance_noise(Noise(**address), *shape, dtype=torch.float64)
    np.testing.assert_allclose(got.numpy(), expected, rtol=0, atol=1e-14)
    got = appearance_noise(Noise(**address), *shape, dtype=torch.float32)
    np.testing.assert_allclose(got.numpy(), expected, rtol=0, atol=NORMAL_ROUNDING)


@pytest.mark.parametrize("at_once", [1, 8, 20, 1000])
def test_a_cpu_that_draws_some_images_at_once_draws_the_same(monkeypatch, at_once):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(noise, "_BLOCKS_A_THREAD", at_once)
    # An image has eight blocks: one image at once, even where it is too large, two and then the fifth, or all.
    expected = reference.occurrence_noise(reference.Noise(1, 2, 3), 5, 2, 13)
    np.testing.assert_array_equal(occurrence_noise(Noise(1, 2, 3), 5, 2, 13).numpy(), expected)


@given(addresses, st.integers(1, 3), st.integers(1, 300))
def test_coins_are_the_references(address, images, elements):
    expected = reference.dropout_noise(reference.Noise(**address), images, elements)
    np.testing.assert_array_equal(dropout_noise(Noise(**address), images, elements).numpy(), expected)


def test_an_address_begins_where_the_references_does():
    assert dataclasses.asdict(Noise()) == dataclasses.asdict(reference.Noise())


@given(addresses)
def test_device_tensors_draw_what_integers_draw(address):
    tensors = {name: torch.tensor(value - 2**64 if value >= 2**63 else value) for name, value in address.items()}
    for draw in (occurrence_noise, appearance_noise):
        assert torch.equal(draw(Noise(**address), 2, 3, 4), draw(Noise(**tensors), 2, 3, 4))


def test_numpys_integers_draw_what_pythons_draw():
    got = occurrence_noise(Noise(np.int64(1), np.int32(2), np.uint8(3)), 2, 3, 4)
    assert torch.equal(got, occurrence_noise(Noise(1, 2, 3), 2, 3, 4))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, needs_gpu])])
def test_compiled_draws_are_the_same(device):
    def draw(seed, step, first_image):
        address, shape = Noise(seed, step, first_image), (2, 3, 5)
        draws = [function(address, *shape, device=device) for function in (occurrence_noise, appearance_noise)]
        return *draws, dropout_noise(address, 2, 150, device=device)

    compiled = torch.compile(draw, fullgraph=True, backend="inductor" if device == "cuda" else "aot_eager")
    for address in ((-5, 2**32 - 1, 2**32 - 1), (2**40 + 1, 3, 4)):
        tensors = [torch.tensor(number, device=device) for number in address]
        (uniforms, normals, coins), expected = compiled(*tensors), draw(*tensors)
        assert torch.equal(uniforms, expected[0])
        torch.testing.assert_close(normals, expected[1], rtol=0, atol=NORMAL_ROUNDING)
        assert torch.equal(coins, expected[2])


@pytest.mark.gpu
@needs_gpu
def test_a_captured_graph_draws_anew_at_every_replay():
    numbers = [torch.tensor(number, device="cuda") for number in (1, 2, 3)]

    def draw():
        address = Noise(*numbers)
        return [function(address, 2, 3, 5, device="cuda") for function in (occurrence_noise, appearance_noise)]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        draw()  # what a first call sets up may not be captured
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = draw()
    for step in (2, 2**31):
        numbers[1].fill_(step)
        graph.replay()
        address = reference.Noise(1, step, 3)
        np.testing.assert_array_equal(captured[0].cpu().numpy(), reference.occurrence_noise(address, 2, 3, 5))
        expected = reference.appearance_noise(address, 2, 3, 5)
        np.testing.assert_allclose(captured[1].cpu().numpy(), expected, rtol=0, atol=NORMAL_ROUNDING)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"seed": -1}, r"seed must be an integer in \[0, 2\^64\), got -1"),
        ({"step": 2**32}, r"step must be an integer in \[0, 2\^32\), got 4294967296"),
        ({"step": 1.5}, r"step must be an integer in \[0, 2\^32\), got 1.5"),
        ({"seed": "a"}, r"seed must be an integer in \[0, 2\^64\), got 'a'"),
        ({"first_image": torch.zeros(2, dtype=torch.int64)}, r"first_image must be an int or a 0-d int64 tensor"),
        ({"seed": torch.tensor(0.5)}, r"seed must be an int or a 0-d int64 tensor, got torch.float32"),
    ],
)
def test_other_addresses_are_refused(argument, message):
    with pytest.raises(ValueError, match=message):
        Noise(**argument)


def test_seeds_of_numpy_beyond_63_bits_are_those_of_python():
    one, other = (appearance_noise(Noise(seed), 1, 1, 4) for seed in (2**63 + 5, np.uint64(2**63 + 5)))
    assert torch.equal(one, other)
