"""A step consists of forward, backward and Adam, with the scheduled temperature and the noise of the step."""

import copy
import dataclasses
import functools
import math
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from accel.models import elbo, objective
from accel.ops import Noise, weighted_squared_error
from accel.ops.backend import HAS_TRITON
from accel.training import processes
from accel.training.alignment import AlignedConv2d, AlignedConvTranspose2d, align_channels
from accel.training.config import TrainingConfig
from accel.training.schedule import temperature
from accel.training.step import LossLedger, TrainingStep
from accel.training.systems import AutoencoderSystem, build_model, build_system
from tests.support import assert_close
from tests.training.tiny import tiny_config


@pytest.mark.parametrize("system", ["patchvae+w", "patchvae", "beta-vae"])
def test_step_is_what_it_says(system):
    config = tiny_config("unused", system=system, seed=5, beta_app=0.5, beta_occ=2.0, temperature_rate=0.01)
    training = build_system(config, 16, 16, 3, None, torch.device("cpu"))
    by_hand = copy.deepcopy(training.model)
    images = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    step = TrainingStep(training, config, torch.device("cpu"))
    step.number = 7
    step(images)
    assert step.number == 8

    # In the same memory order: a first step of Adam is as long for a gradient of roundoff as for any other.
    pixels = (images.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)
    out = by_hand(pixels, temperature=temperature(7, rate=0.01), noise=Noise(5, 7, 0))
    loss = elbo(out, pixels, 0.5, 2.0, weighted=system.endswith("+w"))
    optimiser = torch.optim.Adam(by_hand.parameters(), lr=1e-3)
    loss.total.backward()
    optimiser.step()
    for (name, weight), expected in zip(training.model.named_parameters(), by_hand.parameters(), strict=True):
        assert_close(name, weight, expected, relative=1e-5)
    means = step.ledger.means()
    for term in training.terms:
        assert math.isclose(means[term], getattr(loss, term).item(), rel_tol=1e-6)
    assert math.isclose(
        means["total"],
        means["reconstruction"] + 0.5 * means["kl_appearance"] + 2.0 * means["kl_occurrence"],
        rel_tol=1e-6,
    )


@pytest.mark.skipif(not HAS_TRITON, reason="needs Triton")
@pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter")
def test_the_default_run_loses_the_same_in_fused_kernels_and_plain_pytorch(monkeypatch):
    """Tests the recipe of the data set parts: categorical occurrences, a prior mean, part_dim 1, the pooled head."""
    config = TrainingConfig(image_size=16, out="unused")
    assert config.occurrence == "categorical"
    images = torch.randint(0, 256, (3, 4, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    losses = []
    for backend in ("torch", "triton"):
        training = build_system(config, 16, 16, 3, None, torch.device("cpu"))
        training.model.backend = backend
        weighted = functools.partial(weighted_squared_error, backend=backend)
        monkeypatch.setattr(objective, "weighted_squared_error", weighted)
        step = TrainingStep(training, config, torch.device("cpu"))
        for batch in images:
            step(batch)
        losses.append(step.ledger.means())
    for term, expected in losses[0].items():
        # Rounding of single steps, which Adam magnifies where gradients are small: they have no size in its steps.
        assert losses[1][term] == pytest.approx(expected, rel=1e-3), term
    # So that the comparison is one: another draw's losses are farther away.
    other = build_system(dataclasses.replace(config, seed=1), 16, 16, 3, None, torch.device("cpu"))
    other.model.load_state_dict(build_system(config, 16, 16, 3, None, torch.device("cpu")).model.state_dict())
    step = TrainingStep(other, dataclasses.replace(config, seed=1), torch.device("cpu"))
    for batch in images:
        step(batch)
    assert step.ledger.means()["kl_occurrence"] != pytest.approx(losses[0]["kl_occurrence"], rel=1e-3)


@pytest.mark.parametrize("count", [1, 2])
def test_every_optimiser_averages_gradients_where_there_are_several_processes(monkeypatch, count):
    averaged = []
    monkeypatch.setattr(processes, "count", lambda: count)
    monkeypatch.setattr(processes.distributed, "all_reduce", averaged.append)
    training = build_system(tiny_config("unused", system="patchvae-gan"), 16, 16, 3, None, torch.device("cpu"))
    training.backward(sum(parameter.sum() for parameter in training.networks.parameters()))
    sizes = [sum(p.numel() for p in training.networks[name].parameters()) for name in training.optimisers]
    assert [len(message) for message in averaged] == (sizes if count > 1 else [])
    # Every process's gradient is 1, and no message came back: half of the sum of two is what one alone has said.
    assert {p.grad.mean().item() for p in training.networks.parameters()} == {1 / count}


@pytest.mark.parametrize("compiled", [True, False])
def test_a_step_is_compiled_where_it_should_be(monkeypatch, compiled):
    monkeypatch.setattr(torch, "compile", lambda function, **_: ("compiled", function))
    config = tiny_config("unused", compile=compiled)
    step = TrainingStep(build_system(config, 16, 16, 3, None, torch.device("cpu")), config, torch.device("cpu"))
    assert step.compiled == compiled
    assert (step.compute.compiled == ("compiled", step._compute)) if compiled else (step.compute == step._compute)


def test_weights_depend_on_the_seed_alone():
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    one = build_model(tiny_config("unused"), 16, 16, 3).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    torch.testing.assert_close(build_model(tiny_config("unused"), 16, 16, 3).state_dict(), one, rtol=0, atol=0)
    other = build_model(tiny_config("unused", seed=1), 16, 16, 3).state_dict()
    assert not torch.equal(one["encoder.conv1.weight"], other["encoder.conv1.weight"])


def test_every_option_of_the_model_reaches_it():
    options = {
        "num_parts": 5,
        "part_dim": 3,
        "encoder": "release",
        "head": "fused",
        "head_kernel_size": 1,
        "variance": "arithmetic",
        "occurrence": "categorical",
        "occurrence_prior": 0.1,
        "appearance_prior_mean": 1.5,
        "straight_through": True,
        "detach_weights": False,
    }
    model = build_model(tiny_config("unused", **options), 16, 16, 3)
    assert {name: model.config[name] for name in options} == options


TERMS = AutoencoderSystem.terms


def loss_with(**terms):
    return {term: torch.tensor(value) for term, value in (dict.fromkeys(TERMS, 1.0) | terms).items()}


def test_ledger_weighs_batches_by_their_images():
    ledger = LossLedger(TERMS, torch.device("cpu"))
    ledger.add(loss_with(reconstruction=2.0), 30, 0)
    ledger.add(loss_with(reconstruction=5.0), 10, 1)
    assert ledger.means()["reconstruction"] == 2.75
    assert ledger.problem() is None
    ledger.reset()
    ledger.add(loss_with(), 1, 2)
    assert ledger.means() == dict.fromkeys(TERMS, 1.0)


def test_ledger_names_the_first_term_that_is_not_finite():
    ledger = LossLedger(TERMS, torch.device("cpu"))
    ledger.add(loss_with(), 1, 3)
    ledger.add(loss_with(kl_occurrence=math.inf, total=math.inf), 1, 4)
    ledger.add(loss_with(**dict.fromkeys(TERMS, math.nan)), 1, 5)
    assert ledger.problem() == (4, "kl_occurrence")
    ledger.reset()
    assert ledger.problem() == (4, "kl_occurrence")  # a run that has diverged stays so


@given(
    channels=st.integers(1, 7),
    width=st.integers(1, 5),
    transposed=st.booleans(),
    stride=st.integers(1, 2),
    seed=st.integers(0, 99),
)
def test_widened_convolutions_compute_the_same(channels, width, transposed, stride, seed):
    torch.manual_seed(seed)
    if transposed:
        layer = torch.nn.ConvTranspose2d(width, channels, 4, stride, padding=1, bias=False).double()
    else:
        layer = torch.nn.Conv2d(channels, width, 3, stride, padding=1, bias=seed % 2 == 0).double()
    images = torch.randn(2, width if transposed else channels, 6, 5, dtype=torch.float64, requires_grad=True)
    results = []
    for compiling in (False, True):
        if compiling:
            align_channels(layer)
        with mock.patch.object(torch.compiler, "is_compiling", lambda compiling=compiling: compiling):
            out = layer(images)
        incoming = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        results.append([out, *torch.autograd.grad(out, [images, *layer.parameters()], incoming)])
    assert type(layer) in (AlignedConv2d, AlignedConvTranspose2d)
    for got, expected in zip(*results, strict=True):
        # The same products in another order, at most 4 · 4 · 7 of them of order 1.
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_a_step_leaves_arithmetic_as_it_was():
    config = tiny_config("unused")
    step = TrainingStep(build_system(config, 16, 16, 3, None, torch.device("cpu")), config, torch.device("cpu"))
    step(torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8))
    assert (torch.tensor([1e-40]) * 0.5).item() > 0.0
