"""Parts over a ground: the limits of the composition, interpolation, and each gradient against differences."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from reference import compose, compose_gradients, ground_pixels, ground_pixels_gradients
from tests.reference.test_placement import slope_is

sizes = st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(2, 7), st.integers(2, 7))


@given(seed=st.integers(0, 999), size=sizes, points=st.integers(2, 4))
def test_every_gradient_equals_central_differences(seed, size, points):
    batch, channels, height, width = size
    rng = np.random.default_rng(seed)
    lattice, d_pixels = rng.normal(size=(batch, channels, points, points)), rng.normal(size=size)
    slope_is(lambda g: ground_pixels(g, height, width), ground_pixels_gradients(d_pixels, points), lattice, d_pixels)
    layers, ground = rng.normal(size=(batch, channels + 1, height, width)), rng.normal(size=size)
    d_layers, d_ground = compose_gradients(d_pixels, layers, ground)
    slope_is(lambda x: compose(x, ground), d_layers, layers, d_pixels)
    slope_is(lambda g: compose(layers, g), d_ground, ground, d_pixels)


@given(seed=st.integers(0, 999), size=sizes)
def test_opacity_chooses_between_the_layers(seed, size):
    rng = np.random.default_rng(seed)
    colours, ground = rng.normal(size=size), rng.normal(size=size)
    for logit, expected in ((40.0, colours), (-40.0, ground)):
        layers = np.concatenate([colours, np.full((size[0], 1, *size[2:]), logit)], axis=1)
        np.testing.assert_allclose(compose(layers, ground), np.tanh(expected), atol=1e-15)


def test_the_ground_is_bilinear_between_its_corners():
    lattice = np.array([[[[1.0, 3.0], [5.0, 11.0]]]])
    pixels = ground_pixels(lattice, 3, 5)[0, 0]
    assert np.array_equal(pixels[[0, 0, -1, -1], [0, -1, 0, -1]], [1, 3, 5, 11])
    np.testing.assert_allclose(pixels[1, 2], 5.0)
    np.testing.assert_allclose(pixels[0], [1, 1.5, 2, 2.5, 3])
