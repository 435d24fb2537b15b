"""`load` for names and paths."""

import subprocess
import sys

import numpy as np
import pytest

from accel.data import draw_parts, load


def test_parts_by_name():
    dataset = load("parts", train_images=20, seed=3)
    assert np.array_equal(dataset.train.images, draw_parts(20, seed=3).images)
    assert dataset.test.images.shape == (2000, 32, 32, 3)
    assert dataset.test.truth.shape == (2000, 8, 4, 4)
    assert len(dataset.part_names) == len(dataset.class_names) == 8
    assert not dataset.flip
    together = np.concatenate([dataset.train.images, dataset.test.images]).reshape(2020, -1)
    assert len(np.unique(together, axis=0)) == 2020
    assert load("parts", train_images=2, image_size=64).train.images.shape == (2, 64, 64, 3)


def test_same_held_out_parts_for_any_number_of_training_images():
    assert np.array_equal(load("parts", train_images=1).test.images, load("parts", train_images=30).test.images)


@pytest.mark.parametrize(
    ("data", "hint"),
    [
        ("part", r"no such data: part \(nearest: parts\)"),
        ("CIFAR-10", r"nearest: cifar10"),
        ("cifar1000", r"nearest: cifar100?\)"),
        (
            "elsewhere/set.npz",
            r"no such data: elsewhere/set\.npz; expected parts, cifar10, .*, a packed \.npy file or a folder of images",
        ),
    ],
)
def test_names_the_nearest(data, hint):
    with pytest.raises(FileNotFoundError, match=hint):
        load(data)


def test_names_the_nearest_file(tmp_path):
    (tmp_path / "photographs.npz").touch()
    with pytest.raises(FileNotFoundError, match=r"nearest: .*photographs\.npz"):
        load(tmp_path / "photograph.npz")


def test_refuses_other_files_and_numbers(tmp_path):
    path = tmp_path / "images.zip"
    path.touch()
    with pytest.raises(
        ValueError, match=r"images\.zip is neither a folder of images nor a \.npz file nor a packed \.npy file"
    ):
        load(path)
    with pytest.raises(ValueError, match="train_images must be at least 1, got 0"):
        load("parts", train_images=0)
    with pytest.raises(ValueError, match="image_size must be at least 1, got 0"):
        load("parts", image_size=0)


def test_a_name_stands_for_the_set_whatever_the_folder(tmp_path, monkeypatch):
    (tmp_path / "parts").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load("parts", train_images=1).name == "parts"
    with pytest.raises(ValueError, match="parts holds no images"):
        load("./parts/")


def test_pillow_is_asked_for_only_where_it_is_needed(tmp_path):
    """Without Pillow, arrays of the right size load, and the error explains how to install it."""
    np.savez(tmp_path / "set.npz", images=np.zeros((4, 8, 8), np.uint8))
    (tmp_path / "folder").mkdir()
    for name in "ab":
        (tmp_path / "folder" / f"{name}.png").touch()
    program = """if True:
        import sys
        sys.modules["PIL"] = None
        from accel.data import load
        assert load("set.npz", image_size=8).train.images.shape == (3, 8, 8, 1)
        for data, size in (("set.npz", 4), ("folder", None)):
            try:
                load(data, image_size=size)
            except ImportError as error:
                assert "pip install pillow" in str(error), error
            else:
                raise AssertionError(data)
    """
    path = {"PYTHONPATH": ":".join(p for p in sys.path if p)}
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=path, check=True)
