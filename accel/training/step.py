"""One training step as fast as its device runs it, and the sums of what it reports, without waiting for the device."""

import contextlib
import copy
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from accel.models.autoencoder import scaled_pixels
from accel.ops import Noise
from accel.ops.backend import HAS_TRITON, OLDEST_CAPABILITY, default_backend
from accel.training import processes
from accel.training.alignment import align_channels
from accel.training.capture import Captured
from accel.training.compilation import Compiled
from accel.training.config import TrainingConfig
from accel.training.systems import System


class LossLedger:
    """Sums of the loss terms over images, and the first step at which each was not finite, on the device.

    What is read is that of all processes together, so all have to read it.
    """

    def __init__(self, terms: tuple[str, ...], device: torch.device):
        self.terms = terms
        self.sums = torch.zeros(len(terms) + 1, dtype=torch.float64, device=device)  # the last counts images
        self.first_bad = torch.full((len(terms),), -1, device=device)

    def reset(self) -> None:
        """Begins a new epoch."""
        self.sums.zero_()

    def add(self, losses: dict[str, Tensor], images: int, step: int | Tensor) -> None:
        """Takes the mean terms of a batch of so many images."""
        values = torch.stack([losses[term].detach() for term in self.terms]).double()
        self.sums += torch.cat([values, values.new_ones(1)]) * images
        bad = ~values.isfinite() & (self.first_bad < 0)
        self.first_bad.copy_(torch.where(bad, step, self.first_bad))

    def means(self) -> dict[str, float]:
        """Each term, a mean over images."""
        sums = processes.total(self.sums)
        return dict(zip(self.terms, (sums[:-1] / sums[-1]).tolist(), strict=True))

    @property
    def images(self) -> int:
        """How many there were since the epoch began."""
        return int(processes.total(self.sums)[-1])

    def problem(self) -> tuple[int, str] | None:
        """(step, term) of the first value that was not finite; a part of the loss is named before the total."""
        latest = torch.iinfo(torch.int64).max
        first = -processes.largest(-torch.where(self.first_bad < 0, latest, self.first_bad))
        bad = [(step, term) for step, term in zip(first.tolist(), self.terms, strict=True) if step < latest]
        return min(bad, key=lambda entry: (entry[0], entry[1] == "total"), default=None)


@dataclass(frozen=True)
class Execution:
    """How steps are computed, which changes their speed and their rounding but not what is learned.

    precision: "float32", or "bfloat16": autocast around the forward pass, over float32 weights, statistics, sums
    and optimisers. compile: by torch.compile. graph: each step is one CUDA graph. reasons: for people.
    """

    precision: str
    compile: bool
    graph: bool
    reasons: str

    def autocast(self, device: torch.device) -> torch.autocast:
        """The context in which a step computes: of products and activations in bfloat16, or of nothing."""
        # Weights change between the passes of an adversarial update, so copies of them must not outlive a use.
        return torch.autocast(device.type, torch.bfloat16, self.precision == "bfloat16", cache_enabled=False)


def choose_execution(config: TrainingConfig, device: torch.device) -> Execution:
    """What config.precision and config.compile ask for; where they leave it open, what is fastest on the device."""
    on_gpu = device.type == "cuda"
    modern = on_gpu and torch.cuda.get_device_capability(device) >= OLDEST_CAPABILITY
    precision, compiled = config.precision, config.compile
    if precision != "auto":
        why_precision = "--precision"
    elif modern:
        precision, why_precision = "bfloat16", "the GPU has it"
    else:
        precision, why_precision = "float32", f"bfloat16 is slow on {'this GPU' if on_gpu else 'CPUs'}"
    if compiled is not None:
        why_compiled = "--compile" if compiled else "--no-compile"
    elif on_gpu:
        compiled = modern and HAS_TRITON
        why_compiled = "fewer, larger kernels" if compiled else "it takes Triton and a newer GPU"
    else:
        compiled, why_compiled = False, "a CPU hardly gains"
    graph = "one CUDA graph a step" if on_gpu else "no graph without a GPU"
    if on_gpu and config.deterministic:
        graph += ", deterministic (at the cost of cuDNN's fastest algorithms and of TF32)"
    backend, why_backend = default_backend(device)
    kernels = {"triton": "fused kernels", "torch": f"plain PyTorch ({why_backend})"}[backend]
    reasons = (
        f"{precision} ({why_precision}), {'' if compiled else 'not '}compiled ({why_compiled}), {graph}, "
        f"bottleneck and weighted loss in {kernels}"
    )
    return Execution(precision, compiled, on_gpu, reasons)


def choose_algorithms(deterministic: bool, precision: str) -> None:
    """What a GPU's libraries may do in this process: whatever is fastest, or the same bits every time.

    Beside products of bfloat16 those of float32 may be TF32, which rounds an eighth as coarsely.

    Asked for the same bits, PyTorch raises RuntimeError at an operation that has no such algorithm.
    """
    # Shapes are the same in every step, so trying pays; which algorithm wins is a matter of microseconds, and differs.
    torch.backends.cudnn.benchmark = not deterministic
    if precision == "bfloat16":
        torch.backends.cuda.matmul.allow_tf32 = True
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS's condition, read when it starts
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # our tests do so, a run need not


@contextlib.contextmanager
def flushed_denormals() -> Iterator[None]:
    """A CPU takes numbers below 10⁻³⁸ for zero, as GPUs' fastest functions do.

    Samples of parts that are nowhere are of 10⁻⁴⁰, and a CPU computes with such numbers five times as slowly.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


class TrainingStep:
    """A system's update on the batches of a run, the same on every device, as `execution` says.

    An image's draws are a function of the seed, the step and its place in the global batch, so they do not depend
    on what was drawn before. Seed, step and temperature live on the device, where the step itself advances them,
    as do the sums of the loss: a captured step needs nothing from the host but its batch.
    """

    def __init__(self, system: System, config: TrainingConfig, device: torch.device):
        self.system, self.config = system, config
        self.execution = choose_execution(config, device)
        self.autocast = self.execution.autocast(device)
        self.ledger = LossLedger(system.terms, device)
        self.seed = torch.tensor(config.seed, device=device)
        processes.synchronise_batch_norm(system.networks)
        self.clock = torch.zeros((), dtype=torch.int64, device=device)
        self.number = 0
        self.compute = self._compute
        if self.execution.compile:
            if device.type == "cuda" and self.execution.precision == "bfloat16":
                align_channels(system.networks)
            for group in (g for optimiser in system.optimisers.values() for g in optimiser.param_groups):
                # PyTorch's own fused kernel gives 65,536 numbers to a multiprocessor, the compiler's a thousand.
                group.update(dict(fused=False, foreach=True) if group["capturable"] else {})
            self.compute = Compiled(self._compute, lambda: copy.deepcopy(self.state_dict()), self.load_state_dict)
        self.run = self._run
        if device.type == "cuda":
            choose_algorithms(config.deterministic, self.execution.precision)
        if self.execution.graph:
            self.run = Captured(self._run, device)

    @property
    def number(self) -> int:
        """How many steps were taken since the run began."""
        return self._number

    @number.setter
    def number(self, number: int) -> None:
        self._number = number
        self.clock.fill_(number)

    @property
    def compiled(self) -> bool:
        """Whether steps are compiled: what was chosen, until a compilation fails."""
        return isinstance(self.compute, Compiled) and not self.compute.failed

    @property
    def captured(self) -> bool:
        """Whether steps are replayed as one CUDA graph: from the fourth on, unless the capture has failed."""
        return isinstance(self.run, Captured) and self.run.graph is not None

    def __call__(self, images: Tensor, labels: Tensor | None = None) -> None:
        """The next step: uint8 images (B, C, H, W) and labels int64 (B,), if there are any.

        Of several processes, the one of rank r takes images r · B to (r + 1) · B of the global batch.
        """
        with flushed_denormals():
            self.run(images.contiguous(memory_format=torch.channels_last), labels)
        self._number += 1

    def _run(self, images: Tensor, labels: Tensor | None) -> None:
        with self.autocast:
            self.compute(images, labels)

    def _compute(self, images: Tensor, labels: Tensor | None) -> None:
        noise = Noise(self.seed, self.clock, torch.full_like(self.clock, processes.rank() * len(images)))
        _, losses = self.system.losses(scaled_pixels(images, torch.float32), labels, self.clock, noise)
        self.ledger.add(losses, len(images), self.clock)
        # What is compiled ends here and begins again below: in this function, for one graph before and one after.
        self.system.backward(self.system.descended_loss(losses))
        self.system.move()
        self.clock += 1

    def state_dict(self) -> dict:
        """What `load_state_dict` takes: networks, optimisers, the number of steps, this epoch's sums of losses."""
        return {
            "number": self.number,
            "sums": processes.total(self.ledger.sums),
            "networks": self.system.networks.state_dict(),
            "optimisers": {name: optimiser.state_dict() for name, optimiser in self.system.optimisers.items()},
        }

    def load_state_dict(self, state: dict) -> None:
        """Raises KeyError, RuntimeError or ValueError for the state of another system."""
        if state["sums"].shape != self.ledger.sums.shape:
            raise ValueError(f"sums of {len(state['sums'])} terms, expected {len(self.ledger.sums)}")
        self.system.networks.load_state_dict(state["networks"])
        for name, optimiser in self.system.optimisers.items():
            load_optimiser(optimiser, state["optimisers"][name])
        self.ledger.sums.copy_(state["sums"] if processes.rank() == 0 else torch.zeros_like(state["sums"]))
        self.number = state["number"]
        if isinstance(self.run, Captured):
            self.run.begin_again()


def load_optimiser(optimiser: torch.optim.Optimizer, saved: dict) -> None:
    """Takes up what `state_dict` of the same kind of optimiser gave; its options stay those of this one.

    Raises KeyError or ValueError, having changed nothing, unless every parameter has its state or none has, and each
    tensor of a state is laid out as its parameter: a kernel that updates both would write outside of another one.
    """
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    state = saved["state"]
    if state and state.keys() != set(range(len(parameters))):
        raise ValueError(f"an optimiser has state of {len(state)} parameters, expected {len(parameters)}")
    names = ("momentum_buffer",) if isinstance(optimiser, torch.optim.SGD) else ("step", "exp_avg", "exp_avg_sq")
    for number, kept in state.items():
        if kept.keys() != set(names):
            raise ValueError(f"an optimiser has state {', '.join(kept)}, expected {', '.join(names)}")
        for name, value in kept.items():
            # Adam counts steps in a number of its own.
            like = torch.zeros((), dtype=torch.float32) if name == "step" else parameters[number]
            got, expected = ((t.shape, t.dtype, t.stride()) for t in (value, like))
            if got != expected:
                raise ValueError(f"{name} of parameter {number} is {_layout(value)}, expected {_layout(like)}")
    rates = [group["lr"] for group in optimiser.param_groups]
    optimiser.load_state_dict(optimiser.state_dict() | {"state": state})
    for group, rate in zip(optimiser.param_groups, rates, strict=True):
        group["lr"] = rate  # the tensor that a CUDA graph reads, of which loading makes a copy


def _layout(tensor: Tensor) -> str:
    return f"{tensor.dtype} {tuple(tensor.shape)} with strides {tensor.stride()}"
