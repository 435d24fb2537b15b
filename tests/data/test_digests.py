"""Digests depend on every byte and label of a data set, but not on the memory layout."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.data import digests
from tests.training.tiny import tiny_dataset


@given(st.data())
def test_any_byte_and_any_shape_counts_and_no_layout(data):
    shape = data.draw(st.tuples(*[st.integers(1, 9)] * 4))
    array = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    rows = data.draw(st.sampled_from([1, 100, 1 << 24]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digests, "CHUNK", rows)
        known = digests.digest(array)
        wider = np.zeros((*shape[:3], 2 * shape[3]), np.uint8)
        wider[..., ::2] = array
        assert digests.digest(wider[..., ::2]) == known
        assert digests.digest(np.asfortranarray(array)) == known
        assert digests.digest(array.reshape(*shape[:2], -1)) != known
        assert digests.digest(array.view(np.int8)) != known
        changed = array.copy()
        changed[tuple(data.draw(st.integers(0, extent - 1)) for extent in shape)] ^= 1 << data.draw(st.integers(0, 7))
        assert digests.digest(changed) != known


def test_what_differs_is_named():
    dataset = tiny_dataset()
    known = digests.digests(dataset, labels=True)
    assert known.keys() == {"train_images", "train_labels", "test_images", "test_labels"}
    assert digests.difference(known, digests.digests(tiny_dataset(), labels=True)) is None
    fewer = dataclasses.replace(dataset, test=dataset.test.chosen(np.arange(9)))
    assert digests.difference(known, digests.digests(fewer, labels=True)) == (
        "test images: 10 of 16x16 with 3 channels, not 9 of 16x16 with 3 channels"
    )
    marked = dataclasses.replace(dataset, supervised=np.arange(24) < 20)
    assert digests.difference(known, digests.digests(marked, labels=True)) == "supervised: none, not 20 labelled"
    assert digests.difference(digests.digests(dataset, labels=False), digests.digests(marked, labels=False)) is None
