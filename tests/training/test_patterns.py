"""Patterns: evidence against the reference, templates that are found, and clusters that are merged."""

import itertools
import math

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
    has = (sizes > 0).numpy()  # what an empty cluster would explain is not defined
    kept = np.cumsum(has) - 1
    wanted = reference.exchangeability(np.max(each, 0)[:, has], kept[cluster])
    # float32 products of 12 numbers, whose sums cancel to a hundredth of the terms in these cases
    np.testing.assert_allclose(got[has][:, has], wanted, rtol=1e-2, atol=1e-3)
    assert got.isfinite().all()


def with_a_mark(right, down, reach=8):
    """A template with a smooth mark at a place right of and below the middle, in pixels."""
    along = torch.arange(2 * reach) + 0.5 - reach
    return torch.exp(-((along - right) ** 2 + (along[:, None] - down) ** 2) / 2).flatten()[None]


@given(right=st.integers(-4, 4), down=st.integers(-4, 4))
def test_marks_turn_about_the_middle_and_move_away_from_it(right, down):
    def assert_at(got, right, down):
        # Between pixels, values are interpolated: along each axis with an error of up to an eighth of the second
        # derivative, which is at most 1.
        torch.testing.assert_close(got, with_a_mark(right, down), rtol=0, atol=2 / 8)

    template = with_a_mark(right, down)
    torch.testing.assert_close(patterns.turned(template, 8, 0, 1.0), template, rtol=1e-5, atol=1e-5)
    for angle in (90, -90, 37):
        cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        # A positive angle turns anticlockwise in a picture, whose second axis points down.
        got = patterns.turned(template, 8, angle, 1.0)
        assert_at(got, cosine * right + sine * down, cosine * down - sine * right)
    row, column = divmod(int(patterns.turned(template, 8, 0, 1.5).argmax()), 16)
    assert abs(row + 0.5 - 8 - 1.5 * down) <= 1
    assert abs(column + 0.5 - 8 - 1.5 * right) <= 1


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


def test_no_places_have_no_clusters():
    pieces, none = patterns.Pieces(torch.rand(2, 3, 16, 16), 2, 4), torch.zeros(0, dtype=torch.int64)
    found = patterns.Patterns(torch.zeros(192), torch.rand(4, 192), torch.tensor([0, 1, 1, 0]))
    assert found.of(pieces, (none, none, none)).shape == (0,)


def test_few_pieces_have_few_clusters():
    images, _ = looks(25, 3)
    pieces = patterns.Pieces(images, 2, 6)
    found = patterns.find_patterns(pieces, middle_of(images, 2), 20, torch.Generator().manual_seed(0))
    assert int(found.cluster.max()) + 1 <= 25 // patterns.FEWEST


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
