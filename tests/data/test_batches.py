"""Order and flips are functions of (seed, epoch), and batches hold what the images hold."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from accel.data import Batches, epoch_flips, epoch_order

seeds = st.integers(0, 2**63 - 1)


def numbered(count, height=2, width=3, channels=3):
    """Images that say their own number in every row, with columns that tell left from right."""
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


@given(
    count=st.integers(1, 40),
    batch_size=st.integers(1, 50),
    flip=st.booleans(),
    channels=st.sampled_from([1, 3]),
    seed=seeds,
    data=st.data(),
)
def test_an_epoch_shows_images_once_and_can_be_entered_anywhere(count, batch_size, flip, channels, seed, data):
    images = numbered(count, channels=channels)
    images.flags.writeable = False
    batches = Batches(images, batch_size, seed, flip, "cpu")
    whole = list(batches.epoch(3))
    size = min(batch_size, count)
    assert len(whole) == len(batches) == count // size
    start = data.draw(st.integers(0, len(batches)))
    for resumed, batch in zip(batches.epoch(3, start), whole[start:], strict=True):
        assert torch.equal(resumed, batch)

    shown = torch.cat(whole)
    assert shown.dtype == torch.uint8
    assert shown.is_contiguous()
    assert shown.shape == (size * len(batches), channels, 2, 3)
    numbers = shown[:, 0, 0, 1].numpy()
    order, flips = epoch_order(count, seed=seed, epoch=3), epoch_flips(count, seed=seed, epoch=3)
    assert np.array_equal(numbers, order[: len(numbers)])
    expected = images[numbers].transpose(0, 3, 1, 2)
    mirrored = (flips[numbers] & flip)[:, None, None, None]
    assert np.array_equal(shown.numpy(), np.where(mirrored, expected[..., ::-1], expected))


def test_memory_mapped_images(tmp_path):
    np.save(tmp_path / "images.npy", numbered(9))
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    one, other = (list(Batches(images, 4, 0, True, "cpu").epoch(0)) for images in (mapped, numbered(9)))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert np.array_equal(mapped, numbered(9))


def test_refuses_nothing_to_batch():
    with pytest.raises(ValueError, match="at least one image"):
        Batches(numbered(0), 4, 0, True, "cpu")
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        Batches(numbered(3), 0, 0, True, "cpu")
