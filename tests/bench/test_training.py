"""Timed training steps begin with the correct loss, wrong or hanging ones are detected, and rows are complete."""

import functools
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch

from bench import compile, parts, tracing, training
from bench import whole_run as whole_runs
from bench.common import steps
from bench.common.isolated import isolated
from bench.whole_run import random_images, whole_run

TINY = steps.Configuration("tiny", 16, 4, 3, 2, "small")


@pytest.mark.parametrize("formulation", ["plain", "release"])
@pytest.mark.parametrize("tuned", [False, True])
def test_plain_steps_begin_with_the_loss_of_patchvae(formulation, tuned, monkeypatch):
    # A tuned step without its compiler and its graph, which need a GPU, still has its precision and memory format.
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    monkeypatch.setattr(steps, "Captured", lambda function, device: function)
    monkeypatch.setattr(torch.optim, "Adam", lambda parameters, lr, **options: torch.optim.SGD(parameters, lr=lr))
    step, images = steps.PlainStep(TINY, formulation, tuned), TINY.images(4)
    steps.check_plain(step, images)
    before = step.model.encoder.conv1.weight.detach().clone()
    step(images)
    assert not torch.equal(step.model.encoder.conv1.weight, before)
    assert step.compiled is tuned


class Other(steps.PlainStep):
    def losses(self, images, **draws):
        return 1.1 * super().losses(images, **draws)


def test_a_training_step_with_another_loss_fails(monkeypatch):
    make = functools.partial(Other, formulation="plain", tuned=False)
    with pytest.raises(AssertionError, match="the first loss is"):
        training.timed(TINY, make, steps.check_plain, 0.0)


def test_a_row_is_measured_in_a_process_of_its_own_and_says_how_it_ran():
    row = training.measure(TINY, "ours", 0.0, 300.0)
    assert "failure" not in row, row
    assert row["images_a_second"] > 0
    if not torch.cuda.is_available():
        assert (row["compiled"], row["captured"]) == (False, False)
        assert row["no_graph_because"] == "a graph needs a GPU"
        assert "uncompiled, no graph: a graph needs a GPU" in training.describe(row, None)


def test_a_row_that_takes_too_long_fails_alone():
    row = training.measure(TINY, "ours", 0.0, 0.01)
    assert row["failure"] == "not done in 0 s"
    assert "FAIL not done" in training.describe(row, None)


@pytest.mark.parametrize(
    ("run", "captured", "why"),
    [
        (SimpleNamespace(graph=object()), True, None),
        (SimpleNamespace(graph=None), False, "the capture failed, and standard error says why"),
    ],
)
def test_how_a_step_ran_is_read_from_it(monkeypatch, run, captured, why):
    monkeypatch.setattr(steps, "Captured", SimpleNamespace)
    expected = {"compiled": True, "captured": captured} | ({"no_graph_because": why} if why else {})
    assert steps.how_it_ran(SimpleNamespace(run=run, compiled=True)) == expected


def test_isolated_functions_give_raise_die_and_hang_alone():
    assert isolated(max, 1, 3) == 3
    assert isolated(os.getpid) != os.getpid()
    with pytest.raises(RuntimeError, match="ValueError"):
        isolated(int, "no number")
    with pytest.raises(RuntimeError, match="ended with status 7"):
        isolated(os._exit, 7)
    with pytest.raises(TimeoutError, match="not done in 1 s"):
        isolated(time.sleep, 60.0, seconds=1.0)


def test_limits_count_a_convolution_by_hand():
    layer = torch.nn.Conv2d(3, 8, 3, padding=1, bias=False)
    images = torch.randn(2, 3, 4, 4)
    operations = 2 * (2 * 16) * 8 * 3 * 9
    inside = (3 * images.numel() + 3 * 2 * 8 * 16 + 3 * layer.weight.numel()) * 4
    assert parts.layers_of(layer, lambda: layer(images), first=False) == ((3 * operations, inside),)
    transposed = torch.nn.ConvTranspose2d(8, 3, 4, 2, padding=1, bias=False)
    ((operations, _),) = parts.layers_of(transposed, lambda: transposed(torch.randn(2, 8, 4, 4)), first=True)
    assert operations == 2 * 2 * (2 * 16) * 8 * 3 * 16


def test_a_trace_counts_nodes_and_the_gaps_between_them(tmp_path):
    # In microseconds: a 0 to 10, b 5 to 8 beside it, a copy 20 to 22, a again 23 to 33; and the host's own.
    events = [
        {"cat": "kernel", "name": "a", "ts": 0.0, "dur": 10.0},
        {"cat": "kernel", "name": "a", "ts": 23.0, "dur": 10.0},
        {"cat": "gpu_memcpy", "name": "copy", "ts": 20.0, "dur": 2.0},
        {"cat": "kernel", "name": "b", "ts": 5.0, "dur": 3.0},
        {"cat": "cpu_op", "name": "host", "ts": -5.0, "dur": 90.0},
        {"name": "no category", "ts": 0.0},
    ]
    found = tracing.summary(events)
    assert (found["nodes"], found["kernels"], found["copies"], found["fills"]) == (4, 3, 1, 0)
    assert [found[key] for key in ("span", "busy", "gaps", "longest_gap")] == pytest.approx(
        [0.033, 0.022, 0.011, 0.010]
    )
    assert next(iter(found["longest"].items())) == ("a", pytest.approx(0.020))
    assert tracing.summary([])["nodes"] == 0
    assert "4 nodes" in tracing.describe({"case": "x", **found, "compiled": True, "captured": True})


def test_a_whole_run_that_fails_is_no_figure(tmp_path):
    with pytest.raises(subprocess.CalledProcessError):
        whole_run(tmp_path / "run", "--batch-size", "0")


def test_a_whole_run_is_one_of_all_its_epochs(tmp_path):
    random_images(tmp_path / "images.npz", 40, 16)
    options = ["--data", tmp_path / "images.npz", "--encoder", "small", "--recipe", "paper", "--epochs", 2]
    seconds, lines = whole_run(tmp_path / "run", *map(str, options))
    assert seconds > 0
    assert [line["epoch"] for line in lines] == [1, 2]


def test_epochs_without_a_graph_fail_on_a_gpu(monkeypatch, capsys):
    lines = [{"captured": True}, {"captured": False}]
    monkeypatch.setattr(whole_runs, "whole_run", lambda *_: (1.5, lines))
    monkeypatch.setattr(sys, "argv", ["whole_run.py", "--parts"])
    monkeypatch.setattr(whole_runs, "CUDA", False)
    whole_runs.main()
    assert "2 epochs, 1 of them in a CUDA graph, of the default run" in capsys.readouterr().out
    monkeypatch.setattr(whole_runs, "CUDA", True)
    with pytest.raises(SystemExit, match="1 of 2 epochs ran without a CUDA graph"):
        whole_runs.main()


def test_a_step_is_compiled_in_advance_in_a_process_of_its_own():
    row = compile.compile_step(steps.SMALL[0], "ours")
    assert "failure" not in row
    assert row["seconds"] > 0
    row = compile.compile_step(steps.SMALL[0], "no such contender")
    assert "no such contender" in row["failure"]


def test_compiled_contenders_are_those_that_are_timed(monkeypatch):
    monkeypatch.setattr(steps, "CUDA", True)
    monkeypatch.setattr(steps, "configurations", lambda: steps.TABLE)
    for quick in (True, False):
        compiled = list(steps.compiled_contenders(quick))
        assert (steps.TABLE[0], "ours") in compiled
        assert (steps.TABLE[0], "release tuned") in compiled
        assert all(name in steps.contenders(c == steps.TABLE[0], quick) for c, name in compiled)
        assert not {"release", "plain", "ours, float32, uncompiled"} & {name for _, name in compiled}
