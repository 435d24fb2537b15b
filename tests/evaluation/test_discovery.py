"""Average precision against its definition, and the choice of parts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.data import Dataset, ImageSet
from accel.evaluation import discovery, part_average_precision


def average_precision_by_definition(scores, positive):
    """Σ over thresholds, from high to low, of (gain in recall) · precision."""
    total, recall = 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        chosen = scores >= threshold
        new_recall = positive[chosen].sum() / positive.sum()
        total += (new_recall - recall) * positive[chosen].mean()
        recall = new_recall
    return total


@st.composite
def maps(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    images, parts, types, height, width = (draw(st.integers(1, 4)) for _ in range(5))
    occurrence = rng.uniform(size=(images, parts, height, width)).astype(np.float32)
    if draw(st.booleans()):
        occurrence = occurrence.round(draw(st.integers(0, 1)))  # many ties
    truth = rng.uniform(size=(images, types, height, width)) < draw(st.sampled_from([0.1, 0.5, 1.0]))
    return occurrence, truth


@given(maps())
def test_matches_definition(case):
    occurrence, truth = case
    result = part_average_precision(occurrence, truth)
    assert result.shape == (occurrence.shape[1], truth.shape[1])
    for part in range(occurrence.shape[1]):
        for kind in range(truth.shape[1]):
            if truth[:, kind].any():
                expected = average_precision_by_definition(occurrence[:, part].ravel(), truth[:, kind].ravel())
                assert np.isclose(result[part, kind], expected)
            else:
                assert np.isnan(result[part, kind])


@given(maps(), st.integers(0, 2**32))
def test_order_of_cells_does_not_matter(case, seed):
    occurrence, truth = case
    order = np.random.default_rng(seed).permutation(len(occurrence))
    shuffled = part_average_precision(occurrence[order], truth[order])
    np.testing.assert_allclose(part_average_precision(occurrence, truth), shuffled)


def test_perfect_and_constant_maps():
    truth = np.random.default_rng(0).uniform(size=(50, 2, 4, 4)) < 0.1
    perfect = truth.astype(np.float32)
    assert part_average_precision(perfect, truth).diagonal().tolist() == [1.0, 1.0]
    constant = np.full((50, 1, 4, 4), 0.3)
    np.testing.assert_allclose(part_average_precision(constant, truth)[0], truth.mean(axis=(0, 2, 3)))


@given(maps(), st.integers(1, 3), st.integers(1, 3))
def test_a_finer_grid_is_merged_by_the_maximum(case, rows, columns):
    occurrence, truth = case
    expected = part_average_precision(occurrence, truth)

    def refine(maps):
        """Each value in one cell of its block, and less in the others."""
        finer = np.full((*maps.shape[:2], maps.shape[2] * rows, maps.shape[3] * columns), maps.min())
        finer[:, :, rows - 1 :: rows, ::columns] = maps
        return finer

    np.testing.assert_array_equal(part_average_precision(refine(occurrence), truth), expected)
    np.testing.assert_array_equal(part_average_precision(occurrence, refine(truth)), expected)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 3, 3, 4), (3, 3, 4, 4), (2, 3, 8, 2)])
def test_shapes_must_agree(shape):
    with pytest.raises(ValueError, match="must agree in images and grid, got"):
        part_average_precision(np.zeros((2, 3, 4, 4)), np.zeros(shape, bool))


def test_part_is_chosen_on_training_images_and_measured_on_held_out(monkeypatch):
    rng = np.random.default_rng(1)
    truth = rng.uniform(size=(2, 200, 1, 2, 2)) < 0.2
    maps = rng.uniform(size=(2, 200, 3, 2, 2))
    maps[0, :, 2] = truth[0, :, 0]  # part 2 finds the type in training images alone
    maps[1, :, 1] = truth[1, :, 0]  # part 1 in held-out images alone
    images = [np.full((200, 16, 16, 3), index, np.uint8) for index in range(2)]
    monkeypatch.setattr(discovery, "occurrence_maps", lambda model, images: maps[images[0, 0, 0, 0]])
    train, test = (ImageSet(image, truth=cells) for image, cells in zip(images, truth, strict=True))
    found = discovery.discover(None, Dataset("parts", train, test))
    assert found.part.tolist() == [2]
    assert found.average_precision[0] < 0.5
    assert found.chance[0] == truth[1].mean()
    with pytest.raises(ValueError, match="photos does not say where parts are"):
        discovery.discover(None, Dataset("photos", ImageSet(images[0]), ImageSet(images[1])))
