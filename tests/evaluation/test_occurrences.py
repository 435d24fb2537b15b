"""The one-pass statistics against complete maps, cropped patches, and the receptive field."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from accel.evaluation import occurrences
from accel.evaluation.occurrences import consistency, crop_patches, find_occurrences, locate_parts, receptive_field
from accel.evaluation.summary import describe_parts
from accel.models import PatchVAE


class Reads(torch.nn.Module):
    """Reads each part's logit from one channel of the top left pixel of each 8 × 8 cell."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def encode(self, images):
        logits = images[:, :, ::8, ::8].float() / 16 - 8
        return SimpleNamespace(occurrence_logits=logits, occurrence=logits.sigmoid())

    def features(self, images):
        return images[:, :, ::8, ::8].float()


@st.composite
def sets(draw):
    """uint8 images (n, 8h, 8w, 3) with one colour per cell, often with ties."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    count, height, width = draw(st.integers(1, 9)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    levels = draw(st.sampled_from([2, 4, 256]))
    cells = rng.integers(0, levels, (count, height, width, 3)) * (255 // (levels - 1))
    return cells.astype(np.uint8).repeat(8, axis=1).repeat(8, axis=2)


@given(sets(), st.integers(1, 12), st.integers(1, 4))
def test_scan_in_batches_finds_what_the_whole_maps_hold(images, count, batch_size):
    before, occurrences.BATCH_SIZE = occurrences.BATCH_SIZE, batch_size
    try:
        found = find_occurrences(Reads(), images, count)
    finally:
        occurrences.BATCH_SIZE = before
    logits = images[:, ::8, ::8].transpose(3, 0, 1, 2).astype(np.float64) / 16 - 8  # (N, n, h, w)
    p = 1 / (1 + np.exp(-logits))
    kept = min(count, len(images))
    assert found.logit.shape == found.image.shape == (3, kept)
    for part in range(3):
        flat = logits[part].reshape(len(images), -1)
        expected = np.argsort(-flat.max(axis=1), kind="stable")[:kept]  # equally sure ones in the images' order
        np.testing.assert_array_equal(found.image[part], expected)
        cell = found.row[part] * logits.shape[3] + found.column[part]
        np.testing.assert_array_equal(flat[expected, cell], flat[expected].max(axis=1))
        np.testing.assert_allclose(found.probability[part], p[part].reshape(len(images), -1).max(1)[expected])
    flat = p.reshape(3, -1)
    assert found.covered == (p > 0.5).any(0).mean()
    # float32 sums of a few hundred numbers in [0, 1]
    np.testing.assert_allclose(found.expected, flat.sum(1) / len(images), rtol=1e-5)
    np.testing.assert_allclose(found.an_image, (flat > 0.5).sum(1) / len(images), rtol=1e-12)
    np.testing.assert_allclose(found.occupied, (flat > 0.5).mean(1), rtol=1e-12)
    mean = flat.mean(1)

    def entropy(p):
        return -p * np.log2(p) - (1 - p) * np.log2(1 - p)

    np.testing.assert_allclose(found.information, entropy(mean) - entropy(flat).mean(1), atol=1e-5)
    norm = np.sqrt((flat**2).sum(1))
    np.testing.assert_allclose(found.overlap, flat @ flat.T / np.outer(norm, norm), rtol=1e-5)


def images_of(*probabilities):
    """One image for each row of probabilities (3 parts), which apply to all four cells of the image."""
    logits = np.log(np.array(probabilities) / (1 - np.array(probabilities)))
    values = ((logits + 8) * 16).round().astype(np.uint8)
    return np.broadcast_to(values[:, None, None], (len(values), 16, 16, 3)).copy()


def test_dead_and_saturated_parts_are_told_and_come_last():
    found = find_occurrences(Reads(), images_of((0.1, 0.9, 0.9), (0.2, 0.9, 0.1), (0.1, 0.9, 0.1)))
    assert found.dead.tolist() == [True, False, False]
    assert found.saturated.tolist() == [False, True, False]
    assert found.order.tolist()[0] == 2


def test_entropy_counts_the_parts_in_use():
    assert find_occurrences(Reads(), images_of((0.5, 0.5, 0.5))).entropy() == pytest.approx(np.log2(3))
    assert find_occurrences(Reads(), images_of((0.5, 0.5, 0.001))).entropy() == pytest.approx(1, abs=0.03)


@given(side=st.sampled_from([4, 8, 14]), row=st.integers(0, 2), column=st.integers(0, 1))
def test_patches_are_centred_and_end_with_the_image(side, row, column):
    image = np.random.default_rng(0).integers(0, 256, (24, 16, 3), dtype=np.uint8)
    top, left = 16 + row * 8 + 4 - side // 2, 16 + column * 8 + 4 - side // 2
    for outside, mode in ((None, {"mode": "edge"}), (9, {"constant_values": 9})):
        padded = np.pad(image, ((16, 16), (16, 16), (0, 0)), **mode)
        (patch,) = crop_patches(image[None], np.array([row]), np.array([column]), side, 8, outside)
        np.testing.assert_array_equal(patch, padded[top : top + side, left : left + side])


def test_receptive_field_holds_the_share_of_the_gradient():
    class Window(torch.nn.Module):
        """The logit of each cell sums the pixels of the 20 × 20 square around it; the inner 12 × 12 count twice."""

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def encode(self, images):
            kernel = torch.ones(1, 3, 20, 20)
            kernel[:, :, 4:16, 4:16] = 2
            padded = torch.nn.functional.pad(images.float(), (6, 6, 6, 6))
            return SimpleNamespace(occurrence_logits=torch.nn.functional.conv2d(padded, kernel, stride=8))

    images = np.zeros((2, 32, 32, 3), np.uint8)
    inner, whole = 2 * 12**2, 20**2 + 12**2  # of the kernel's weight
    assert receptive_field(Window(), images, share=0.99 * inner / whole) == 12
    assert receptive_field(Window(), images, share=1.0) == 20
    assert receptive_field(Window(), images, share=0.01) == 8  # the cell itself


def test_consistency_is_one_for_equal_patches_and_low_for_random_ones():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (200, 16, 16, 3), dtype=np.uint8)
    images[:, ::8, ::8] = rng.integers(100, 120, (200, 2, 2, 3))  # no part occurs but by the lines below
    for part in range(3):  # 60 images each hold one flat cell, of a colour of its own
        images[60 * part : 60 * (part + 1), :8, 8:] = 10 * part
        images[60 * part : 60 * (part + 1), :8, 8:, part] = 250
    found = find_occurrences(Reads(), images, 50)
    result = consistency(Reads(), images, found, side=8)
    assert result == {"pixels": 1.0, "features": 1.0}
    # A patch of 16 holds 3/4 noise of variance 5418; the flat cells' colours vary by less between parts.
    assert consistency(Reads(), images, found, side=16)["pixels"] < 0.9
    nothing = find_occurrences(Reads(), np.zeros((3, 8, 8, 3), np.uint8))
    assert np.isnan(consistency(Reads(), np.zeros((3, 8, 8, 3), np.uint8), nothing, side=8)["pixels"])


def test_equal_and_dead_parts_do_not_count_as_different():
    """Parts 0 and 1 have the same map; part 2 has a different one, or none."""
    cells = np.random.default_rng(0).integers(0, 2, (20, 2, 2, 3), dtype=np.uint8) * 255
    cells[..., 1] = cells[..., 0]
    images = cells.repeat(8, axis=1).repeat(8, axis=2)
    found = find_occurrences(Reads(), images)
    assert found.distinct() == 2
    assert describe_parts(found)[0] == "3 of 3 parts occur in held-out images; 2 have distinct maps."
    images[..., 2] = 0
    found = find_occurrences(Reads(), images)
    assert found.distinct() == 1
    first, second = describe_parts(found)
    assert first == "2 of 3 parts occur in held-out images; 1 have distinct maps."
    covered, an_image = (cells[..., 0] > 0).mean(), 2 * (cells[..., 0] > 0).sum() / len(cells)
    assert second == f"They cover {covered:.0%} of the image area, with {an_image:.1f} occurrences per image."
    assert "image=int64 (3, 20)" in repr(found)
    assert len(repr(found)) < 500
    # Where none is likely, their small probabilities count as nothing.
    none = describe_parts(find_occurrences(Reads(), np.full_like(images, 100)))
    assert none[0] == "0 of 3 parts occur in held-out images; 0 have distinct maps."
    assert none[1] == "They cover 0% of the image area, with 0.0 occurrences per image."
    images[..., 2] = 255
    assert ", 1 of them nearly everywhere;" in describe_parts(find_occurrences(Reads(), images))[0]


@given(
    st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 4]), st.sampled_from(["bernoulli", "categorical"]),
    st.floats(0.01, 0.99), st.integers(1, 5), st.integers(1, 3),
)  # fmt: skip
def test_locations_are_the_cells_above_the_threshold_and_their_most_probable_places(
    seed, places, occurrence, threshold, count, batch_size
):
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed % 2**31)
    model = PatchVAE(num_parts=3, part_dim=1, encoder="fine" if places > 1 else "small", places=places,
                     occurrence=occurrence, occurrence_prior=0.2).eval()  # fmt: skip
    with torch.no_grad():
        model.occurrence_head.weight.mul_(100)  # so that some cells are sure
    height, width = (model.scale * int(rng.integers(1, 4)) for _ in range(2))
    images = rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    before, occurrences.BATCH_SIZE = occurrences.BATCH_SIZE, batch_size
    try:
        found = locate_parts(model, images, threshold)
    finally:
        occurrences.BATCH_SIZE = before

    expected = {}
    for image in range(count):
        batch = min(batch_size, count - image // batch_size * batch_size)  # rounding depends on the batch's size
        first = image // batch_size * batch_size
        with torch.no_grad():
            posterior = model.encode(torch.from_numpy(images[first : first + batch]).permute(0, 3, 1, 2))
        maps, k = posterior.occurrence[image - first].numpy(), places
        for part, row, column in np.argwhere(maps > np.float32(threshold)):
            x, y = column + 0.5, row + 0.5
            if posterior.places is not None:
                cell = posterior.places[image - first, part, row * k : (row + 1) * k, column * k : (column + 1) * k]
                down, right = divmod(int(cell.argmax()), k)
                x, y = column + (right + 0.5) / k, row + (down + 0.5) / k
            expected[image, part, x * model.scale, y * model.scale] = maps[part, row, column]
    got = dict(zip(zip(found.image, found.part, found.x, found.y, strict=True), found.probability, strict=True))
    assert len(got) == len(found.image)
    assert got == expected
    assert (np.diff(found.image) >= 0).all()
    assert (np.diff(found.probability)[np.diff(found.image) == 0] <= 0).all()
