"""The custom model with the fused bottleneck learns, with gradients for all parameters, in both backends."""

import pytest
import torch

from accel import Noise, ops
from examples import fused_bottleneck as example
from tests.kernels.common import DEVICE
from tests.support import ROUNDOFF, assert_close


@pytest.fixture
def model():
    torch.manual_seed(0)
    return example.OwnModel()


def test_images_are_bars():
    cells = example.draw_bars(5, seed=1).unfold(2, 8, 8).unfold(3, 8, 8)
    inked = cells.mean((4, 5))
    assert cells.shape == (5, 1, 4, 4, 8, 8)
    assert set(inked.flatten().tolist()) == {-1.0, 0.0}  # empty, or half of it


def test_gradients_reach_every_parameter(model):
    example.train(model, steps=1, batch_size=2)
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


def test_it_learns(model):
    losses = example.train(model, steps=60)
    # Painting nothing at all, −1 everywhere, costs the ink, which is half of two thirds of the cells.
    blank = example.draw_bars(32, seed=0)
    nothing = ops.weighted_squared_error(torch.full_like(blank, -1.0), blank).mean().item()
    assert losses[-1] < nothing / 2 < losses[0]


def test_the_head_s_weights_pool_as_its_maps_would(model):
    images, noise = example.draw_bars(3, seed=2), Noise(seed=0, step=5)
    features = model.features(images)
    mean, log_variance = model.how(features).chunk(2, 1)
    expected = ops.patch_bottleneck(model.where(features), mean, log_variance, temperature=0.5, noise=noise)
    _, latent = model(images, noise)
    # Sums over 16 cells and 32 channels, in another order; the sample is a sigmoid of an argument divided by τ = ½.
    for name in ("code", "kl_appearance", "kl_occurrence"):
        assert_close(name, getattr(latent, name), getattr(expected, name), relative=512 * ROUNDOFF[torch.float32])


def test_the_kernels_give_the_same(model, monkeypatch):
    images, noise = example.draw_bars(2, seed=3), Noise(seed=0, step=5)
    expected, latent = model(images, noise)

    def fused(*arguments, **options):
        return ops.pooled_patch_bottleneck(*arguments, **options, backend="triton")

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # the encoder's convolutions, on a GPU
    monkeypatch.setattr(example, "pooled_patch_bottleneck", fused)
    reconstruction, fused_latent = model.to(DEVICE)(images.to(DEVICE), noise)
    assert_close("reconstruction", reconstruction, expected, relative=4096 * ROUNDOFF[torch.float32])
    assert_close("code", fused_latent.code, latent.code, relative=4096 * ROUNDOFF[torch.float32])


def test_command(capsys):
    example.main(steps=2)
    assert capsys.readouterr().out.count("nats per image") == 3
