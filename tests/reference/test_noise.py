"""Random numbers: the published generator, the 23-bit grid, addresses, and distributions."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference import Noise, appearance_noise, dropout_noise, occurrence_noise
from reference.bottleneck import sample_appearance
from reference.divergence import log_sigmoid, sigmoid
from reference.noise import philox, uniform
from reference.occurrence import Bernoulli

# Random123's kat_vectors for philox4x32-10: counter, key, output.
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_philox_known_answers(counter, key, expected):
    assert tuple(int(word) for word in philox(counter, key)) == expected


def normals_of(words):
    """The four normals of a block, written out."""
    u0, u1, u2, u3 = (float(uniform(word)) for word in words)
    first, second = math.sqrt(-2 * math.log(u0)), math.sqrt(-2 * math.log(u2))
    return [
        first * math.cos(2 * math.pi * u1),
        first * math.sin(2 * math.pi * u1),
        second * math.cos(2 * math.pi * u3),
        second * math.sin(2 * math.pi * u3),
    ]


def test_addresses_fill_the_counter_as_the_contract_says():
    seed, step, first_image = 0x0123456789ABCDEF, 77, 5
    key = (0x89ABCDEF, 0x01234567)
    # Seven cells take two blocks a part, so cell 6 of part 2 of the second image is word 2 of block 5.
    uniforms = occurrence_noise(Noise(seed, step, first_image), 2, 3, 7)
    assert uniforms[1, 2, 6] == uniform(philox((5, 6, 0, step), key)[2])
    assert uniforms[1, 2, 3] == uniform(philox((4, 6, 0, step), key)[3])
    # Five numbers take two blocks a part as well.
    normals = appearance_noise(Noise(seed, step, first_image), 2, 3, 5)
    np.testing.assert_allclose(normals[1, 2, :4], normals_of(philox((4, 6, 1, step), key)), rtol=1e-14)
    np.testing.assert_allclose(normals[1, 2, 4], normals_of(philox((5, 6, 1, step), key))[0], rtol=1e-14)


def test_an_address_begins_at_zero():
    assert Noise() == Noise(seed=0, step=0, first_image=0)


@given(parts=st.integers(1, 5), numbers=st.integers(1, 13), data=st.data())
def test_four_neighbours_of_a_part_share_a_block(parts, numbers, data):
    n, k, b = (data.draw(st.integers(0, size - 1)) for size in (parts, numbers, 3))
    block, i = n * math.ceil(numbers / 4) + k // 4, k % 4
    uniforms = occurrence_noise(Noise(8, 9, 10), 3, parts, numbers)
    assert uniforms[b, n, k] == uniform(philox((block, 10 + b, 0, 9), (8, 0))[i])
    normals = appearance_noise(Noise(8, 9, 10), 3, parts, numbers)
    assert normals[b, n, k] == pytest.approx(normals_of(philox((block, 10 + b, 1, 9), (8, 0)))[i], rel=1e-13)


def test_the_images_index_wraps_around():
    for draw in (occurrence_noise, appearance_noise):
        last = draw(Noise(1, 2, 2**32 - 1), 2, 3, 5)
        np.testing.assert_array_equal(last[1], draw(Noise(1, 2, 0), 1, 3, 5)[0])


def grid_numbers(u):
    """The k of uniforms (k + ½) · 2⁻²³, which may contain a rounding error."""
    k = u.ravel() * 2**23 - 0.5
    np.testing.assert_allclose(k, np.round(k), rtol=0, atol=1e-5)
    return np.round(k).astype(int)


def words_behind(normals):
    """The grid numbers k of the uniforms from which the Box-Muller transform made the normals (…, 4)."""
    x, y = normals[..., 0::2], normals[..., 1::2]
    u = np.stack([np.exp(-0.5 * (x * x + y * y)), np.arctan2(y, x) / (2 * np.pi) % 1], axis=-1)
    return grid_numbers(u)


def test_no_two_draws_share_a_word():
    # 250 of 2²³ numbers have an equal pair by chance once in 270 seeds; the seed is fixed.
    noise = Noise(seed=6, step=1, first_image=2)
    occurrence = grid_numbers(occurrence_noise(noise, 3, 5, 7))
    appearance = words_behind(appearance_noise(noise, 2, 4, 12).reshape(-1, 4))
    coins = dropout_noise(noise, 3, 384).reshape(-1, 32) @ (1 << np.arange(32)) >> 9
    draws = np.concatenate([occurrence, appearance, coins])
    assert len(np.unique(draws)) == len(draws) == 3 * 5 * 7 + 2 * 4 * 12 + 3 * 384 // 32


def test_uniforms_lie_on_their_grid():
    words = np.concatenate([[0, 511, 512, 2**32 - 1], np.random.default_rng(0).integers(0, 2**32, 10_000)])
    u = uniform(words.astype(np.uint32))
    k = u * 2**23 - 0.5
    assert (k == np.floor(k)).all()
    assert u.min() == 2.0**-24
    assert u.max() == 1 - 2.0**-24
    assert (u.astype(np.float32) == u).all()
    assert ((1 - u).astype(np.float32) == 1 - u).all()
    # Symmetric about ½: the words' complements are the uniforms' complements.
    np.testing.assert_array_equal(uniform(~words.astype(np.uint32)), 1 - u)


@given(split=st.integers(1, 6), parts=st.integers(1, 5), part_dim=st.integers(1, 9), seed=st.integers(0, 2**64 - 1))
def test_a_split_batch_draws_what_the_whole_one_draws(split, parts, part_dim, seed):
    for draw in (occurrence_noise, appearance_noise):
        whole = draw(Noise(seed, 3, 10), 7, parts, part_dim)
        halves = [
            draw(Noise(seed, 3, 10), split, parts, part_dim),
            draw(Noise(seed, 3, 10 + split), 7 - split, parts, part_dim),
        ]
        np.testing.assert_array_equal(whole, np.concatenate(halves))


@pytest.mark.parametrize(
    ("other", "what"), [(Noise(1, 0, 0), "seed"), (Noise(2**32, 0, 0), "seed's high word"), (Noise(0, 1, 0), "step")]
)
def test_each_part_of_the_address_matters(other, what):
    for draw in (occurrence_noise, appearance_noise):
        assert not np.isin(draw(Noise(0, 0, 0), 4, 5, 6), draw(other, 4, 5, 6)).any(), what


def kolmogorov_smirnov(draws, distribution):
    """The largest distance between the empirical and the given distribution function."""
    sorted_draws = np.sort(draws.ravel())
    expected = distribution(sorted_draws)
    steps = np.arange(len(sorted_draws) + 1) / len(sorted_draws)
    return max((steps[1:] - expected).max(), (expected - steps[:-1]).max())


# With n draws the distance exceeds 1.95/√n by chance once in a thousand seeds; the seed is fixed.
DRAWS = 200_000
CRITICAL = 1.95 / np.sqrt(DRAWS)


def test_uniforms_are_uniform_and_logistic_after_the_logit():
    u = occurrence_noise(Noise(seed=3), 20, 100, 100)
    assert kolmogorov_smirnov(u, lambda x: x) < CRITICAL
    assert kolmogorov_smirnov(np.log(u) - np.log1p(-u), sigmoid) < CRITICAL


def normal_distribution(x):
    return 0.5 * (1 + np.vectorize(math.erf)(x / np.sqrt(2)))


def test_appearance_noise_is_normal():
    epsilon = appearance_noise(Noise(seed=4), 20, 100, 100)
    assert kolmogorov_smirnov(epsilon, normal_distribution) < CRITICAL
    # The mean of εᵏ has deviation √(E ε²ᵏ − (E εᵏ)²) / √n; four of them bound it.
    for power, moment, deviation in ((1, 0, 1), (2, 1, 2**0.5), (3, 0, 15**0.5), (4, 3, 96**0.5)):
        assert abs((epsilon**power).mean() - moment) < 4 * deviation / np.sqrt(DRAWS)
    # So is each of the four places in a block by itself.
    for i in range(4):
        assert kolmogorov_smirnov(epsilon[..., i::4], normal_distribution) < 2 * CRITICAL


@pytest.mark.parametrize("draw", [occurrence_noise, appearance_noise])
def test_the_four_neighbours_of_a_block_are_independent(draw):
    four = draw(Noise(seed=5), 20, 100, 100).reshape(-1, 4)
    # A correlation of n independent pairs has deviation 1/√n; four of them bound it. Squares, signs and
    # sizes also see what correlations miss, such as partners of one radius or one angle.
    for seen in (lambda x: x, np.square, np.sign, np.abs):
        values = seen(four - (0.5 if draw is occurrence_noise else 0.0))
        correlations = np.corrcoef(values, rowvar=False) - np.eye(4)
        assert np.abs(correlations).max() < 4 / np.sqrt(len(four))
    products = four[:, 0] * four[:, 1] - (four[:, 0] * four[:, 1]).mean()
    for i in (2, 3):
        assert abs(np.corrcoef(products, four[:, i])[0, 1]) < 4 / np.sqrt(len(four))


def test_draws_of_other_images_parts_and_blocks_are_uncorrelated():
    epsilon = appearance_noise(Noise(seed=4), 20, 100, 100)
    for axis in (0, 1, 2):
        a, b = np.moveaxis(epsilon, axis, 0)[:-1], np.moveaxis(epsilon, axis, 0)[1:]
        assert abs((a * b).mean()) < 4 / np.sqrt(a.size)


@pytest.mark.parametrize("logit", [-3.0, 0.0, 1.5])
@pytest.mark.parametrize("temperature", [0.3, 0.66, 2.0])
def test_relaxed_samples_follow_the_binary_concrete_distribution(logit, temperature):
    argument = Bernoulli.argument(np.full((20, 100, 100), logit), Noise(seed=5))
    relaxed, hard = Bernoulli.relax(argument / temperature), Bernoulli.decide(argument)
    # P(y ≤ t) = P(logistic ≤ τ logit t − a). A y that rounds to 1 has lost its t, so temperatures
    # stay where few do.
    assert (relaxed < 1).mean() > 0.999
    inside = relaxed[relaxed < 1]
    distance = kolmogorov_smirnov(inside, lambda t: sigmoid(temperature * (np.log(t) - np.log1p(-t)) - logit))
    assert distance < CRITICAL + (relaxed == 1).mean()
    assert ((relaxed > 0.5) == (hard == 1)).all()


@pytest.mark.parametrize("logit", [-4.0, -1.0, 0.0, 2.0])
def test_straight_through_samples_have_mean_p(logit):
    hard = Bernoulli.decide(Bernoulli.argument(np.full((20, 100, 100), logit), Noise(seed=6)))
    p = sigmoid(logit)
    assert set(np.unique(hard)) <= {0.0, 1.0}
    assert abs(hard.mean() - p) < 4 * np.sqrt(p * (1 - p) / DRAWS)


def test_sampled_appearance_has_the_posteriors_moments():
    epsilon = appearance_noise(Noise(seed=7), 20, 100, 100)
    z = sample_appearance(np.full_like(epsilon, 1.5), np.full_like(epsilon, np.log(0.3)), epsilon)
    assert abs(z.mean() - 1.5) < 4 * np.sqrt(0.3 / DRAWS)
    assert abs(z.var() - 0.3) < 4 * 0.3 * np.sqrt(2 / DRAWS)


def test_log_sigmoid_is_exact_far_out():
    x = np.array([-1e4, -800.0, 800.0, 1e4])
    np.testing.assert_array_equal(log_sigmoid(x), [-1e4, -800.0, -0.0, -0.0])


def test_coins_are_fair_and_independent_of_each_other():
    coins = dropout_noise(Noise(3, 1), 2000, 150)
    words = philox((1, 1999, 2, 1), (3, 0))
    assert coins[1999, 128 + 21] == bool(words[0] >> np.uint32(21) & 1)
    signs = 2.0 * coins - 1
    # Means and correlations of n fair signs have deviation n^-½; five of them, over every coin and pair of coins.
    assert np.abs(signs.mean(0)).max() < 5 * 2000**-0.5
    correlations = signs.T @ signs / 2000 - np.eye(150)
    assert np.abs(correlations).max() < 5 * 2000**-0.5
    assert abs(signs.mean()) < 5 * signs.size**-0.5
