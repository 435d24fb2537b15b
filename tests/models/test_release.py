"""PatchVAE.from_release, on checkpoints that the test writes with the release's names."""

from argparse import Namespace
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F

from accel import PatchVAE
from tests.models.plain import batch_norm, residual_network
from tests.support import assert_close

PARTS, DIM = 3, 2
SHAPES = {
    "features.0.weight": (64, 3, 7, 7),
    "app_mu.0.weight": (PARTS * DIM, 128, 3, 3),
    "app_mu.0.bias": (PARTS * DIM,),
    "app_logvar.0.weight": (PARTS * DIM, 128, 3, 3),
    "app_logvar.0.bias": (PARTS * DIM,),
    "vis_mean_logit.0.weight": (PARTS, 128, 3, 3),
    "vis_mean_logit.0.bias": (PARTS,),
    "decoder.input-conv.weight": (PARTS * DIM, 256, 1, 1),
    "decoder.pyramid-256-128-conv.weight": (256, 128, 4, 4),
    "decoder.pyramid-128-64-conv.weight": (128, 64, 4, 4),
    "decoder.ouput-conv.weight": (64, 3, 4, 4),
    "features.5.0.downsample.0.weight": (128, 64, 1, 1),
}
NORMS = {
    "features.1": 64,
    "features.5.0.downsample.1": 128,
    "decoder.input-batchnorm": 256,
    "decoder.pyramid-128-batchnorm": 128,
    "decoder.pyramid-64-batchnorm": 64,
}
for stage, width in ((4, 64), (5, 128)):
    for block in (0, 1):
        name = f"features.{stage}.{block}"
        SHAPES[f"{name}.conv1.weight"] = (width, 64 if block == 0 else width, 3, 3)
        SHAPES[f"{name}.conv2.weight"] = (width, width, 3, 3)
        NORMS |= {f"{name}.bn1": width, f"{name}.bn2": width}


def release_checkpoint():
    generator = torch.Generator().manual_seed(3)
    state = {}
    for name, shape in SHAPES.items():
        fan = max(1, torch.Size(shape[1:]).numel())
        state[name] = torch.randn(shape, generator=generator) / fan**0.5
    for name, width in NORMS.items():
        for part in ("weight", "bias", "running_mean", "running_var"):
            low = -0.5 if part in ("bias", "running_mean") else 0.5
            state[f"{name}.{part}"] = low + torch.rand(width, generator=generator)
        state[f"{name}.num_batches_tracked"] = torch.tensor(5)
    options = Namespace(
        arch="patchy", num_parts=PARTS, hidden_size=DIM, scale=8, encoder_arch="resnet", decoder_arch="pyramid",
        ngf=64, size=24, temp=1.0, py=0.05,
    )  # fmt: skip
    return {"args": options, "vae_dict": state, "loss": 0.0}


@pytest.fixture(scope="module")
def checkpoint():
    return release_checkpoint()


@pytest.fixture
def write(tmp_path):
    def write(value, **options):
        path = tmp_path / "model_best.pt"
        torch.save(value, path, **options)
        return path

    return write


def changed(checkpoint, *, remove=(), state=None, **options):
    """The checkpoint with other options, with further entries in its state, or without some of its entries."""
    weights = {name: value for name, value in checkpoint["vae_dict"].items() if name not in remove}
    return {"args": Namespace(**vars(checkpoint["args"]) | options), "vae_dict": weights | (state or {})}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
def test_computes_what_the_release_computes(checkpoint, write, zipped):
    path = write(checkpoint, _use_new_zipfile_serialization=zipped)
    model = PatchVAE.from_release(path).double().eval()
    state = {name: value.double() for name, value in checkpoint["vae_dict"].items()}
    images = torch.rand(2, 3, 24, 16, dtype=torch.float64) * 2 - 1

    features = residual_network(images, state, "features.0", "features.1", [("features.4", 2, 1), ("features.5", 2, 2)])
    assert_close("features", model.features(images), features, relative=1e-12)
    logits, mean, log_variance = (
        F.conv2d(features, state[f"{head}.0.weight"], state[f"{head}.0.bias"], padding=1).flatten(2)
        for head in ("vis_mean_logit", "app_mu", "app_logvar")
    )
    weights = logits.sigmoid() / logits.sigmoid().sum(2, keepdim=True)
    weights = weights.repeat_interleave(DIM, 1)
    mean, variance = (weights * mean).sum(2), (weights * log_variance.exp()).sum(2)
    posterior = model.encode(images)
    assert_close("mean", posterior.appearance_mean.flatten(1), mean, relative=1e-12)
    assert_close("variance", posterior.appearance_variance.flatten(1), variance, relative=1e-12)

    code = (mean[..., None] * logits.sigmoid().repeat_interleave(DIM, 1)).unflatten(2, (3, 2))
    assert_close("code", posterior.code, code, relative=1e-12)
    x = F.conv_transpose2d(code, state["decoder.input-conv.weight"])
    x = F.leaky_relu(batch_norm(x, state, "decoder.input-batchnorm"), 0.2)
    for width in (128, 64):
        x = F.conv_transpose2d(x, state[f"decoder.pyramid-{2 * width}-{width}-conv.weight"], stride=2, padding=1)
        x = F.leaky_relu(batch_norm(x, state, f"decoder.pyramid-{width}-batchnorm"), 0.2)
    x = F.conv_transpose2d(x, state["decoder.ouput-conv.weight"], stride=2, padding=1).tanh()
    assert_close("reconstruction", model.reconstruct(images), x, relative=1e-11)


def test_configuration_comes_from_the_checkpoint(checkpoint, write, tmp_path):
    model = PatchVAE.from_release(write(checkpoint))
    assert model.image_size == (24, 24)
    assert (model.num_parts, model.part_dim, model.bottleneck.occurrence_prior) == (PARTS, DIM, 0.05)
    assert (model.config["encoder"], model.bottleneck.variance) == ("release", "arithmetic")
    model.save_pretrained(tmp_path / "ours")
    ours = PatchVAE.from_pretrained(tmp_path / "ours").state_dict()
    assert all(torch.equal(value, ours[name]) for name, value in model.state_dict().items())


def test_only_a_namespace_is_admitted_beside_plain_data(checkpoint, write):
    path = write(checkpoint | {"args": Namespace(**vars(checkpoint["args"]), rate=Fraction(1, 3))})
    with pytest.raises(ValueError, match=r"it holds fractions\.Fraction, and only plain data is read"):
        PatchVAE.from_release(path)


def test_nothing_in_the_file_is_executed(checkpoint, write, tmp_path):
    class Trap:
        def __reduce__(self):
            return open, (str(tmp_path / "executed"), "w")

    path = write(checkpoint | {"vae_dict": {"features.0.weight": Trap()}})
    with pytest.raises(ValueError, match=r"model_best\.pt: .*only plain data is read"):
        PatchVAE.from_release(path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"remove": ["features.1.bias"]}, "'encoder.bn1.bias' is missing"),
        ({"remove": ["decoder.input-conv.weight"]}, "'decoder.input.conv.weight' is missing"),
        (
            {"state": {"app_mu.0.bias": torch.zeros(7)}},
            r"'appearance_mean_head.bias' is \(7,\) torch.float32, not \(6,\)",
        ),
        ({"state": {"decoder.input-conv.weight": torch.zeros(7)}}, "'decoder.input.conv.weight' is"),
        ({"state": {"features.6.0.conv1.weight": torch.zeros(1)}}, "'features.6.0.conv1.weight', which no model"),
        ({"state": {"features.0.weight": [1.0]}}, "'vae_dict' is not a dictionary of tensors"),
        ({"arch": "vae"}, "its arch is 'vae', only 'patchy' can be read"),
        ({"scale": 32}, "its scale is 32, only 8 can be read"),
        ({"num_parts": "3"}, "num_parts must be a positive integer, got '3'"),
        ({"py": None, "size": 20}, "image_size 20 is not divisible by 8"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_checkpoint_that_does_not_fit_is_refused_by_name(checkpoint, write, changes, sentence):
    with pytest.raises(ValueError, match=sentence) as refusal:
        PatchVAE.from_release(write(changed(checkpoint, **changes)))
    assert "model_best.pt: " in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("value", [{"vae_dict": {}}, [1, 2], {"args": {"arch": "patchy"}, "vae_dict": {}}])
def test_other_files_of_tensors_are_refused(write, value):
    with pytest.raises(ValueError, match="not a checkpoint of the authors' release"):
        PatchVAE.from_release(write(value))


def test_a_namespace_without_its_options_is_refused(write):
    options = Namespace(arch="patchy", encoder_arch="resnet", decoder_arch="pyramid", scale=8)
    with pytest.raises(ValueError, match="its args lack 'size'"):
        PatchVAE.from_release(write({"args": options, "vae_dict": {}}))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pt: no such file"):
        PatchVAE.from_release(tmp_path / "nowhere.pt")
