"""Encoders: torchvision's names, the paper's grid, and agreement with a plain implementation."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from accel.models.encoder import PRESETS, Encoder, coarse_grid, coarse_vector
from tests.models.plain import residual_network
from tests.support import assert_close

STRIDES = {"paper": (1, 2), "release": (1, 2), "resnet18": (1, 2, 2, 2), "small": (1, 2), "fine": (1, 1)}


@given(height=st.integers(1, 20), width=st.integers(1, 20), seed=st.integers(0, 99))
def test_coarse_features_are_means_of_the_windows_of_adaptive_pooling(height, width, seed):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(2, 3, height, width, dtype=torch.float64, generator=generator).requires_grad_()
    results = [coarse_vector(features), functional.adaptive_avg_pool2d(features, coarse_grid((height, width)))]
    incoming = torch.randn(results[0].shape, dtype=torch.float64, generator=generator)
    gradients = [torch.autograd.grad((result.flatten(1) * incoming).sum(), features)[0] for result in results]
    assert_close("features", results[0], results[1].flatten(1), relative=1e-12, absolute=1e-14)
    assert_close("gradient", *gradients, relative=1e-12, absolute=1e-14)


def torchvision_resnet18():
    """Names and shapes of torchvision's ResNet-18 without its classifier; published files lack the counters."""
    shapes = {"conv1.weight": (64, 3, 7, 7)}

    def norm(name, width):
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{part}"] = (width,)
        shapes[f"{name}.num_batches_tracked"] = ()

    norm("bn1", 64)
    for stage, width in enumerate((64, 128, 256, 512), start=1):
        for block in (0, 1):
            name = f"layer{stage}.{block}"
            before = width // 2 if stage > 1 and block == 0 else width
            shapes[f"{name}.conv1.weight"] = (width, before, 3, 3)
            norm(f"{name}.bn1", width)
            shapes[f"{name}.conv2.weight"] = (width, width, 3, 3)
            norm(f"{name}.bn2", width)
            if before != width:
                shapes[f"{name}.downsample.0.weight"] = (width, before, 1, 1)
                norm(f"{name}.downsample.1", width)
    return shapes


def randomise_statistics(module):
    """Gives every batch norm different statistics, so that a forgotten or exchanged one is detected."""
    generator = torch.Generator().manual_seed(0)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor, low in (
                (norm.weight, 0.5),
                (norm.bias, -0.5),
                (norm.running_mean, -0.5),
                (norm.running_var, 0.5),
            ):
                tensor.data.uniform_(low, low + 1, generator=generator)
    return module


def test_torchvision_weights_load_strictly():
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.randn(shape, generator=generator) if shape else torch.tensor(7)
        for name, shape in torchvision_resnet18().items()
    }
    encoder = Encoder("resnet18")
    encoder.load_state_dict(weights, strict=True)
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, weights[name]), name


@pytest.mark.parametrize(
    ("preset", "convolutions", "channels", "scale"),
    [("paper", 5, 128, 8), ("release", 9, 128, 8), ("resnet18", 17, 512, 32), ("small", 5, 64, 8), ("fine", 5, 48, 2)],
)
def test_presets_have_the_published_sizes(preset, convolutions, channels, scale):
    encoder = Encoder(preset)
    counted = [m for m in encoder.modules() if isinstance(m, nn.Conv2d) and m.kernel_size != (1, 1)]
    assert (len(counted), encoder.out_channels, encoder.scale) == (convolutions, channels, scale)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("channels", [1, 3])
def test_equals_the_plain_network_on_odd_grids(preset, channels):
    encoder = randomise_statistics(Encoder(preset, channels)).double().eval()
    images = torch.randn(2, channels, 3 * encoder.scale, 1 * encoder.scale, dtype=torch.float64)
    stages = [
        (f"layer{stage}", blocks, stride)
        for stage, (blocks, stride) in enumerate(zip(PRESETS[preset].blocks, STRIDES[preset], strict=True), start=1)
    ]
    features = encoder(images)
    assert features.shape == (2, encoder.out_channels, 3, 1)
    expected = residual_network(images, encoder.state_dict(), "conv1", "bn1", stages, pools=preset != "fine")
    assert_close("features", features, expected, relative=1e-12)


def test_convolutions_start_with_the_variance_that_keeps_gradients_alive():
    # He et al. 2015, fan out: Var = 2 / (outputs · k²).
    for convolution in Encoder("release").modules():
        if isinstance(convolution, nn.Conv2d):
            outputs, _, kernel, _ = convolution.weight.shape
            expected = math.sqrt(2 / (outputs * kernel**2))
            assert convolution.weight.std().item() == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("preset", PRESETS)
def test_stages_hold_every_parameter_once_in_the_order_of_the_data(preset):
    encoder = Encoder(preset)
    staged = [id(p) for stage in encoder.stages() for module in stage for p in module.parameters()]
    assert staged == [id(p) for p in encoder.parameters()]
    assert len(encoder.stages()) == 1 + len(PRESETS[preset].blocks)


def test_evaluation_sees_each_image_alone_and_moves_no_statistics():
    encoder = Encoder("paper").double()
    images = torch.randn(3, 3, 16, 24, dtype=torch.float64)
    fresh = {name: value.clone() for name, value in encoder.named_buffers()}
    encoder(images)
    assert all(not torch.equal(value, fresh[name]) for name, value in encoder.named_buffers())
    encoder.eval()
    moved = {name: value.clone() for name, value in encoder.named_buffers()}
    features = encoder(images)
    assert all(torch.equal(value, moved[name]) for name, value in encoder.named_buffers())
    assert_close("one image", encoder(images[1:2]), features[1:2], relative=1e-12)


def test_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(
        ValueError, match=r"encoder must be one of 'paper', 'release', 'resnet18', 'small', 'fine', got 'resnet50'"
    ):
        Encoder("resnet50")
