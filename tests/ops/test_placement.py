"""Places and layers on tensors agree with reference/, in values and gradients."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import reference
from accel.ops import Noise, layers, placement
from accel.ops.noise import ground_noise, place_noise
from tests.support import assert_close

# float64 on both sides: a few dozen roundings of numbers of the size of the largest.
CLOSE = {"relative": 1e-12, "absolute": 1e-12}
cases = st.tuples(st.integers(0, 999), st.integers(1, 2), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))


def tensor(array):
    return torch.from_numpy(array).requires_grad_()


@given(case=cases, spread=st.sampled_from([1.0, 30.0, 1e3]), infinite=st.sampled_from([0.0, 0.3, 1.0]))
def test_splitting_and_divergence_are_the_references(case, spread, infinite):
    seed, batch, parts, cells, k = case
    rng = np.random.default_rng(seed)
    logits, p = spread * rng.normal(size=(batch, parts, cells, k * k)), rng.uniform(size=(batch, parts, cells))
    logits = np.where(rng.uniform(size=logits.shape) < infinite, np.copysign(np.inf, logits), logits)
    total, log_q = placement.split_places(a := tensor(logits))
    expected = reference.split_places(logits)
    assert_close("A", total, expected[0], **CLOSE)
    assert_close("log q", log_q, expected[1], **CLOSE)
    divergence = placement.place_divergence(probability := tensor(p), log_q)
    assert_close("KL", divergence, reference.place_divergence(p, expected[1]), **CLOSE)
    incoming, d_total = rng.normal(size=batch), rng.normal(size=p.shape)
    (divergence @ torch.from_numpy(incoming) + (total * torch.from_numpy(d_total)).sum()).backward()
    d_p, d_log_q = reference.place_divergence_gradients(incoming, p, expected[1])
    assert_close("d_p", probability.grad, d_p, **CLOSE)
    assert_close("d_a", a.grad, reference.split_places_gradients(d_total, d_log_q, logits), **CLOSE)


@given(case=cases, temperature=st.sampled_from([0.3, 1.0]), straight_through=st.booleans(), drawn=st.booleans())
def test_samples_are_the_references(case, temperature, straight_through, drawn):
    seed, batch, parts, cells, k = case
    rng = np.random.default_rng(seed)
    log_q = reference.split_places(rng.normal(size=(batch, parts, cells, k * k)))[1]
    noise, address = (Noise(seed, 3), reference.Noise(seed, 3)) if drawn else (None, None)
    s = placement.sample_place(q := tensor(log_q), temperature, noise, straight_through)
    assert_close("s", s, reference.sample_place(log_q, temperature, address, straight_through), **CLOSE)
    incoming = rng.normal(size=log_q.shape)
    (s * torch.from_numpy(incoming)).sum().backward()
    expected = reference.sample_place_gradients(incoming, log_q, temperature, address)
    assert_close("d_log_q", q.grad, expected, **CLOSE)


@given(case=cases, part_dim=st.integers(1, 3), height=st.integers(1, 3), width=st.integers(1, 3))
def test_a_code_is_placed_as_in_the_reference(case, part_dim, height, width):
    seed, batch, parts, _, k = case
    rng = np.random.default_rng(seed)
    code = rng.normal(size=(batch, parts * part_dim, height, width))
    maps = rng.normal(size=(batch, parts, height * k, width * k))
    cells = placement.places_of_cells(torch.from_numpy(maps), k)
    expected_cells = reference.places_of_cells(maps, k)
    assert np.array_equal(cells, expected_cells)
    assert np.array_equal(placement.map_of_places(cells, k, (height, width)), maps)
    placed = placement.place(torch.from_numpy(code), torch.from_numpy(maps))
    expected = reference.place(code.reshape(batch, parts, part_dim, -1), expected_cells)
    expected = expected.reshape(batch, parts * part_dim, height * width, k * k)
    assert np.array_equal(placed, reference.map_of_places(expected, k, (height, width)))


@pytest.mark.parametrize(("points", "size"), [(2, (4, 4)), (3, (8, 5)), (4, (32, 32))])
def test_layers_are_the_references(points, size):
    rng = np.random.default_rng(points)
    lattice, stack = rng.normal(size=(2, 3, points, points)), rng.normal(size=(2, 4, *size))
    g, x = tensor(lattice), tensor(stack)
    pixels = layers.ground_pixels(g, *size)
    expected_pixels = reference.ground_pixels(lattice, *size)
    assert_close("ground", pixels, expected_pixels, **CLOSE)
    images = layers.compose(x, pixels)
    assert_close("images", images, reference.compose(stack, expected_pixels), **CLOSE)
    incoming = rng.normal(size=images.shape)
    (images * torch.from_numpy(incoming)).sum().backward()
    d_stack, d_pixels = reference.compose_gradients(incoming, stack, expected_pixels)
    assert_close("d_layers", x.grad, d_stack, **CLOSE)
    assert_close("d_ground", g.grad, reference.ground_pixels_gradients(d_pixels, points), **CLOSE)


@given(seed=st.integers(0, 99), parts=st.integers(1, 3), cells=st.integers(1, 5), places=st.sampled_from([1, 4, 9]))
def test_draws_are_the_references(seed, parts, cells, places):
    ours, theirs = Noise(seed, 2, 7), reference.Noise(seed, 2, 7)
    drawn = place_noise(ours, 2, parts, cells, places, dtype=torch.float64)
    assert np.array_equal(drawn, reference.place_noise(theirs, 2, parts, cells, places))
    normal = ground_noise(ours, 2, cells, dtype=torch.float64)
    # Cosine, logarithm and square root may differ by a few roundings between the two libraries.
    assert_close("ground", normal, reference.ground_noise(theirs, 2, cells), relative=1e-14)
