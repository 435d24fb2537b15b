""".npz files: valid content is read, and each error has one sentence."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.data import load

rng = np.random.default_rng(0)
IMAGES = rng.integers(0, 256, (12, 6, 8, 3), dtype=np.uint8)
LABELS = rng.integers(0, 3, 12)


def saved(tmp_path, **arrays):
    path = tmp_path / "set.npz"
    np.savez(path, **arrays)
    return path


def test_reads_splits_labels_and_names(tmp_path):
    path = saved(
        tmp_path,
        train_images=IMAGES,
        train_labels=LABELS.astype(np.uint8),
        test_images=IMAGES[:4],
        test_labels=LABELS[:4, None],
        class_names=np.array(["Katze", "Hündin", "鳥"]),
    )
    dataset = load(path)
    assert dataset.name == str(path)
    assert dataset.class_names == ("Katze", "Hündin", "鳥")
    assert dataset.part_names is None
    assert dataset.train.truth is None
    assert np.array_equal(dataset.train.images, IMAGES)
    assert np.array_equal(dataset.train.labels, LABELS)
    assert dataset.train.labels.dtype == dataset.test.labels.dtype == np.int64
    assert np.array_equal(dataset.test.images, IMAGES[:4])
    assert np.array_equal(dataset.test.labels, LABELS[:4])


@pytest.mark.parametrize("shape", [(20, 5, 7), (20, 5, 7, 1), (20, 5, 7, 3)])
def test_images_alone_lose_a_tenth_to_the_test(tmp_path, shape):
    images = rng.integers(0, 256, shape, dtype=np.uint8)
    dataset = load(saved(tmp_path, images=images, boxes=np.zeros(3)))
    channels = 3 if shape[-1] == 3 else 1
    assert dataset.train.images.shape == (18, 5, 7, channels)
    assert dataset.test.images.shape == (2, 5, 7, channels)
    assert dataset.train.labels is dataset.test.labels is dataset.class_names is None
    together = np.concatenate([dataset.train.images, dataset.test.images]).reshape(20, -1)
    assert np.array_equal(np.unique(together, axis=0), np.unique(images.reshape(20, -1), axis=0))


@given(count=st.integers(2, 60), data=st.data())
def test_the_held_out_tenth_is_fixed_and_labels_stay_with_their_images(tmp_path_factory, count, data):
    images = np.arange(count, dtype=np.uint8)[:, None, None].repeat(4, 1).repeat(4, 2)
    path = saved(tmp_path_factory.mktemp("npz"), images=images, labels=np.arange(count))
    wanted = data.draw(st.integers(1, count - max(1, count // 10)))
    dataset, again, fewer = load(path), load(path, seed=5), load(path, train_images=wanted)
    assert len(dataset.test) == max(1, count // 10)
    for part in (dataset.train, dataset.test, fewer.train):
        assert np.array_equal(part.images[:, 0, 0, 0], part.labels)
    assert set(dataset.train.labels) | set(dataset.test.labels) == set(range(count))
    assert np.array_equal(dataset.test.labels, again.test.labels)
    assert np.array_equal(dataset.test.labels, fewer.test.labels)
    assert len(fewer.train) == wanted
    assert set(fewer.train.labels) <= set(dataset.train.labels)


def test_bytes_as_class_names(tmp_path):
    dataset = load(saved(tmp_path, images=IMAGES, labels=LABELS, class_names=np.array([b"a", b"b", "ü".encode()])))
    assert dataset.class_names == ("a", "b", "ü")


@pytest.mark.parametrize("channels", [1, 3])
def test_image_size_resizes_and_crops_the_middle(tmp_path, channels):
    pytest.importorskip("PIL")
    images = np.zeros((10, 8, 24, channels), np.uint8)
    images[:, :, 6:18] = 200
    dataset = load(saved(tmp_path, images=images), image_size=4)
    assert dataset.train.images.shape == (9, 4, 4, channels)
    assert (dataset.train.images == 200).all()
    assert np.array_equal(load(saved(tmp_path, images=IMAGES[:, :, :6]), image_size=6).test.images.shape, (1, 6, 6, 3))


GOOD = {"train_images": IMAGES, "train_labels": LABELS}


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"pictures": IMAGES, "x": LABELS}, "must hold either train_images or images, it holds pictures, x"),
        ({}, "must hold either train_images or images, it holds nothing"),
        ({**GOOD, "images": IMAGES}, "must hold either train_images or images"),
        (
            {"train_images": IMAGES / 255},
            r"must be uint8 .*, got float64 from 0 to 1: np\.rint\(255 \* train_images\)\.astype\(np\.uint8\) converts",
        ),
        ({"images": IMAGES > 9}, r"images must be uint8 .*, got bool from 0 to 1: np\.rint\(255 \* images\)\.astype"),
        (
            {"images": IMAGES.astype(np.int64)},
            r"images must be uint8 with values 0 to 255, got int64 from 0 to 255: images\.astype\(np\.uint8\) converts",
        ),
        ({"images": IMAGES / 127.5 - 1}, "must be uint8 with values 0 to 255, got float64 from -1 to 1$"),
        ({"images": IMAGES.astype(str)}, "must be uint8 with values 0 to 255, got <U3$"),
        ({"images": IMAGES[:0] / 255}, "must be uint8 with values 0 to 255, got float64$"),
        (
            {"images": IMAGES.transpose(0, 3, 1, 2)},
            r"\(12, 3, 6, 8\): np\.moveaxis\(images, 1, -1\) has its",
        ),
        ({"images": IMAGES[0]}, r"\(n, H, W, 1 or 3\), got \(6, 8, 3\), .* of one image: images\[None\] has shape"),
        ({"images": IMAGES[:, :, 0, 0]}, "images must have shape .*, got \\(12, 6\\)"),
        ({"images": np.zeros((3, 4, 4, 4), np.uint8)}, "images must have shape .*, got \\(3, 4, 4, 4\\)"),
        ({"images": IMAGES[:0]}, "images is empty, its shape is \\(0, 6, 8, 3\\)"),
        ({"images": IMAGES[:, :0]}, "images is empty"),
        ({**GOOD, "test_images": IMAGES[:0]}, "test_images is empty"),
        ({"images": IMAGES, "labels": LABELS[:5]}, "labels must hold one label for each of 12 images, .* \\(5,\\)"),
        ({"images": IMAGES, "labels": np.eye(12, dtype=int)}, "labels must hold one label for each .* \\(12, 12\\)"),
        ({"images": IMAGES, "labels": LABELS - 1}, "labels must be from 0 to 65,535, got -1"),
        ({"images": IMAGES, "labels": LABELS + 0.5}, "labels must be integers, got float64"),
        ({"images": IMAGES, "labels": LABELS > 0}, "labels must be integers, got bool"),
        ({**GOOD, "class_names": np.array(["a", "b"])}, "must be from 0 to 1, got 2, since there are 2 class names"),
        ({**GOOD, "class_names": np.arange(3)}, "class_names must be strings"),
        ({**GOOD, "class_names": np.array([["a"]])}, "class_names must be strings"),
        (
            {**GOOD, "class_names": np.array(["a", 1], dtype=object)},
            "class_names cannot be read: it holds Python objects",
        ),
        ({**GOOD, "test_images": IMAGES[:, :4]}, "test_images are 4×8×3, but train_images are 6×8×3"),
        ({**GOOD, "test_labels": LABELS}, "test_labels but no test_images"),
        ({"images": IMAGES, "train_labels": LABELS}, "train_labels but no train_images"),
        ({"train_images": IMAGES, "train_label": LABELS}, "holds train_label, expected train_labels"),
        ({**GOOD, "test_image": IMAGES}, "holds test_image, expected test_images"),
        ({"images": IMAGES[:1]}, "holds one image, expected at least two"),
    ],
)
def test_refuses(tmp_path, arrays, sentence):
    path = saved(tmp_path, **arrays)
    with pytest.raises(ValueError, match=sentence) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@given(data=st.data())
def test_refuses_truncated_and_damaged_files(tmp_path_factory, data):
    path = saved(tmp_path_factory.mktemp("npz"), images=IMAGES, labels=LABELS)
    whole = path.read_bytes()
    if data.draw(st.booleans()):
        path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    else:
        inside = data.draw(st.integers(200, IMAGES.size))  # in the images' own bytes
        path.write_bytes(whole[:inside] + bytes([whole[inside] ^ 255]) + whole[inside + 1 :])
    with pytest.raises(ValueError, match=re.escape(str(path))):
        load(path)


def test_refuses_what_is_no_archive(tmp_path):
    path = tmp_path / "set.npz"
    for content in (b"", b"PK\x03\x04 not really", np.arange(5).tobytes()):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"not a complete \.npz file"):
            load(path)


def test_asks_for_no_more_images_than_there_are(tmp_path):
    path = saved(tmp_path, images=IMAGES)
    with pytest.raises(ValueError, match=r"train_images is 12, but .* has 11 training images"):
        load(path, train_images=12)
