"""The experiments on recipes and on busy machines give one row per run, and repeat none."""

import json
import sys

import numpy as np
import pytest
import torch

from accel.training import recipes as chosen
from bench.experiments import busy, photographs, recipes
from tests.training.tiny import tiny_dataset


@pytest.fixture(autouse=True)
def same_threads():
    """Restores the number of threads, a setting of the process that other tests share."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_each_run_is_trained_once_and_gets_a_row(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(chosen.QUICK_STEPS, "cpu", 3)
    data = tiny_dataset()
    arrays = {f"{part}_{kind}": getattr(getattr(data, part), kind) for part in ("train", "test")
              for kind in ("images", "labels")}  # fmt: skip
    np.savez(tmp_path / "squares.npz", **arrays)
    results = tmp_path / "results.json"
    words = ["recipes.py", "--data", f"squares={tmp_path / 'squares.npz'}", "--out", str(tmp_path / "runs")]
    words += ["--results", str(results)]
    for seeds in (["0"], ["0", "1"]):
        monkeypatch.setattr(sys, "argv", [*words, "--seeds", *seeds])
        recipes.main()
    rows = json.loads(results.read_text())["rows"]
    assert [row["seed"] for row in rows] == [0, 1]
    assert all(row["cpu_seconds"] > 0 and row["steps"] >= 3 for row in rows)
    assert all(0 <= row[name] <= 100 for row in rows for name in ("knn", "knn_untrained", "linear"))
    lines = results.with_suffix(".md").read_text().splitlines()
    assert sum(line.startswith("| squares | 24 of 16×16 | quick |") for line in lines) == 2
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1


def test_photographs_are_cut_into_classes_that_share_no_pixel(tmp_path, monkeypatch):
    """Each pixel of the picture encodes its position: training squares lie left of the held-out ones."""
    image_module = pytest.importorskip("PIL.Image")
    ramp = np.broadcast_to(np.linspace(0, 255, 200).astype(np.uint8)[None, :, None], (80, 200, 3))
    for name in ("a.png", "b.png"):
        image_module.fromarray(ramp).save(tmp_path / name)
    out = tmp_path / "out"
    words = ["photographs.py", str(out), str(tmp_path), "--image-size", "16", "--images", "16"]
    monkeypatch.setattr(sys, "argv", [*words, "--names", "a.png", "b.png"])
    photographs.main()
    levels = {
        split: np.stack([np.asarray(image_module.open(path)) for path in (out / split).glob("*/*.png")])
        for split in ("train", "test")
    }
    assert levels["train"].shape == (16, 16, 16, 3)
    assert levels["test"].shape == (4, 16, 16, 3)
    assert levels["train"].max() <= levels["test"].min()


def test_busy_programs_are_ended_and_each_number_of_threads_timed(tmp_path, monkeypatch):
    monkeypatch.setattr(busy, "SECONDS", 0.05)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["busy.py", "--busy", "1", "--results", str(tmp_path / "busy.json")])
    started, original = [], busy.subprocess.Popen
    monkeypatch.setattr(busy.subprocess, "Popen", lambda *a, **k: started.append(original(*a, **k)) or started[-1])
    busy.main()
    (row,) = json.loads((tmp_path / "busy.json").read_text())["results"]
    (program,) = [process for process in started if process.args[0] == sys.executable]  # beside git, for the record
    assert row["busy"] == 1
    assert program.poll() is not None
    assert min(row["one"], row["all"], row["own"]) > 0
    assert not (tmp_path / "runs").exists()
