"""The ladder: what is done is not done again, the table says what rows say, and the set held back is as described."""

import json
import sys

import numpy as np
import pytest
import torch

from accel.data.parts import RUNGS
from bench.common import held_back
from bench.experiments import ladder


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """Runs the command with two trivial methods; returns the measurements and the path of the results."""
    calls = []

    def method(data, seed):
        calls.append((data.name, seed))
        truth = data.test.truth.astype(float)
        return ladder.compare(data.train.truth.astype(float), data.train, truth, data.test), 1.5

    whole = ladder.dataset
    monkeypatch.setattr(ladder, "METHODS", {"one": method, "other": method})
    monkeypatch.setattr(ladder, "dataset", lambda rung, seed, photographs: whole(rung, seed, photographs, 40, 40))
    path = tmp_path / "ladder.json"

    def run(*arguments):
        calls.clear()
        monkeypatch.setattr(sys, "argv", ["ladder.py", "--results", str(path), *arguments])
        ladder.main()
        return list(calls)

    return run, path


def test_what_is_there_is_not_measured_again(measured):
    run, path = measured
    rungs = ["--rungs", "shape alone", "today's set"]
    assert len(run(*rungs, "--seeds", "0", "--methods", "one")) == 2
    assert len(run(*rungs, "--seeds", "0", "1", "--methods", "one", "other")) == 6
    assert run(*rungs, "--seeds", "0", "1", "--methods", "one", "other") == []
    rows = json.loads(path.read_text())["results"]
    assert len({(row["rung"], row["method"], row["seed"]) for row in rows}) == len(rows) == 8
    assert all(row["loss"] == 1.5 for row in rows)
    assert all(row["mean"] == row["worst"] == 1 for row in rows)  # the truth itself was the map
    text = path.with_suffix(".md").read_text()
    assert "| shape alone | 1.00 (1.00 to 1.00, 2) | 1.00 (1.00 to 1.00, 2) | 0.03 |" in text
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_the_truth_is_given_in_the_first_half_alone(monkeypatch):
    data, given = ladder.dataset("today's set", 0, images=64, tests=32), []
    monkeypatch.setattr(ladder, "NEW_RECIPE", ladder.NEW_RECIPE | {"epochs": 2, "warm_up": 1})
    cross_entropy = ladder.functional.binary_cross_entropy

    def counted(probability, truth, **options):
        given.append(truth)
        return cross_entropy(probability, truth, **options)

    monkeypatch.setattr(ladder.functional, "binary_cross_entropy", counted)
    found, loss = ladder.begun_at_the_truth(data, 0)
    assert loss > 0
    assert len(found.average_precision) == 8
    seen = np.concatenate([truth.numpy() for truth in given])  # one epoch: every image once
    assert sorted(map(bytes, seen)) == sorted(map(bytes, data.train.truth.astype(np.float32)))


@pytest.mark.parametrize("encoder", ["small", "fine"])
def test_a_taught_cell_has_a_type_that_has_a_place_in_it(encoder):
    model = ladder.Taught(encoder, 5).eval()
    images = torch.randint(0, 256, (2, 3, 32, 48), dtype=torch.uint8)
    logits = model(images)
    assert logits.shape == (2, 5, 4, 6)
    finer = model.head(model.encoder(ladder.scaled_pixels(images, torch.float32))).exp()
    k = finer.shape[2] // 4
    torch.testing.assert_close(logits.exp(), finer.unflatten(3, (-1, k)).unflatten(2, (-1, k)).sum((3, 5)))


def test_every_rung_can_be_measured():
    for rung in RUNGS:
        data = ladder.dataset(rung, 1, images=12, tests=12)
        assert len(data.part_names) == data.train.truth.shape[1]
        assert not np.array_equal(data.train.images, data.test.images)


@pytest.mark.parametrize("rung", ladder.REDUCED)
def test_reduced_rungs_have_the_places_and_scenes_of_the_whole(rung):
    pytest.importorskip("PIL.Image")
    whole = ladder.dataset(ladder.REDUCED[rung], 1, images=12, tests=12)
    half = ladder.dataset(rung, 1, images=12, tests=12)
    assert half.train.images.shape == (12, 32, 32, 3)
    assert half.test.truth.shape[2:] == (4, 4)
    times = whole.train.images.shape[1] // 32
    for large, small in ((whole.train, half.train), (whole.test, half.test)):
        means = large.images.reshape(12, 32, times, 32, times, 3).mean((2, 4))
        # The resizing filter is wider than the square of the mean: 2 to 3 levels apart, and other images are 40 apart.
        assert np.abs(means - small.images).mean() < 6
        expected = {(image, kind, y // times, x // times) for image, kind, y, x in np.argwhere(large.truth)}
        assert set(map(tuple, np.argwhere(small.truth))) == expected


def test_recipes_leave_nothing_to_the_default_of_the_set():
    for recipe in (ladder.NEW_RECIPE, ladder.FIRST_RECIPE, ladder.PAPER_RECIPE):
        config = ladder.TrainingConfig(data="ladder", **recipe)
        assert all(getattr(config, name) == value for name, value in recipe.items())
    assert ladder.TrainingConfig(data="ladder", **ladder.PAPER_RECIPE).encoder == "paper"


@pytest.mark.parametrize("anywhere", [False, True])
def test_the_set_held_back_lies_over_photographs(tmp_path, anywhere):
    pillow = pytest.importorskip("PIL.Image")
    left = np.full((120, 300, 3), 40, np.uint8)
    left[:, 225:] = 200  # the right quarter, of which held-out images are cut
    pillow.fromarray(left).save(tmp_path / "one.png")
    data = held_back.held_back(tmp_path, 2, 20, 10, anywhere=anywhere)
    assert data.train.images.shape == (20, 32, 32, 3)
    assert data.test.truth.shape == (10, 10, 4, 4)
    assert (data.train.truth.any((2, 3)).sum(1) == 2).all()
    assert np.median(data.train.images) == 40
    assert np.median(data.test.images) == 200
    again = held_back.held_back(tmp_path, 2, 20, 10, anywhere=anywhere)
    assert np.array_equal(again.test.images, data.test.images)


def test_a_folder_without_large_photographs_is_refused(tmp_path):
    pillow = pytest.importorskip("PIL.Image")
    with pytest.raises(ValueError, match="holds no photograph"):
        held_back.photographs(tmp_path)
    pillow.new("RGB", (100, 50)).save(tmp_path / "small.png")
    with pytest.raises(ValueError, match=r"small\.png: is 100x50, expected at least 128x32"):
        held_back.photographs(tmp_path)
