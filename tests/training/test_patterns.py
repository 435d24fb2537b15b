"""Patterns: evidence against the reference, templates that are found, and clusters that are merged."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import reference
from accel.training import patterns


def case(seed, pieces=6, templates=4, size=12):
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(size, size, generator=generator, dtype=torch.float64)
    covariance = root @ root.T + 0.1 * torch.eye(size, dtype=torch.float64)
    return *(torch.randn(n, size, generator=generator, dtype=torch.float64) for n in (pieces, templates, 1)), covariance


@given(seed=st.integers(0, 999))
def test_evidence_is_the_references(seed):
    pieces, templates, mean, covariance = case(seed)
    got = patterns.evidence(pieces - mean, patterns.filters_of(templates, torch.linalg.inv(covariance)))
    wanted = reference.evidence(pieces.numpy(), templates.numpy(), mean[0].numpy(), covariance.numpy())
    # float64 rounding, times the condition of the covariance, below 1e5 here
    np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-9)


@given(seed=st.integers(0, 999))
def test_exchangeability_is_the_references_at_the_best_turn(seed):
    pieces, templates, _, covariance = case(seed, pieces=40)
    precision = torch.linalg.inv(covariance).float()
    views, templates = pieces.float()[:, None], templates.float()
    got, sizes = patterns.exchangeability(views, templates, precision, reach=1)
    turns = [
        patterns.turned(templates, 1, angle, zoom).double().numpy()
        for angle in patterns.ANGLES
        for zoom in patterns.ZOOMS
    ]
    each = [reference.evidence(pieces.numpy(), t, np.zeros(12), covariance.numpy()) for t in turns]
    cluster = reference.evidence(pieces.numpy(), templates.double().numpy(), np.zeros(12), covariance.numpy()).argmax(1)
    assert sizes.tolist() == np.bincount(cluster, minlength=4).tolist()
    if min(sizes) > 0:
        wanted = reference.exchangeability(np.max(each, 0), cluster)
        # float32 products of 12 numbers, whose sums cancel to a hundredth of the terms in these cases
        np.testing.assert_allclose(got, wanted, rtol=1e-2, atol=1e-3)


@given(seed=st.integers(0, 99), reach=st.integers(1, 4))
def test_templates_are_unchanged_without_a_turn_and_opposite_turns_cancel(seed, reach):
    generator = torch.Generator().manual_seed(seed)
    side = torch.linspace(-1, 1, 2 * reach)
    bump = (-4 * (side[:, None] ** 2 + side**2)).exp() * torch.randn(2, 3, 1, 1, generator=generator)
    templates = bump.flatten(1)
    torch.testing.assert_close(patterns.turned(templates, reach, 0, 1.0), templates, rtol=1e-5, atol=1e-5)
    # A bump about the middle has the same value at every angle, except in the corners, which turn out of the square.
    middle = patterns.turned(templates, reach, 90, 1.0)
    torch.testing.assert_close(middle, templates, rtol=1e-4, atol=1e-4)


def looks(count, kinds, seed=0, size=24):
    """Images with one of some looks at a random place near the middle, in noise: (count, 3, size, size), and which."""
    rng = np.random.default_rng(seed)
    shapes = np.zeros((3, 8, 8))
    shapes[0, 3:5, :] = shapes[0, :, 3:5] = 1  # a cross
    shapes[1, :, :] = 1
    shapes[1, 2:6, 2:6] = -1  # a frame
    shapes[2] = np.tri(8) * 2 - 1  # a triangle
    kind = rng.integers(0, kinds, count)
    images = rng.normal(0, 0.1, (count, 3, size, size))
    for number in range(count):
        row, column = size // 2 - 4 + rng.integers(-1, 2, 2)
        images[number, :, row : row + 8, column : column + 8] += rng.uniform(0.3, 2) * shapes[kind[number]]
    return torch.from_numpy(images).float(), torch.from_numpy(kind)


def middle_of(images, scale):
    place = torch.full((len(images),), images.shape[2] // 2 // scale)
    return torch.arange(len(images)), place, place


# Shifted by up to four pixels, as for a place of eight, a frame and a triangle are exchangeable.
@pytest.mark.parametrize(("kinds", "scale"), [(1, 2), (2, 2), (3, 2), (1, 8), (2, 8)])
def test_each_look_is_one_cluster_at_any_contrast_and_shift(kinds, scale):
    images, kind = looks(200, kinds)
    pieces, at = patterns.Pieces(images, scale, 6), middle_of(images, scale)
    found = patterns.find_patterns(pieces, at, 6, torch.Generator().manual_seed(0))
    cluster = found.of(pieces, at)
    table = torch.zeros(int(found.cluster.max()) + 1, kinds)
    table.index_put_((cluster, kind), torch.ones(len(kind)), accumulate=True)
    assert len(table) <= 6
    assert table.amax(1).sum() > 0.97 * len(kind)  # clusters are pure
    if scale == 2:
        assert table.amax(0).sum() > 0.8 * len(kind)  # and a look is hardly ever more than one


def test_clusters_of_equal_images_are_finite_and_one():
    pieces = patterns.Pieces(torch.full((4, 3, 16, 16), 0.5), 2, 4)
    at = tuple(torch.zeros(30, dtype=torch.int64) + number for number in (0, 4, 4))
    found = patterns.find_patterns(pieces, at, 3, torch.Generator().manual_seed(0))
    assert found.filters.isfinite().all()
    assert len(found.of(pieces, at).unique()) == 1


@given(
    seed=st.integers(0, 999),
    count=st.integers(1, 9),
    most=st.integers(1, 9),
)
def test_clusters_are_as_few_as_asked_and_no_two_exchangeable_ones_stay_apart(seed, count, most):
    generator = torch.Generator().manual_seed(seed)
    alike = torch.rand(count, count, generator=generator)
    alike = torch.minimum(alike, alike.T).fill_diagonal_(1)
    sizes = torch.randint(1, 50, (count,), generator=generator).float()
    cluster = patterns.merged(alike, sizes, most)
    clusters = int(cluster.max()) + 1
    assert sorted(cluster.unique().tolist()) == list(range(clusters))
    assert clusters <= most

    def between(one, other):
        weight = sizes[one][:, None] * sizes[other]
        return ((alike[one][:, other] * weight).sum() / weight.sum()).item()

    members = [(cluster == c).nonzero().flatten() for c in range(clusters)]
    for c in range(clusters):
        for d in range(c):
            assert between(members[c], members[d]) < patterns.EXCHANGEABLE + 1e-5
    if clusters < min(most, count):  # something was merged that did not have to be
        assert max(alike[i, j].item() for i in range(count) for j in range(i)) >= patterns.EXCHANGEABLE


def test_pieces_are_the_squares_around_their_place():
    images = torch.arange(2 * 3 * 16 * 16, dtype=torch.float32).view(2, 3, 16, 16)
    pieces = patterns.Pieces(images, scale=2, reach=2)
    at = torch.tensor([1]), torch.tensor([4]), torch.tensor([3])
    views = pieces.views(at)
    assert views.shape == (1, 25, 3 * 4 * 4)
    # The place covers rows 8 and 9 and columns 6 and 7, so its middle is the corner 9, 7 between pixels.
    for number, (down, right) in enumerate(itertools.product(range(-2, 3), repeat=2)):
        square = images[1, :, 9 - 2 + down : 9 + 2 + down, 7 - 2 + right : 7 + 2 + right]
        torch.testing.assert_close(views[0, number], square.flatten())
    torch.testing.assert_close(pieces.squares(at)[0], images[1, :, 5:13, 3:11])
    assert pieces.grid == (2, 8, 8)


@given(seed=st.integers(0, 99), at_once=st.integers(1, 9))
def test_a_place_is_of_the_cluster_whose_template_has_the_most_evidence(seed, at_once):
    generator = torch.Generator().manual_seed(seed)
    pieces = patterns.Pieces(torch.randn(3, 3, 16, 16, generator=generator), 2, 2)
    at = tuple(torch.randint(stop, (7,), generator=generator) for stop in pieces.grid)
    mean, filters = torch.randn(48, generator=generator), torch.randn(5, 48, generator=generator)
    cluster = torch.tensor([2, 0, 1, 0, 2])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patterns, "AT_ONCE", at_once)
        got = patterns.Patterns(mean, filters, cluster).of(pieces, at)
    # 25 shifts of 48 random numbers always have some evidence for each of five templates.
    value = patterns.evidence(pieces.views(at) - mean, filters).amax(1)
    assert torch.equal(got, cluster[value.argmax(1)])
