"""The program on a tiny set, in this process or in one of its own."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from accel import cli
from accel.training import checkpoint
from tests.training.tiny import tiny_dataset

ROOT = Path(__file__).parents[2]
SMALL = ["--encoder", "small", "--num-parts", "3", "--part-dim", "2", "--device", "cpu", "--batch-size", "8"]
OUR_ERRORS = (ValueError, OSError)


def save(path, **changes):
    """tiny_dataset as a .npz file, with some arrays changed."""
    data = tiny_dataset()
    arrays = {f"{split}_{kind}": getattr(getattr(data, split), kind)
              for split in ("train", "test") for kind in ("images", "labels")}  # fmt: skip
    np.savez(path, **{name: value for name, value in (arrays | changes).items() if value is not None})
    return path


def start(*arguments, torchrun=(), prefix=(), **options):
    """The program in a process of its own, on one thread, which decides how sums are rounded."""
    command = [*prefix, sys.executable, *torchrun, "-m", "accel", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | options.pop("environment", {})
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **pipes)


def wait_until(process, condition, seconds=60):
    """Returns once the condition holds; AssertionError if the process ends or the time is over before that."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.005)


def step_of(folder, steps=3):
    """How many steps the checkpoint of a run has behind it; −1 without one."""
    if not checkpoint.exists(folder):
        return -1
    state = checkpoint.read(folder)
    return state["epoch"] * steps + state["batch"]


def refused(capsys, *arguments):
    """Runs the program in this process, which shall refuse; returns its one sentence."""
    capsys.readouterr()
    status = cli.main([str(argument) for argument in arguments])
    err = capsys.readouterr().err
    assert status == 2, err
    assert err.startswith("patchvae: ")
    assert err.count("\n") == 1, err
    return err.removeprefix("patchvae: ").strip()


def accepted(*arguments):
    """Runs the program in this process, which shall not refuse."""
    assert cli.main([str(argument) for argument in arguments]) == 0


def some(cases, short):
    """Cases of a parametrised test, of which only the first so many belong to the short version."""
    cases = list(cases)
    return cases[:short] + [pytest.param(case, marks=pytest.mark.long) for case in cases[short:]]
