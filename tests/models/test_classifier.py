"""The classifier of the transfer protocol, and weights of torchvision's ResNet-18 in our encoders."""

import pytest
import torch
from torch.nn import functional as F

from accel.models import Classifier
from accel.models.classifier import DEVIATION, MEAN, load_torchvision
from accel.models.encoder import PRESETS, Encoder
from accel.models.storage import tensors_to_bytes
from tests.models.plain import batch_norm
from tests.models.test_encoder import randomise_statistics
from tests.support import assert_close


@pytest.mark.parametrize("preset", PRESETS)
def test_logits_of_penultimate_features(preset):
    model = Classifier(image_size=(64, 32), channels=1, num_classes=7, encoder=preset).eval()
    images = torch.randint(0, 256, (3, 1, 64, 32), dtype=torch.uint8)
    penultimate = model.penultimate(images)
    assert penultimate.shape == (3, 512)
    assert (penultimate >= 0).all()
    assert torch.equal(model(images), model.output(penultimate))
    assert model(images).shape == (3, 7)


def test_comes_back_from_a_folder(tmp_path):
    model = Classifier(image_size=16, num_classes=3, encoder="small").eval()
    model.save_pretrained(tmp_path)
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(Classifier.from_pretrained(tmp_path).eval()(images), model(images))


def published(path, preset="release", **changes):
    """A file as published by torchvision: the tensors of an encoder for normalised pixels, and of a classifier.

    It is older than the counters of batch norm.
    """
    weights = randomise_statistics(Encoder(preset).double()).state_dict()
    weights = {name: value for name, value in weights.items() if not name.endswith("num_batches_tracked")}
    path.write_bytes(tensors_to_bytes(weights | {"fc.weight": torch.zeros(1000, 512)} | changes))
    return weights


def test_published_weights_see_normalised_pixels(tmp_path):
    weights = published(tmp_path / "resnet18.pth")
    encoder = Encoder("release").double().eval()
    load_torchvision(encoder, tmp_path / "resnet18.pth")
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64) * 2 - 1
    mean, deviation = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (MEAN, DEVIATION))
    normalised = ((images + 1) / 2 - mean) / deviation
    expected = batch_norm(F.conv2d(normalised, weights["conv1.weight"], stride=2, padding=3), weights, "bn1")
    stem = encoder.bn1(encoder.conv1(images))
    inside = slice(2, -2)  # whose 7 × 7 pixels are all in the image
    assert_close("stem", stem[..., inside, inside], expected[..., inside, inside], relative=1e-12)
    assert torch.equal(encoder.layer2[1].conv2.weight, weights["layer2.1.conv2.weight"])


@pytest.mark.parametrize(
    ("preset", "contents", "sentence"),
    [
        ("small", None, r"conv1.weight is \(64, 3, 7, 7\), the encoder has \(32, 3, 7, 7\); the encoders 'release'"),
        ("resnet18", None, r"layer3.0.conv1.weight is missing, the encoder has"),
        ("release", {"weights": 1}, "not a state dict of torchvision's ResNet-18"),
        ("release", {"conv1.weight": torch.full((64, 3, 7, 7), torch.nan)}, "numbers that are not finite"),
    ],
)
def test_other_files_are_refused_and_leave_the_encoder_alone(tmp_path, preset, contents, sentence):
    path = tmp_path / "weights.pth"
    if contents is None or "conv1.weight" in contents:
        published(path, **contents or {})
    else:
        path.write_bytes(tensors_to_bytes(contents))
    encoder = Encoder(preset)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    with pytest.raises(ValueError, match=f"{path}: .*{sentence}" if sentence[0] != "n" else sentence):
        load_torchvision(encoder, path)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
