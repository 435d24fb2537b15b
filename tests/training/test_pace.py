"""The number of threads is the fastest one within the limit, and measuring does not change the run."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from accel.training import pace
from tests.training.tiny import tiny_config, tiny_dataset

ROOT = Path(__file__).parents[2]


def measured(monkeypatch, seconds, limit, **options):
    """The number of threads chosen if a step takes seconds[threads], measured with a simulated clock."""
    now, threads = [0.0], [limit]

    class Steps:
        batches = property(lambda self: self)

        def epoch(self, number):
            return iter([()])

        def step(self):
            now[0] += seconds[threads[0]]

    monkeypatch.setattr(pace, "Run", lambda config, dataset: Steps())
    monkeypatch.setattr(pace.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(pace.torch, "get_num_threads", lambda: limit)
    monkeypatch.setattr(pace.torch, "set_num_threads", lambda count: threads.__setitem__(0, count))
    chosen = pace.measure_pace(tiny_config("run", **options), tiny_dataset())
    assert threads[0] == limit  # left as it was
    return chosen


@given(times=st.lists(st.floats(0.001, 0.3), min_size=4, max_size=4))
def test_more_threads_only_while_they_are_faster(times):
    seconds = dict(zip((1, 2, 4, 6), times, strict=True))
    with pytest.MonkeyPatch.context() as patch:
        chosen = measured(patch, seconds, 6)
    assert chosen.threads in seconds
    # Up to the one that is chosen, each number was faster than the one before; so none is slower than one thread.
    tried = [count for count in seconds if count <= chosen.threads]
    for few, more in itertools.pairwise(tried):
        assert seconds[few] > 1.04 * seconds[more]
    following = [count for count in seconds if count > chosen.threads][:1]
    assert all(seconds[chosen.threads] < 1.06 * seconds[count] for count in following)
    for count, time in chosen.seconds.items():
        assert time == pytest.approx(seconds[count], rel=1e-6)


def test_named_threads_are_taken_and_a_single_core_is_not_asked(monkeypatch):
    assert measured(monkeypatch, {1: 0.1, 2: 0.5}, 2).threads == 1
    assert measured(monkeypatch, {1: 0.5, 2: 0.1}, 2).threads == 2
    assert measured(monkeypatch, {1: 0.5}, 1).reason == "1 of 1"
    forced = measured(monkeypatch, {1: 0.1, 2: 0.5}, 2, threads=2)
    assert (forced.threads, list(forced.seconds)) == (2, [2])


def test_measuring_leaves_no_trace_in_the_run(tmp_path):
    """Nothing is written, and the caller's random state does not change."""
    config, state = tiny_config(tmp_path / "run"), torch.get_rng_state()
    chosen = pace.measure_pace(config, tiny_dataset())
    assert chosen.seconds[chosen.threads] > 0
    assert torch.equal(torch.get_rng_state(), state)
    assert not config.folder.exists()
    epochs = pace.run_seconds(config, tiny_dataset(), 1.0)
    # Two epochs of three steps of a second, and ten held-out images of 8 a step each at 0.6 of a step's time.
    assert epochs == pytest.approx(2 * (3 + 0.6 * 10 / 8))


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores")
def test_an_option_reaches_pytorch(tmp_path):
    check = (
        "import torch; from accel.training import loop; from tests.training.tiny import tiny_config, tiny_dataset\n"
        f"loop.Run(tiny_config({str(tmp_path)!r}, threads=2), tiny_dataset()); print(torch.get_num_threads())"
    )
    done = subprocess.run(
        [sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.stdout.strip() == "2"
