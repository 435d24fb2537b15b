"""Lower precision, compilation and CUDA graphs agree with plain float32 execution."""

import copy
import functools
import os
import re

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from accel.models import autoencoder
from accel.ops import Noise, bottleneck
from accel.ops import backend as backend_module
from accel.training import TrainingConfig
from accel.training import held_out as held_out_module
from accel.training import step as step_module
from accel.training.config import PARTS_RECIPE
from accel.training.held_out import HeldOut, evaluating
from accel.training.step import TrainingStep, choose_execution
from accel.training.systems import build_system
from tests.support import assert_close, needs_gpu
from tests.training.tiny import identities_of, tiny_config, tiny_dataset

SYSTEMS = ["patchvae+w", "beta-vae"]


def make_step(config, images, device="cpu"):
    device = torch.device(device)
    return TrainingStep(build_system(config, *images.shape[2:], images.shape[1], None, device), config, device)


def batches(count, size=8, device="cpu"):
    """Some batches of the tiny data set, in turn."""
    images = torch.tensor(tiny_dataset().train.images.transpose(0, 3, 1, 2), device=device)
    order = np.random.default_rng(0).permuted(np.tile(np.arange(len(images)), (count, 1)), axis=1)[:, :size]
    return [images[torch.tensor(chosen, device=device)] for chosen in order]


def curve(step, images):
    """Each term after each step: float64 (steps, terms)."""
    rows = []
    for batch in images:
        step.ledger.reset()
        step(batch)
        rows.append(step.ledger.sums[:-1] / step.ledger.sums[-1])
    return torch.stack(rows).cpu()


def assert_follows(got, expected, relative, window=10):
    """Compares means over windows of steps; each term must agree within a fraction of its largest value."""
    got, expected = (c.unfold(0, window, window).mean(-1) for c in (got, expected))
    for term, (mine, theirs) in enumerate(zip(got.T, expected.T, strict=True)):
        assert_close(f"term {term}", mine, theirs, relative=relative)


@pytest.mark.parametrize(("seed", "system"), list(enumerate(SYSTEMS)))
def test_bfloat16_follows_float32(system, seed):
    images = batches(40)
    curves = {}
    for precision in ("float32", "bfloat16"):
        step = make_step(tiny_config("unused", system=system, seed=seed, precision=precision), images[0])
        curves[precision] = curve(step, images)
        assert {p.dtype for p in step.system.model.parameters()} == {torch.float32}
    # Activations carry 8 bits, an error of 2⁻⁹ each; the divergences react to it more than the error does.
    assert_follows(curves["bfloat16"], curves["float32"], 0.1)
    assert_follows(curves["bfloat16"][:, :2], curves["float32"][:, :2], 0.02)
    assert not torch.equal(curves["bfloat16"], curves["float32"])


def test_compiled_is_eager_to_rounding(monkeypatch):
    # Traced, differentiated and decomposed as for a GPU, but run by PyTorch's own kernels: generated C++ takes a
    # minute to compile.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    images = batches(4)
    steps = [make_step(tiny_config("unused", compile=compiled), images[0]) for compiled in (True, False)]
    curves = [curve(step, images) for step in steps]
    assert_follows(*curves, 1e-5, window=1)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2  # before and after the backward pass
    for (name, got), expected in zip(
        steps[0].system.model.named_parameters(), steps[1].system.model.parameters(), strict=True
    ):
        # Adam's first steps are as long for a gradient of roundoff as for any other: up to 2 · lr · steps apart.
        assert (got - expected).abs().mean() < 1e-5, name


def test_number_is_what_the_device_counts():
    images = batches(3)
    step = make_step(tiny_config("unused"), images[0])
    for batch in images:
        step(batch)
    assert step.number == step.clock.item() == 3
    again = make_step(tiny_config("unused"), images[0])
    rate = again.system.optimisers["model"].param_groups[0]["lr"]
    again.load_state_dict(copy.deepcopy(step.state_dict()) | {"number": 7})
    assert again.number == again.clock.item() == 7
    assert again.system.optimisers["model"].param_groups[0]["lr"] is rate


def test_learning_rate_on_the_device_is_read_by_every_step():
    images = batches(2)
    step = make_step(tiny_config("unused"), images[0])
    step(images[0])
    step.system.optimisers["model"].param_groups[0]["lr"].fill_(0.0)
    before = copy.deepcopy(list(step.system.model.parameters()))
    step(images[1])
    for got, expected in zip(step.system.model.parameters(), before, strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ("float32", False, False)),
        ({"precision": "bfloat16"}, ("bfloat16", False, False)),
        ({"compile": True}, ("float32", True, False)),
    ],
)
def test_choice_on_a_cpu_and_its_reasons(options, expected):
    execution = choose_execution(TrainingConfig(**options), torch.device("cpu"))
    assert (execution.precision, execution.compile, execution.graph) == expected
    assert re.fullmatch(
        r"\w+ \([^()]+\), (not )?compiled \([^()]+\), no CUDA graph, "
        r"bottleneck and weighted loss in plain PyTorch \(the fused kernels need a GPU\)",
        execution.reasons,
    )


@pytest.mark.parametrize(
    ("capability", "options", "expected", "kernels"),
    [
        ((9, 0), {}, ("bfloat16", True, True), "fused kernels"),
        ((9, 0), {"precision": "float32", "compile": False}, ("float32", False, True), "fused kernels"),
        ((7, 5), {}, ("float32", False, True), "plain PyTorch (the fused kernels need a GPU of compute capability"),
    ],
)
def test_choice_on_a_gpu(monkeypatch, capability, options, expected, kernels):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(step_module, "HAS_TRITON", True)
    monkeypatch.setattr(backend_module, "HAS_TRITON", True)
    execution = choose_execution(TrainingConfig(**options), torch.device("cuda"))
    assert (execution.precision, execution.compile, execution.graph) == expected
    assert "one CUDA graph per step" in execution.reasons
    assert f"bottleneck and weighted loss in {kernels}" in execution.reasons


@pytest.mark.parametrize(("steps", "compiled"), [(19_999, False), (20_000, True), (None, True)])
def test_short_runs_are_not_compiled_on_a_gpu(monkeypatch, steps, compiled):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(step_module, "HAS_TRITON", True)
    execution = choose_execution(TrainingConfig(), torch.device("cuda"), steps)
    assert execution.compile is compiled
    assert ("19,999 steps" in execution.reasons) is not compiled
    assert choose_execution(TrainingConfig(compile=True), torch.device("cuda"), 1).compile


@pytest.fixture
def library_settings():
    """Restores the settings that choose_algorithms changes."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32, torch.utils.deterministic.fill_uninitialized_memory
    yield
    cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32, torch.utils.deterministic.fill_uninitialized_memory = before
    torch.use_deterministic_algorithms(False)


READING = {"_local_scalar_dense", "nonzero", "equal", "masked_select", "_unique2", "unique_dim", "repeat_interleave"}


class NothingRead(TorchDispatchMode):
    """Raises where a value on the device would be read by the host, which a CUDA graph cannot capture."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function._schema.name.partition("::")[2] not in READING
        if function is torch.ops.aten.index.Tensor:
            assert all(index is None or index.dtype != torch.bool for index in args[1])
        return function(*args, **(kwargs or {}))


# Warm-up is left out: it makes β a tensor, whose value the host checks on a CPU, but not on a GPU.
RECIPE = ("patchvae+w", PARTS_RECIPE | {"warm_up": 0})


@pytest.mark.parametrize(("system", "options"), [*((system, {}) for system in SYSTEMS), RECIPE])
def test_nothing_is_read_while_a_graph_is_captured(system, options, monkeypatch):
    images = batches(1)[0]
    step = make_step(tiny_config("unused", system=system, **options), images)
    known = identities_of(step.system.model, images) if options else None
    _, held_out = held_out_of(system, torch.device("cpu"), 4 * 16 * 16, monkeypatch, **options)
    number, first = torch.tensor(7), torch.tensor(0)
    monkeypatch.setattr(autoencoder, "is_captured", lambda tensor: True)
    monkeypatch.setattr(bottleneck, "check_draw", lambda *_: None)  # looks at a temperature on the host alone
    with NothingRead():
        target = autoencoder.scaled_pixels(images, torch.float32)
        _, losses = step.system.losses(target, known, number, Noise(number, number, first))
        step.ledger.add(losses, len(images), number)
        step.system.backward(step.system.descended_loss(losses))
        with evaluating(held_out.system.networks):
            held_out._see(images, None, number, first)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_gpus_libraries_try_algorithms_unless_the_same_bits_are_asked_for(
    monkeypatch, library_settings, deterministic, precision
):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    torch.backends.cudnn.benchmark = deterministic
    torch.backends.cuda.matmul.allow_tf32 = False
    step_module.choose_algorithms(deterministic, precision)
    assert torch.backends.cuda.matmul.allow_tf32 == (precision == "bfloat16" and not deterministic)
    assert torch.backends.cudnn.benchmark is not deterministic
    assert torch.are_deterministic_algorithms_enabled() is deterministic
    assert ("CUBLAS_WORKSPACE_CONFIG" in os.environ) is deterministic
    if deterministic:
        assert not torch.backends.cudnn.allow_tf32
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    reasons = choose_execution(TrainingConfig(deterministic=deterministic), torch.device("cuda")).reasons
    assert ("deterministic" in reasons) is deterministic


# On a GPU


@pytest.fixture
def exact_convolutions(monkeypatch):
    """Computes float32 convolutions in full float32, without TF32."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def gpu_curve(images, **options):
    step = make_step(tiny_config("unused", device="cuda", **options), images[0], "cuda")
    return step, curve(step, images)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("compiled", [pytest.param(False, id="eager"), pytest.param(True, id="compiled")])
def test_graph_and_bfloat16_follow_float32_eager(system, seed, compiled):
    images = batches(300, device="cuda")
    fast, fast_curve = gpu_curve(images, system=system, seed=seed, compile=compiled)
    assert fast.execution.graph
    assert fast.execution.compile is compiled
    assert fast.run.graph is not None
    slow = make_step(
        tiny_config("unused", device="cuda", system=system, seed=seed, precision="float32", compile=False),
        images[0],
        "cuda",
    )
    slow.run = slow._run
    slow_curve = curve(slow, images)
    assert_follows(fast_curve, slow_curve, 0.15, window=50)
    assert_follows(fast_curve[:, :2], slow_curve[:, :2], 0.03, window=50)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("system", SYSTEMS)
def test_float32_with_a_graph_is_float32_without(system, exact_convolutions):
    images = batches(30, device="cuda")
    options = {"system": system, "precision": "float32", "compile": False}
    graphed, with_graph = gpu_curve(images, **options)
    assert graphed.run.graph is not None
    eager = make_step(tiny_config("unused", device="cuda", **options), images[0], "cuda")
    eager.run = eager._run
    # cuDNN may choose other kernels, whose sums have another order, and Adam's first steps are as long for a gradient
    # of roundoff as for any other.
    assert_follows(with_graph, curve(eager, images), 1e-2, window=10)
    assert graphed.number == graphed.clock.item() == 30


@pytest.mark.gpu
@needs_gpu
def test_a_graph_takes_up_restored_state(exact_convolutions):
    images = batches(20, device="cuda")
    options = {"precision": "float32", "compile": False}
    whole, expected = gpu_curve(images, **options)
    half, _ = gpu_curve(images[:10], **options)
    state = copy.deepcopy(half.state_dict())
    whole.load_state_dict(state)  # into a step that has a graph already
    assert_follows(curve(whole, images[10:]), expected[10:], 1e-2, window=5)
    assert whole.run.graph is not None


@pytest.mark.gpu
@needs_gpu
def test_a_deterministic_graph_follows_the_recipe_of_parts_to_the_same_bits(library_settings):
    images = batches(10, device="cuda")
    ends = []
    for _ in range(2):
        config = tiny_config("unused", device="cuda", deterministic=True, compile=False, **PARTS_RECIPE)
        step = make_step(config, images[0], "cuda")
        for batch in images:
            step(batch, identities_of(step.system.model, batch))
        assert step.captured
        ends.append([parameter.detach().clone() for parameter in step.system.model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))


@pytest.mark.gpu
@needs_gpu
def test_learning_rate_is_read_by_the_graph():
    images = batches(10, device="cuda")
    step, _ = gpu_curve(images, compile=False)
    step.system.optimisers["model"].param_groups[0]["lr"].fill_(0.0)
    before = copy.deepcopy(list(step.system.model.parameters()))
    step(images[0])
    for got, expected in zip(step.system.model.parameters(), before, strict=True):
        assert torch.equal(got, expected)


def held_out_of(system, device, pixels, monkeypatch, **options):
    """Measurements on tiny_dataset's held-out images in batches of so many pixels, and the object that took them."""
    monkeypatch.setattr(held_out_module, "HELD_OUT_PIXELS", pixels)
    config = tiny_config("unused", **options | {"system": system, "batch_size": 4, "device": device.type})
    measure = HeldOut(build_system(config, 16, 16, 3, None, device), tiny_dataset().test, config, device)
    return measure.measure(7), measure


@pytest.mark.parametrize("system", SYSTEMS)
def test_batches_make_no_difference_to_what_is_held_out(system, monkeypatch):
    assert len(tiny_dataset().test) > 8
    whole, _ = held_out_of(system, torch.device("cpu"), 2**20, monkeypatch)
    parts, again = held_out_of(system, torch.device("cpu"), 4 * 16 * 16, monkeypatch)
    assert parts == pytest.approx(whole, rel=1e-5)
    assert again.measure(7) == parts


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize(("system", "options"), [*((system, {}) for system in SYSTEMS), RECIPE])
def test_a_graph_measures_held_out_images_as_the_cpu_does(system, options, monkeypatch, exact_convolutions):
    expected, _ = held_out_of(system, torch.device("cpu"), 4 * 16 * 16, monkeypatch, **options)
    got, again = held_out_of(system, torch.device("cuda"), 4 * 16 * 16, monkeypatch, **options)
    later = again.measure(7)
    assert again.see.graph is not None
    for name in expected:
        assert got[name] == pytest.approx(expected[name], rel=1e-3), name
        assert later[name] == pytest.approx(got[name], rel=1e-5), name  # cuDNN may have chosen other kernels
