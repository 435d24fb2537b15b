"""Order and flips are functions of (seed, epoch), and batches contain the images."""

import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from accel.data import Batches, ImageSet, epoch_flips, epoch_order

seeds = st.integers(0, 2**63 - 1)


def numbered(count, height=2, width=3, channels=3):
    """Images that encode their own number in every row, with columns that distinguish left from right."""
    images = np.zeros((count, height, width, channels), np.uint8)
    images += np.arange(count, dtype=np.uint8)[:, None, None, None]
    images[:, :, 0] += 100
    return images


@given(count=st.integers(0, 300), seed=seeds, epoch=st.integers(0, 2**30))
def test_order_is_a_permutation_and_a_function(count, seed, epoch):
    order = epoch_order(count, seed=seed, epoch=epoch)
    assert order.dtype == np.int64
    assert np.array_equal(np.sort(order), np.arange(count))
    assert np.array_equal(order, epoch_order(count, seed=seed, epoch=epoch))


@given(seed=seeds, epoch=st.integers(0, 2**30))
def test_epochs_and_seeds_differ(seed, epoch):
    others = [{"seed": seed, "epoch": epoch + 1}, {"seed": seed + 1, "epoch": epoch}]
    for function in (epoch_order, epoch_flips):
        for other in others:
            assert not np.array_equal(function(200, seed=seed, epoch=epoch), function(200, **other))


def test_every_image_comes_first_alike_and_is_flipped_half_the_time():
    first = np.bincount([epoch_order(10, seed=0, epoch=epoch)[0] for epoch in range(2000)], minlength=10)
    assert np.abs(first - 200).max() < 60
    flips = np.mean([epoch_flips(10, seed=0, epoch=epoch) for epoch in range(2000)], axis=0)
    assert np.abs(flips - 0.5).max() < 0.05


def plainly(image_set, batch_size, seed, flip, epoch):
    """The batches of an epoch, computed one after another: images uint8 (B, C, H, W), labels int64 (B,) or None."""
    count = len(image_set)
    size = min(batch_size, count)
    order, flips = epoch_order(count, seed=seed, epoch=epoch), epoch_flips(count, seed=seed, epoch=epoch)
    for start in range(0, count - size + 1, size):
        chosen = order[start : start + size]
        images = [image_set.images[i, :, ::-1] if flip and flips[i] else image_set.images[i] for i in chosen]
        labels = None if image_set.labels is None else image_set.labels[chosen]
        yield np.stack(images).transpose(0, 3, 1, 2), labels


@given(
    count=st.integers(1, 40),
    size=st.integers(1, 12),
    world_size=st.integers(1, 3),
    flip=st.booleans(),
    channels=st.sampled_from([1, 3]),
    labelled=st.booleans(),
    resident=st.booleans(),
    seed=seeds,
    data=st.data(),
)
def test_an_epoch_shows_images_once_whoever_gathers_them_and_can_be_entered_anywhere(
    count, size, world_size, flip, channels, labelled, resident, seed, data
):
    """Also, the concatenated batches of all ranks are the batches of one process."""
    images = numbered(count, channels=channels)
    images.flags.writeable = False
    image_set = ImageSet(images, np.arange(count) % 7 if labelled else None)
    batch_size = size * world_size
    if count < batch_size:
        world_size = 1
    expected = list(plainly(image_set, batch_size, seed, flip, epoch=3))
    start = data.draw(st.integers(0, len(expected)))
    ranks = [
        Batches(image_set, batch_size, seed, flip, "cpu", rank=rank, world_size=world_size, resident=resident)
        for rank in range(world_size)
    ]
    assert all(len(batches) == len(expected) for batches in ranks)
    shown = zip(*(batches.epoch(3, start) for batches in ranks), strict=True)
    for parts, (expected_images, expected_labels) in zip(shown, expected[start:], strict=True):
        for part in parts:
            assert part.images.dtype == torch.uint8
            assert part.images.is_contiguous(memory_format=torch.channels_last)
            assert len(part.images) == len(expected_images) // world_size
        assert np.array_equal(torch.cat([part.images for part in parts]).numpy(), expected_images)
        if labelled:
            assert all(part.labels.dtype == torch.int64 for part in parts)
            assert np.array_equal(torch.cat([part.labels for part in parts]).numpy(), expected_labels)
        else:
            assert all(part.labels is None for part in parts)


def test_memory_mapped_and_strided_images(tmp_path):
    images = numbered(18)
    np.save(tmp_path / "images.npy", images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    for view, plain in ((mapped, images), (images[::2], images[::2].copy()), (mapped[9:], images[9:].copy())):
        batches = Batches(ImageSet(view), 4, 0, True, "cpu").epoch(0)
        for batch, (expected, _) in zip(batches, plainly(ImageSet(plain), 4, 0, True, 0), strict=True):
            assert np.array_equal(batch.images.numpy(), expected)
    assert np.array_equal(images, numbered(18))
    assert np.array_equal(mapped, images)


def test_whoever_stops_in_the_middle_leaves_no_thread_behind():
    batches = Batches(ImageSet(numbered(200)), 2, 0, True, "cpu").epoch(0)
    next(batches)
    assert any(thread.name.startswith("batches") for thread in threading.enumerate())
    batches.close()
    assert not any(thread.name.startswith("batches") for thread in threading.enumerate())


def test_what_fails_in_a_reader_is_raised_where_the_batch_is_asked_for(monkeypatch):
    def read(self, indices):
        raise OSError("the disk is gone")

    monkeypatch.setattr(Batches, "_read", read)
    with pytest.raises(OSError, match="the disk is gone"):
        next(Batches(ImageSet(numbered(8)), 2, 0, True, "cpu").epoch(0))


def test_refuses_nothing_to_batch_and_uneven_shares():
    with pytest.raises(ValueError, match="at least one image"):
        Batches(ImageSet(numbered(0)), 4, 0, True, "cpu")
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        Batches(ImageSet(numbered(3)), 0, 0, True, "cpu")
    with pytest.raises(ValueError, match="batch_size 3 must be a multiple of the 2 processes"):
        Batches(ImageSet(numbered(3)), 4, 0, True, "cpu", world_size=2)


def test_a_choice_of_images_is_shown_as_a_set_of_those_would_be():
    images, indices = ImageSet(numbered(20)), np.array([3, 4, 9, 11, 17, 19])
    some = Batches(images, 2, 5, True, "cpu", indices=indices)
    alone = Batches(images.chosen(indices), 2, 5, True, "cpu")
    assert len(some) == 3
    for got, expected in zip(some.epoch(2), alone.epoch(2), strict=True):
        assert torch.equal(got.images, expected.images)


@pytest.mark.parametrize("flip", [False, True])
def test_maps_in_place_of_labels_are_mirrored_with_their_image(flip):
    rng = np.random.default_rng(0)
    maps = rng.integers(-1, 100, (12, 4, 4)).astype(np.int16)
    images = maps.repeat(2, 1).repeat(2, 2)[..., None].astype(np.uint8)  # shows the map
    batches = Batches(ImageSet(images), 5, 0, flip, "cpu")
    batches.labels = maps
    seen = 0
    for images, labels in batches.epoch(0):
        assert labels.dtype == torch.int16
        assert torch.equal(images[:, 0, ::2, ::2], labels.to(torch.uint8))
        seen += len(labels)
    assert seen == 10
