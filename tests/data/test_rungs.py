"""Each rung of the ladder changes only what it names, and all can be drawn in any split."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accel.data import draw_parts, parts
from accel.data.ground import natural_ground
from accel.data.looks import ALIKE, LOOKS
from accel.data.parts import RUNGS, Difficulty

DIFFERENCES = st.fixed_dictionaries(
    {},
    optional={
        "present": st.integers(2, 4),
        "anywhere": st.booleans(),
        "alike": st.booleans(),
        "natural": st.booleans(),
        "contrast": st.sampled_from([0.0, 0.3, 1.0]),
    },
)


@pytest.mark.parametrize("rung", [rung for rung in RUNGS if rung != "today's set"])
def test_a_rung_differs_from_todays_set(rung):
    options = {"image_size": 32, "num_types": 8} | RUNGS[rung]
    drawn = draw_parts(20, **options)
    assert drawn.images.shape[1] == options["image_size"]
    assert drawn.truth.shape[1] == options["num_types"]
    assert drawn.images.tobytes() != draw_parts(20).images.tobytes()


@given(differences=DIFFERENCES, first=st.integers(0, 2**40), counts=st.tuples(st.integers(0, 4), st.integers(1, 4)))
@settings(max_examples=15)
def test_an_image_depends_on_seed_and_index_alone(differences, first, counts):
    whole = draw_parts(sum(counts), first_image=first, seed=9, **differences)
    tail = draw_parts(counts[1], first_image=first + counts[0], seed=9, **differences)
    for field in ("images", "labels", "truth"):
        assert np.array_equal(getattr(whole, field)[counts[0] :], getattr(tail, field))


def test_differences_that_do_not_move_parts_leave_the_truth():
    today = draw_parts(50, seed=3)
    for difference in ({"alike": True}, {"natural": True}, {"contrast": 0.7}):
        drawn = draw_parts(50, seed=3, **difference)
        assert np.array_equal(drawn.truth, today.truth)
        assert not np.array_equal(drawn.images, today.images)


def test_centres_lie_anywhere_in_a_cell():
    shown = parts.scene(300, 0, 0, 0.2, 8, 4, Difficulty(anywhere=True))
    inside = (shown.part_centre[shown.part_type >= 0] * 4) % 1
    # Away from the image's border, where MARGIN keeps centres out of a part of the outer cells.
    middle = inside[np.abs(shown.part_centre[shown.part_type >= 0] - 0.5).max(axis=1) < 0.25]
    assert np.abs(np.histogram(middle, bins=4, range=(0, 1))[0] / middle.size - 0.25).max() < 0.05


@pytest.mark.parametrize("present", [2, 3, 4])
def test_so_many_types_are_present(present):
    shown = parts.scene(2000, 1, 0, 0.2, 8, 4, Difficulty(present=present))
    types = [set(row[row >= 0]) for row in shown.part_type]
    assert {len(found) for found in types} == {present}
    frequency = np.bincount([kind for found in types for kind in found], minlength=8) / 2000
    assert np.abs(frequency - present / 8).max() < 0.06  # five standard errors of a proportion of 2000
    labels = {}
    for found, label in zip(types, shown.label, strict=True):
        labels.setdefault(frozenset(found), set()).add(int(label))
    assert all(len(label) == 1 for label in labels.values())


def test_types_that_are_alike_differ_in_shape_alone():
    assert len({look.shape for look in ALIKE}) == len(LOOKS)
    assert len({(look.palette, look.texture) for look in ALIKE}) == 1


def test_grounds_have_the_spectrum_of_photographs():
    """Power falls approximately as 1/f², and backgrounds do not consist of shading alone."""
    grounds = natural_ground(300, 5, 0, 32).mean(axis=3)
    window = np.hanning(32)[:, None] * np.hanning(32)
    power = (np.abs(np.fft.fft2((grounds - grounds.mean(axis=(1, 2), keepdims=True)) * window)) ** 2).mean(axis=0)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(32), np.fft.fftfreq(32))) * 32
    edges = [2, 3, 4, 6, 8, 11, 15]
    bands = list(itertools.pairwise(edges))
    energy = [power[(frequency >= low) & (frequency < high)].mean() for low, high in bands]
    slope = np.polyfit(np.log([np.sqrt(low * high) for low, high in bands]), np.log(energy), 1)[0]
    assert -2.6 < slope < -1.8
    assert 25 < grounds.std(axis=(1, 2)).mean() < 60
    assert grounds.min() >= 0
    assert grounds.max() <= 255


def test_contrast_shrinks_images_about_grey():
    grey = np.random.default_rng(0).integers(0, 256, (400, 8, 8, 3), dtype=np.uint8)
    lower = parts.lower_contrast(grey, 4, 0, 0.6)
    kept = (lower - 128.0).std(axis=(1, 2, 3)) / (grey - 128.0).std(axis=(1, 2, 3))
    assert kept.min() > 0.39
    assert kept.max() < 1.01
    assert abs(kept.mean() - 0.7) < 0.05
    assert np.array_equal(parts.lower_contrast(grey[7:], 4, 7, 0.6), lower[7:])


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"present": 1}, ValueError, "present"),
        ({"present": 5}, ValueError, "present"),
        ({"contrast": 1.5}, ValueError, "contrast"),
        ({"colour": True}, TypeError, "colour"),
    ],
)
def test_refuses_by_name(options, error, named):
    with pytest.raises(error, match=named):
        draw_parts(1, **options)
