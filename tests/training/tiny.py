"""Tiny runs of seconds: few small images and a model with few parts."""

import json

import numpy as np
import torch

from accel.data import Dataset, ImageSet
from accel.training import TrainingConfig, checkpoint, loop

STEPS = 3  # an epoch


def tiny_dataset(seed=0):
    """24 training and 10 held-out images of 16 × 16: noise with a bright square, labelled by the square's half."""
    rng = np.random.default_rng(seed)

    def images(count):
        result = rng.integers(0, 128, (count, 16, 16, 3), dtype=np.uint8)
        places = rng.integers(0, 8, (count, 2))
        for image, (row, column) in zip(result, places, strict=True):
            image[row : row + 8, column : column + 8] += 127
        return ImageSet(result, (places[:, 1] >= 4).astype(np.int64))

    return Dataset("tiny", images(8 * STEPS), images(10))


def tiny_config(out, **options):
    """A configuration for two epochs of STEPS steps on the CPU."""
    defaults = {"encoder": "small", "num_parts": 3, "part_dim": 2, "batch_size": 8, "epochs": 2, "learning_rate": 1e-3}
    return TrainingConfig(**{"data": "tiny", "device": "cpu", "out": str(out)} | defaults | options)


def starting_from(monkeypatch, change):
    """Makes runs start with a model modified by `change`."""
    original = loop.build_system

    def build(*arguments):
        system = original(*arguments)
        with torch.no_grad():
            change(system.model)
        return system

    monkeypatch.setattr(loop, "build_system", build)


def metrics(folder):
    """The lines of metrics.jsonl without measured times."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: v for name, v in line.items() if name not in ("seconds", "images_per_second")} for line in lines]


def assert_same_run(one, other):
    """Checks that weights, optimiser state and metrics are bit-identical."""
    states = [checkpoint.read(folder) for folder in (one, other)]
    for name in ("epoch", "batch", "data"):
        assert states[0][name] == states[1][name]
    for name in ("networks", "optimisers"):
        torch.testing.assert_close(*(state["training"][name] for state in states), rtol=0, atol=0)
    assert metrics(one) == metrics(other)
    weights = [torch.load(folder / "model" / "weights.pt", weights_only=True) for folder in (one, other)]
    torch.testing.assert_close(*weights, rtol=0, atol=0)


def identities_of(model, images):
    """A part, or none, in each cell of each image: int16 (B, h, w)."""
    generator = torch.Generator().manual_seed(0)
    known = torch.randint(-1, 3, (len(images), *model.grid), generator=generator, dtype=torch.int16)
    return known.to(images.device)
