"""The custom training loop gives the same model as `train`."""

import json

import pytest
import torch

from accel import PatchVAE
from accel.data import Batches, Dataset, draw_parts
from accel.training import TrainingConfig
from accel.training import train as library_train
from examples import training_loop
from tests.support import ROUNDOFF

IMAGES, EPOCHS, WARM_UP = 96, 3, 4


def test_it_learns_what_train_learns(tmp_path):
    images = draw_parts(IMAGES)
    # In the library's order of memory: otherwise sums are rounded otherwise, and Adam divides small gradients by their
    # own size, so that the third epoch's loss may differ by 3·10⁻⁵.
    model = training_loop.new_model().to(memory_format=torch.channels_last)
    batches = Batches(images, batch_size=32, seed=training_loop.SEED, flip=False, device="cpu")
    losses = training_loop.train(model, batches, EPOCHS, warm_up=WARM_UP)

    config = TrainingConfig(
        data="drawn",
        encoder="small",
        num_parts=20,
        part_dim=1,
        occurrence="categorical",
        appearance_prior_mean=2.0,
        beta_app=3.0,
        beta_occ=3.0,
        temperature_rate=1e-3,
        temperature_floor=0.3,
        learning_rate=2e-3,
        batch_size=32,
        flip="no",
        epochs=EPOCHS,
        warm_up=WARM_UP,
        device="cpu",
        out=str(tmp_path),
    )
    folder = library_train(config, Dataset("drawn", images, draw_parts(8, first_image=IMAGES)))
    expected = [json.loads(line)["train_total"] for line in (folder / "metrics.jsonl").read_text().splitlines()]

    # 256 unit roundoffs, 1.5·10⁻⁵. A temperature that falls at another rate, or another warm-up, changes the third
    # epoch's loss by 3·10⁻⁴ or more.
    assert losses == pytest.approx(expected, rel=2**8 * ROUNDOFF[torch.float32])


def test_command(tmp_path, capsys):
    folder = tmp_path / "model"
    training_loop.main(train_images=64, epochs=1, folder=str(folder))
    assert capsys.readouterr().out.startswith("epoch 1: ")
    assert PatchVAE.from_pretrained(folder).num_parts == 20
