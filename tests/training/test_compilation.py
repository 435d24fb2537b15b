"""A step continues uncompiled if the compiler fails, and is taken exactly once; gradients keep their precision."""

import pytest
import torch

from accel.training import compilation
from accel.training.compilation import Compiled
from accel.training.step import TrainingStep
from accel.training.systems import build_system
from tests.training.tiny import tiny_config

CPU = torch.device("cpu")


def make_step(**options):
    config = tiny_config("unused", **options)
    return TrainingStep(build_system(config, 16, 16, 3, None, CPU), config, CPU)


def batches(count, size=4):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, size, 3, 16, 16), generator=generator, dtype=torch.uint8)


class Breaks(RuntimeError):
    """The exception of a failing compiler."""


def failing_compiler(when):
    """A torch.compile that fails before or after the function has run."""

    def compile(function, **options):
        def compiled(*arguments):
            if when == "after":
                function(*arguments)
            raise Breaks("no compiler here\nand a long story")

        return compiled

    return compile


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("system", ["patchvae+w", "patchvae-gan"])
def test_a_failed_compilation_is_said_once_and_changes_no_step(monkeypatch, capsys, when, system):
    monkeypatch.setattr(torch, "compile", failing_compiler(when))
    plain, broken = make_step(system=system), make_step(system=system, compile=True)
    assert broken.compiled
    assert not plain.compiled
    for images in batches(3):
        plain(images)
        broken(images)
    assert not broken.compiled
    assert capsys.readouterr().err == ("patchvae: warning: training continues uncompiled: Breaks: no compiler here\n")
    assert (broken.number, broken.clock.item()) == (3, 3)
    assert broken.ledger.means() == plain.ledger.means()
    for one, other in zip(plain.system.networks.state_dict().values(), broken.system.networks.state_dict().values(),
                          strict=True):  # fmt: skip
        assert torch.equal(one, other)
    for name, optimiser in plain.system.optimisers.items():
        for one, other in zip(optimiser.state.values(), broken.system.optimisers[name].state.values(), strict=True):
            assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_batch_of_another_size_that_does_not_compile_is_taken_uncompiled(monkeypatch, capsys):
    def compile(function, **options):
        def compiled(images, labels):
            if len(images) == 2:
                raise Breaks("another size")
            function(images, labels)

        return compiled

    monkeypatch.setattr(torch, "compile", compile)
    step = make_step(compile=True)
    images = batches(2)
    step(images[0])
    assert step.compiled
    step(images[1][:2])
    assert not step.compiled
    assert "another size" in capsys.readouterr().err
    assert step.ledger.images == 6


def test_memory_that_runs_out_is_no_failure_of_the_compiler(monkeypatch):
    def compile(function, **options):
        def compiled(*arguments):
            raise torch.OutOfMemoryError("not enough")

        return compiled

    monkeypatch.setattr(torch, "compile", compile)
    with pytest.raises(torch.OutOfMemoryError):
        make_step(compile=True)(batches(1)[0])


def test_gradients_of_what_is_computed_in_float32_stay_in_float32(monkeypatch):
    """Tests the backward pass of a head that runs outside of autocast but is compiled within it."""
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(32, 32))
    x = torch.randn(16, 32)
    found = []

    def step(x):
        hidden = x @ weight  # in bfloat16
        with torch.autocast("cpu", enabled=False):
            loss = (hidden.float() @ weight).square().sum()
        found.append(loss)

    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **options: compile(f, backend="aot_eager", **options))
    gradients = []
    compiled = Compiled(step, lambda: None, lambda _: None)
    for function in (step, compiled):
        found.clear()
        with torch.autocast("cpu", torch.bfloat16):
            function(x)
        with torch.autocast("cpu", enabled=False):
            gradients.append(torch.autograd.grad(found[0], weight)[0])
    assert not compiled.failed
    assert torch.equal(*gradients)
    assert compilation.functorch_config.backward_pass_autocast == "same_as_forward"  # for everyone else
