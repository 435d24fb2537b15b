"""Average precision against its definition, the choice of parts, localisation, purity, and clustering."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from accel.data import Dataset, ImageSet, draw_parts
from accel.evaluation import discover_by_clustering, discovery, part_average_precision, untrained
from accel.evaluation.discovery import cell_pixels, compare
from accel.models import PatchVAE


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
        """Places each value in one cell of its block, and lower values in the others."""
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
    with pytest.raises(ValueError, match="photos has no ground truth of parts"):
        discovery.discover(None, Dataset("photos", ImageSet(images[0]), ImageSet(images[1])))


def truth_of(count, *cells):
    """Bool (count, T, 2, 3): the centre of type t lies in the t-th of `cells` in every image."""
    truth = np.zeros((count, len(cells), 2, 3), bool)
    for kind, (row, column) in enumerate(cells):
        truth[:, kind, row, column] = True
    return truth


def test_distance_coverage_and_purity_by_hand():
    images = ImageSet(np.zeros((60, 16, 24, 3), np.uint8), truth=truth_of(60, (0, 0), (1, 2)))
    maps = np.zeros((60, 3, 2, 3))
    maps[:, 0, 0, 0] = 0.9  # part 0 is on type 0
    maps[:, 1, 1, 2] = 0.2  # part 1 is where type 1 is, but never above one half
    maps[:6, 2] = 1.0  # part 2 is sure of every cell in a tenth of the images
    found = compare(maps, images, maps, images)
    assert found.part.tolist() == [0, 1]
    assert found.average_precision.tolist() == [1, 1]
    assert found.localisation_error.tolist() == [0, 0]
    np.testing.assert_allclose(found.coverage, [1, 0.1])
    assert found.marked == pytest.approx((6 * 6 + 54) / 360)
    assert found.purity.tolist() == [1, 1, 1]  # of the 50 surest
    assert found.purest.tolist() == [0, 1, 0]
    shifted = np.zeros_like(maps)
    shifted[:, 0, 0, 1] = shifted[:30, 1, 1, 0] = shifted[30:, 1, 1, 2] = 1
    moved = compare(maps, images, shifted, images)
    assert moved.localisation_error.tolist() == [1, 1]  # part 1 is two cells off in half of the images
    assert moved.purity[0] == 0
    assert moved.purity[1] == pytest.approx(20 / 50)  # equally sure images count in order
    summary = moved.summary()
    assert summary["localisation_error"] == 1
    assert 0 < summary["average_precision"] < 1


def test_saturated_parts_cover_nothing_and_absent_types_are_not_a_number():
    images = ImageSet(np.zeros((4, 16, 24, 3), np.uint8), truth=truth_of(4, (0, 0), (1, 1)))
    images.truth[:, 1] = False
    found = compare(np.ones((4, 1, 2, 3)), images, np.ones((4, 1, 2, 3)), images)
    assert found.coverage[0] == 0
    assert found.marked == 0
    assert np.isnan([found.coverage[1], found.localisation_error[1], found.average_precision[1]]).all()
    assert np.isfinite(list(found.summary().values())).all()


def test_cells_keep_their_place():
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 24, 3), dtype=np.uint8)
    pixels = cell_pixels(images, 8)
    assert pixels.shape == (2, 2, 3, 3 * 64)
    expected = images[1, 8:, 16:].transpose(2, 0, 1).reshape(-1) / 127.5 - 1
    np.testing.assert_allclose(pixels[1, 1, 2], expected, atol=1e-6)


def test_clustering_finds_types_that_always_look_the_same():
    train, test = (draw_parts(300, jitter=0.0, first_image=first) for first in (0, 1000))
    found = discover_by_clustering(Dataset("parts", train, test), num_parts=24, scale=8)
    again = discover_by_clustering(Dataset("parts", train, test), num_parts=24, scale=8)
    np.testing.assert_array_equal(found.average_precision, again.average_precision)
    assert found.summary()["average_precision"] > 10 * found.chance.mean()
    assert found.marked == 1  # every cell belongs to a cluster


def test_untrained_model_has_other_weights_and_leaves_the_generator_alone():
    model = PatchVAE(image_size=16, num_parts=3, part_dim=2, encoder="small")
    state = torch.get_rng_state()
    one, two = untrained(model), untrained(model)
    assert torch.equal(state, torch.get_rng_state())
    assert one.config == model.config
    assert torch.equal(one.occurrence_head.weight, two.occurrence_head.weight)
    assert not torch.equal(one.occurrence_head.weight, model.occurrence_head.weight)
