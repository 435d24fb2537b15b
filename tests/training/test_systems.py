"""Every row of the paper's tables: the losses of its networks, and that nothing else changes."""

import copy
import dataclasses
from unittest import mock

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from accel.models import Classifier, elbo
from accel.models.storage import tensors_to_bytes
from accel.ops import Noise
from accel.training import load_run, loop, step, train
from accel.training.catalogue import SYSTEMS
from accel.training.config import PARTS_RECIPE
from accel.training.interrupt import Stopped
from accel.training.systems import adam, build_system, model_class
from tests.models.test_encoder import randomise_statistics
from tests.support import assert_close
from tests.training.tiny import assert_same_run, identities_of, metrics, tiny_config, tiny_dataset

# Operations that torch.use_deterministic_algorithms(True) refuses on a GPU, of those that a network may use; and
# scatter of a tensor, for which some versions read numbers on the host then, so that no graph can be captured. Bilinear
# interpolation and padding are composed of other operations.
WITHOUT_DETERMINISTIC_FORM = {
    "_adaptive_avg_pool2d_backward",
    "adaptive_max_pool2d_backward",
    "bincount",
    "cumsum",
    "grid_sampler_2d_backward",
    "histc",
    "median",
    "nll_loss2d_forward",
    "put_",
    "scatter.src",
    "upsample_bicubic2d_backward",
    "upsample_linear1d_backward",
}
ADVERSARIAL = ("beta-vae-gan", "patchvae-gan+w")
CPU = torch.device("cpu")


def build(system, **options):
    return build_system(tiny_config("unused", system=system, **options), 16, 16, 3, 4, CPU)


def batch(count=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 3, 16, 16, generator=generator) * 2 - 1
    return images.contiguous(memory_format=torch.channels_last), torch.arange(count) % 4


def gan_losses(networks, config, images, noise):
    """(loss of the VAE, loss of the discriminator), computed from their definitions."""
    out = networks["model"](images, temperature=0.7, noise=noise)
    loss = elbo(out, images, config.beta_app, config.beta_occ, config.weighted).total
    (real, of_image), (fake, of_fake) = (networks["discriminator"](x) for x in (images, out.reconstruction))
    loss = loss - config.adversarial_weight * F.logsigmoid(fake).mean()
    loss = loss + config.feature_weight * (of_image.detach() - of_fake).pow(2).sum() / len(images)
    return loss, -(F.logsigmoid(real) + F.logsigmoid(-fake)).mean()


def bigan_losses(networks, config, images, noise):
    out = networks["model"](images, noise=noise)
    real, fake = networks["discriminator"](images, out.code)[0], networks["discriminator"](out.generated, out.prior)[0]
    return -(F.logsigmoid(-real) + F.logsigmoid(fake)).mean(), -(F.logsigmoid(real) + F.logsigmoid(-fake)).mean()


class Operations(TorchDispatchMode):
    """The names of the operations that PyTorch performs, with and without their overload."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        name = str(operation).removeprefix("aten.")
        self.names |= {name, name.partition(".")[0]}
        return operation(*arguments, **options or {})


@pytest.mark.parametrize("size", [16, 56])  # grids of 2 x 2 and 7 x 7 cells: the second is averaged unevenly
@pytest.mark.parametrize("system", [*SYSTEMS, "recipe of parts"])
def test_no_operation_of_a_step_lacks_a_deterministic_form_on_a_gpu(system, size):
    options = {"system": system} if system in SYSTEMS else PARTS_RECIPE
    training = build_system(tiny_config("unused", **options), size, size, 3, 4, CPU)
    images = torch.rand(4, 3, size, size).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(4) if system in SYSTEMS else identities_of(training.model, images)
    with Operations() as performed:
        terms = update(training, images, labels, 3, Noise(0, 3, 0))
    assert {"convolution", "convolution_backward"} <= performed.names
    assert system in SYSTEMS or terms["identity_cross_entropy"] > 0
    assert performed.names & WITHOUT_DETERMINISTIC_FORM == set()


def update(training, images, labels, step, noise):
    """Takes a training step as a run does; returns the terms of the loss before the update."""
    _, losses = training.losses(images, labels, step, noise)
    training.backward(training.descended_loss(losses))
    training.step_optimisers()
    return {term: value.detach() for term, value in losses.items()}


@pytest.mark.parametrize("system", [*ADVERSARIAL, "bigan"])
def test_each_optimiser_descends_its_own_loss_by_its_own_parameters(system):
    training = build(system, adversarial_weight=3.0, feature_weight=0.5, temperature=0.7, temperature_rate=0)
    networks = copy.deepcopy(training.networks)
    # Only the steps' direction is compared here, and sign(gradient) would hide a wrong size: plain descent.
    training.optimisers = {name: torch.optim.SGD(training.networks[name].parameters(), 1e-3) for name in networks}
    written_out = bigan_losses if system == "bigan" else gan_losses
    for number in (0, 1):
        images, _ = batch(seed=number)
        for parameter in training.networks.parameters():
            parameter.grad = torch.full_like(parameter, 1e6)  # stale
        terms = update(training, images, None, number, Noise(3, number))
        losses = dict(zip(networks, written_out(networks, training.config, images, Noise(3, number)), strict=True))
        gradients = {
            name: torch.autograd.grad(losses[name], list(networks[name].parameters()), retain_graph=True)
            for name in networks
        }
        with torch.no_grad():
            for name, network in networks.items():
                for parameter, gradient in zip(network.parameters(), gradients[name], strict=True):
                    parameter -= 1e-3 * gradient
        assert_close("total", terms["total"], losses["model"], relative=1e-5)
        assert_close("discriminator", terms["discriminator"], losses["discriminator"], relative=1e-5)
        # Weights of order 0.1 to 1, and gradients that are sums over a batch in another order.
        for (name, got), expected in zip(training.networks.named_parameters(), networks.parameters(), strict=True):
            assert_close(name, got, expected, relative=1e-5, absolute=1e-6)
        # The same forward passes move the same statistics: batch norm saw each batch once.
        for (name, got), expected in zip(training.networks.named_buffers(), networks.buffers(), strict=True):
            assert_close(name, got.float(), expected.float(), relative=1e-5)


@pytest.mark.parametrize("system", [*ADVERSARIAL, "bigan"])
@pytest.mark.parametrize("idle", ["model", "discriminator"])
def test_a_network_moves_by_its_own_optimiser_alone(system, idle):
    training = build(system)
    training.optimisers[idle].param_groups[0]["lr"].zero_()
    before = copy.deepcopy(training.networks)
    update(training, *batch(), 0, Noise(0))
    for name, network in training.networks.items():
        moved = [not torch.equal(a, b) for a, b in zip(network.parameters(), before[name].parameters(), strict=True)]
        assert not any(moved) if name == idle else all(moved)


def test_a_gan_without_weights_is_its_vae():
    images, _ = batch()
    gan = build("patchvae-gan", adversarial_weight=0, feature_weight=0)
    vae = build("patchvae")
    for training in (gan, vae):
        for number in range(2):
            update(training, images, None, 0, Noise(1, number))
    # A gradient of zero is added, which may turn a −0 into a 0.
    for (name, got), expected in zip(gan.model.named_parameters(), vae.model.parameters(), strict=True):
        assert_close(name, got, expected, relative=1e-6)


def test_supervised_learns_its_labels_with_dropout_that_has_an_address():
    training = build("supervised", learning_rate=3e-3)
    images, labels = batch(16)
    first = training.losses(images, labels, 0, Noise(0, 1))[1]["total"]
    assert torch.equal(first, training.losses(images, labels, 0, Noise(0, 1))[1]["total"])
    assert not torch.equal(first, training.losses(images, labels, 0, Noise(0, 2))[1]["total"])
    for number in range(30):
        update(training, images, labels, 0, Noise(0, number))
    terms = training.losses(images, labels, 0, Noise(0))[1]
    assert terms["total"] < first / 2
    training.model.eval()
    assert training.losses(images, labels, 0, Noise(0))[1]["error"] == 0


def test_supervised_error_is_the_share_of_wrong_labels_in_percent():
    training = build("supervised")
    training.model.eval()
    images, _ = batch(8)
    labels = training.model(images).argmax(1)
    labels[:3] = (labels[:3] + 1) % 4
    assert training.losses(images, labels, 0, Noise(0))[1]["error"] == 37.5


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_graph_may_capture_adam_on_a_gpu_alone(device):
    with FakeTensorMode(), mock.patch.object(torch.optim, "Adam") as made:
        adam(torch.nn.PReLU(device=device), 1e-3)
    options = made.call_args.kwargs
    assert options["lr"].device.type == device
    assert options["capturable"] == (device == "cuda")


@pytest.mark.parametrize("system", SYSTEMS)
def test_bfloat16_gives_finite_float32_losses(system):
    training = build(system)
    for number in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            terms = update(training, *batch(), 0, Noise(0, number))
        assert all(value.dtype == torch.float32 and value.isfinite() for value in terms.values())
    assert all(value.isfinite().all() for value in training.networks.state_dict().values())


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_trains_stops_and_goes_on(tmp_path, system, monkeypatch):
    def stop(training_step):
        if training_step.number == 2:
            raise Stopped("stopped", 2)

    config = tiny_config(tmp_path / "whole", system=system, checkpoint_every=0)
    whole = train(config, tiny_dataset())
    line = metrics(whole)[-1]
    training = build(system)
    for term in training.terms:
        assert {f"train_{term}", f"held_out_{term}"} <= line.keys()
    assert isinstance(load_run(whole)[0], model_class(system))

    original = step.TrainingStep.__call__
    with monkeypatch.context() as patched:
        patched.setattr(step.TrainingStep, "__call__", lambda self, *b: (stop(self), original(self, *b)))
        stopped = dataclasses.replace(config, out=str(tmp_path / "stopped"))
        with pytest.raises(Stopped):
            train(stopped, tiny_dataset())
    assert_same_run(train(stopped, tiny_dataset(), resume=True), whole)


def test_supervised_needs_labels(tmp_path):
    data = tiny_dataset()
    data = dataclasses.replace(data, train=dataclasses.replace(data.train, labels=None))
    with pytest.raises(ValueError, match="tiny has no labels, which --system supervised needs"):
        loop.open_run(tiny_config(tmp_path, system="supervised"), data)


def test_supervised_starts_from_published_weights(tmp_path):
    path = tmp_path / "resnet18.pth"
    weights = randomise_statistics(Classifier(encoder="release").encoder).state_dict()
    path.write_bytes(tensors_to_bytes(weights))
    config = tiny_config(tmp_path / "run", system="supervised", encoder="release", weights=str(path), epochs=0)
    model, _ = load_run(train(config, tiny_dataset()))
    assert torch.equal(model.encoder.layer2[0].conv1.weight, weights["layer2.0.conv1.weight"])
