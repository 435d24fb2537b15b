"""Event files say what metrics.jsonl says, once, however often a run was stopped; and nobody gets them unasked."""

import dataclasses
import json
import math
import sys

import pytest

from accel.training import event_files, train
from tests.training.tiny import STEPS, tiny_config, tiny_dataset


@pytest.fixture
def accumulator():
    """TensorBoard's reader of event files."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator


def points(accumulator, folder):
    """{tag: [(step, value), …]} of all event files."""
    found = accumulator(str(folder / event_files.FOLDER), size_guidance={"scalars": 0}).Reload()
    return {tag: [(one.step, one.value) for one in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def expected(folder):
    """As `points`, from metrics.jsonl."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    names = [name for name in lines[0] if name not in ("epoch", "step", "compiled", "captured")]
    return {event_files.tag(name): [(line["step"], line[name]) for line in lines] for name in names}


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for tag, values in wanted.items():
        assert [step for step, _ in found[tag]] == [step for step, _ in values]
        for (_, value), (_, other) in zip(found[tag], values, strict=True):
            assert math.isclose(value, other, rel_tol=2**-23)  # which event files round to float32


def test_names_of_charts():
    names = ("train_total", "held_out_psnr", "temperature", "training_time")
    assert [*map(event_files.tag, names)] == ["train/total", "held_out/psnr", "temperature", "training_time"]


def test_a_run_says_in_both_files_the_same(tmp_path, accumulator):
    folder = train(tiny_config(tmp_path / "run", tensorboard=True), tiny_dataset())
    assert_same(points(accumulator, folder), expected(folder))
    assert "held_out/psnr" in expected(folder)


def test_points_of_a_run_that_goes_on_are_there_once(tmp_path, accumulator):
    config = tiny_config(tmp_path / "run", epochs=1, tensorboard=True)
    folder = train(config, tiny_dataset())
    # As if it had been killed between an epoch's event file and a checkpoint from before it.
    lost = event_files.EventFiles(folder, [{"epoch": 2, "step": 2 * STEPS, "train_total": -1.0}])
    lost.close()
    train(dataclasses.replace(config, epochs=3), tiny_dataset(), resume=True)
    assert_same(points(accumulator, folder), expected(folder))
    assert len(points(accumulator, folder)["train/total"]) == 3


def test_who_begins_without_can_go_on_with_it(tmp_path, accumulator):
    config = tiny_config(tmp_path / "run", epochs=1)
    folder = train(config, tiny_dataset())
    assert not (folder / event_files.FOLDER).exists()
    train(dataclasses.replace(config, epochs=2, tensorboard=True), tiny_dataset(), resume=True)
    assert_same(points(accumulator, folder), expected(folder))


def test_what_is_not_finite_is_left_out(tmp_path, accumulator):
    files = event_files.EventFiles(tmp_path, [{"step": 3, "train_total": None, "captured": True, "temperature": 0.5}])
    files.close()
    assert points(accumulator, tmp_path) == {"temperature": [(3, 0.5)]}


def test_without_tensorboard_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    config = tiny_config(tmp_path / "run", tensorboard=True)
    with pytest.raises(ImportError, match=r"tensorboard is missing: pip install tensorboard"):
        train(config, tiny_dataset())
    assert not (tmp_path / "run").exists()
