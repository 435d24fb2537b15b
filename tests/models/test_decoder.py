"""The decoder: its pyramid of widths, its grid and its range."""

import pytest
import torch
from torch import nn

from accel.models import PatchVAE, patchvae
from accel.models.decoder import Decoder
from tests.support import assert_close


@pytest.mark.parametrize(
    ("scale", "widths"),
    [
        (8, [(96, 256), (256, 128), (128, 64), (64, 3)]),
        (32, [(96, 1024), (1024, 512), (512, 256), (256, 128), (128, 64), (64, 3)]),
    ],
)
def test_channels_halve_down_to_64_and_then_pixels(scale, widths):
    decoder = Decoder(96, 3, scale, width=64)
    convolutions = [m for m in decoder.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert [(m.in_channels, m.out_channels) for m in convolutions] == widths
    assert [m.kernel_size for m in convolutions] == [(1, 1)] + [(4, 4)] * (len(widths) - 1)
    assert all(m.bias is None for m in convolutions)


@pytest.mark.parametrize("scale", [8, 32])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_have_the_grid_times_scale_and_stay_within_the_pixel_range(scale, channels):
    images = Decoder(5, channels, scale, width=64)(100 * torch.randn(2, 5, 3, 1))
    assert images.shape == (2, channels, 3 * scale, scale)
    assert images.abs().max() <= 1


def test_a_cell_reaches_only_the_pixels_that_4x4_kernels_let_it_reach():
    # Three 4×4/2 transposed convolutions: a cell covers its 8 pixels and 7 on either side.
    decoder = Decoder(2, 1, 8, width=64).double().eval()
    code = torch.zeros(1, 2, 1, 5, dtype=torch.float64)
    changed = code.clone()
    changed[..., 2] = 1.0
    columns = (decoder(code) != decoder(changed)).any(2).flatten().nonzero().flatten()
    assert (columns.min().item(), columns.max().item()) == (16 - 7, 23 + 7)


def test_each_normalisation_is_followed_by_a_leaky_slope():
    # One channel alone through the first block: positive values pass, negative ones are divided by five.
    decoder = Decoder(1, 3, 8, width=64).double().eval()
    nn.init.ones_(decoder.input.conv.weight)
    code = torch.linspace(-1, 1, 11, dtype=torch.float64).reshape(1, 1, 1, 11)
    response = decoder.input(code)[0, 0, 0]
    assert_close("leaky", response, torch.where(code > 0, code, 0.2 * code).flatten(), relative=1e-5)


@pytest.mark.parametrize(("decoder", "other"), [("pyramid", "Templates"), ("templates", "Decoder")])
def test_a_model_draws_the_weights_of_its_own_decoder_alone(monkeypatch, decoder, other):
    monkeypatch.setattr(patchvae, other, None)
    assert PatchVAE(image_size=16, num_parts=2, part_dim=1, encoder="small", decoder=decoder).decoder is not None
