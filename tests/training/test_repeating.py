"""`verify`: whether a run can be repeated here, and which differences it reports."""

import json

import numpy as np
import pytest
import torch

from accel import cli
from accel.training import record
from tests.faults.common import SMALL, accepted, refused, save
from tests.training.tiny import tiny_dataset


@pytest.fixture
def run(tmp_path):
    data = save(tmp_path / "tiny.npz")
    accepted("train", "--data", data, *SMALL, "--epochs", 1, "--out", tmp_path / "run")
    return tmp_path / "run"


def rewrite(run, change):
    path = run / record.NAME
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def snapshot(run):
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_a_run_repeats_where_it_was_made_and_is_left_alone(run, capsys):
    before = snapshot(run)
    assert cli.main(["verify", str(run)]) == 0
    out = capsys.readouterr().out
    assert "the first 3 steps give bit-identical results here" in out
    assert "same machine and same versions" in out
    assert snapshot(run) == before


def test_every_session_is_recorded_with_its_step(run):
    accepted("train", "--resume", "--out", run, "--epochs", 2)
    known = record.read(run)
    assert [session["step"] for session in known["sessions"]] == [0, 3]
    assert known["sessions"][0]["versions"]["torch"] == torch.__version__
    assert known["sessions"][0]["threads"] == torch.get_num_threads()
    assert known["first"]["steps"] == 3
    assert known["data"]["train_images"].startswith("24 of 16x16 with 3 channels, sha256 ")


def test_first_steps_are_recorded_though_the_run_was_stopped_among_them(run, tmp_path, monkeypatch):
    """The run that takes the last of them records them, with bit-identical results."""
    from accel.training import loop, step
    from tests.training.tiny import tiny_config

    original = step.TrainingStep.__call__

    def call(self, *batch):
        if self.number == 1:
            raise KeyboardInterrupt
        original(self, *batch)

    words = {"epochs": 1, "checkpoint_every": 0.0}
    with monkeypatch.context() as patch:
        patch.setattr(step.TrainingStep, "__call__", call)
        with pytest.raises(KeyboardInterrupt):
            loop.train(tiny_config(tmp_path / "other", **words), tiny_dataset())
    assert "first" not in record.read(tmp_path / "other")
    loop.train(tiny_config(tmp_path / "other", **words), tiny_dataset(), resume=True)
    loop.train(tiny_config(tmp_path / "whole", **words), tiny_dataset())
    assert record.read(tmp_path / "other")["first"] == record.read(tmp_path / "whole")["first"]


def test_other_data_versions_and_weights_are_named(run, tmp_path, capsys):
    rewrite(run, lambda value: value["sessions"][0]["versions"].update(torch="1.0"))
    assert cli.main(["verify", str(run)]) == 0  # a difference that changes nothing is told, and no more
    assert f"from step 0: torch was 1.0, here {torch.__version__}" in capsys.readouterr().out
    rewrite(run, lambda value: value["first"].update(weights="0" * 64))
    sentence = refused(capsys, "verify", run)
    assert "its first 3 steps differ only by rounding" in sentence
    assert "torch was 1.0, here" in sentence
    rewrite(run, lambda value: value["first"].update(loss=1.0))
    assert "the loss of its first 3 steps was 1.0, here" in refused(capsys, "verify", run)
    other = save(tmp_path / "other.npz", test_images=np.zeros_like(tiny_dataset().test.images))
    sentence = refused(capsys, "verify", run, "--data", other)
    assert "the data differ: test images: same number and size" in sentence


def test_a_run_of_an_earlier_version_says_so(run, capsys):
    (run / record.NAME).unlink()
    assert "no record.json" in refused(capsys, "verify", run)
    accepted("measure", run)
    accepted("train", "--resume", "--out", run, "--epochs", 2)
    assert "no record.json with the result of its first steps" in refused(capsys, "verify", run)
