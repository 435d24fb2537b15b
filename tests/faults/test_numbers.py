"""Numbers at their limits, in whole runs: values that stay finite, and the one sentence where they do not."""

import json

import numpy as np
import pytest
import torch

from accel.data import Dataset, ImageSet
from accel.training import TrainingConfig, checkpoint, train

BATCH, EPOCHS = 2, 50


@pytest.mark.parametrize("steps", [20, pytest.param(50_000, marks=pytest.mark.long)])
@pytest.mark.parametrize("occurrence", ["bernoulli", "categorical"])
def test_bfloat16_at_a_low_temperature(tmp_path, occurrence, steps, seen):
    """A term of the loss that is not finite in any step, or a weight at the end of an epoch, ends a run."""
    rng = np.random.default_rng(0)
    sizes = BATCH * steps // (EPOCHS if steps > EPOCHS else 1), 8
    images = [ImageSet(rng.integers(0, 256, (count, 8, 8, 3), np.uint8)) for count in sizes]
    config = TrainingConfig(
        data="noise", encoder="small", num_parts=2, part_dim=2, batch_size=BATCH, device="cpu", precision="bfloat16",
        epochs=EPOCHS if steps > EPOCHS else 1, temperature=0.1, occurrence=occurrence, learning_rate=1e-3,
        checkpoint_every=1e6, out=str(tmp_path / "run"),
    )  # fmt: skip
    train(config, Dataset("noise", *images))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == steps
    assert lines[0]["temperature"] == lines[-1]["temperature"] == 0.1
    assert all(value is not None for line in lines for value in line.values())
    training = checkpoint.read(tmp_path / "run")["training"]
    for state in (training["networks"], training["optimisers"]["model"]["state"]):
        assert all(value.isfinite().all() for value in tensors(state))
    seen("steps in bfloat16 at temperature 0.1", "no value that is not finite", steps)


def tensors(state):
    """The tensors of nested dictionaries."""
    for value in state.values():
        if isinstance(value, dict):
            yield from tensors(value)
        elif isinstance(value, torch.Tensor):
            yield value
