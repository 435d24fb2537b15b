"""The training step in its fastest form for the device, and sums of its losses, without synchronisation."""

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

# Of a run that is compiled on a GPU by default: compilation takes about a minute, a small step about a millisecond.
COMPILED_STEPS = 20_000


class LossLedger:
    """Sums of the loss terms over images, and the first step at which each was not finite, on the device.

    Reading sums over all processes, so all processes have to read.
    """

    def __init__(self, terms: tuple[str, ...], device: torch.device):
        self.terms = terms
        self.sums = torch.zeros(len(terms) + 1, dtype=torch.float64, device=device)  # the last counts images
        self.first_bad = torch.full((len(terms),), -1, device=device)

    def reset(self) -> None:
        """Resets the sums for a new epoch."""
        self.sums.zero_()

    def add(self, losses: dict[str, Tensor], images: int, step: int | Tensor) -> None:
        """Adds the mean terms of a batch of `images` images."""
        values = torch.stack([losses[term].detach() for term in self.terms]).double()
        self.sums += torch.cat([values, values.new_ones(1)]) * images
        bad = ~values.isfinite() & (self.first_bad < 0)
        self.first_bad.copy_(torch.where(bad, step, self.first_bad))

    def means(self) -> dict[str, float]:
        """{term: mean over images}."""
        sums = processes.total(self.sums)
        return dict(zip(self.terms, (sums[:-1] / sums[-1]).tolist(), strict=True))

    @property
    def images(self) -> int:
        """Number of images since the epoch began."""
        return int(processes.total(self.sums)[-1])

    def problem(self) -> tuple[int, str] | None:
        """(step, term) of the first value that was not finite; a single term takes precedence over the total."""
        latest = torch.iinfo(torch.int64).max
        first = -processes.largest(-torch.where(self.first_bad < 0, latest, self.first_bad))
        bad = [(step, term) for step, term in zip(first.tolist(), self.terms, strict=True) if step < latest]
        return min(bad, key=lambda entry: (entry[0], entry[1] == "total"), default=None)


@dataclass(frozen=True)
class Execution:
    """How steps are executed, which changes speed and rounding, but not the mathematics.

    precision: "float32", or "bfloat16" for autocast of the forward pass, with float32 weights, statistics, sums and
    optimisers. compile: whether to use torch.compile. graph: whether each step is one CUDA graph. reasons: text for the
    log.
    """

    precision: str
    compile: bool
    graph: bool
    reasons: str

    def autocast(self, device: torch.device) -> torch.autocast:
        """The context in which a step computes: products and activations in bfloat16, if that is the precision."""
        # Weights change between the passes of an adversarial update, so casts of them must not be cached.
        return torch.autocast(device.type, torch.bfloat16, self.precision == "bfloat16", cache_enabled=False)


def choose_execution(config: TrainingConfig, device: torch.device, steps: int | None = None) -> Execution:
    """The execution by config.precision and config.compile; if these are automatic, the fastest on the device.

    steps: number of steps of the run, if known. Short runs are not compiled.
    """
    on_gpu = device.type == "cuda"
    modern = on_gpu and torch.cuda.get_device_capability(device) >= OLDEST_CAPABILITY
    precision, compiled = config.precision, config.compile
    if precision != "auto":
        why_precision = "--precision"
    elif modern:
        precision, why_precision = "bfloat16", "supported by the GPU"
    else:
        precision, why_precision = "float32", f"bfloat16 is slow on {'this GPU' if on_gpu else 'CPUs'}"
    if compiled is not None:
        why_compiled = "--compile" if compiled else "--no-compile"
    elif on_gpu:
        compiled = modern and HAS_TRITON
        why_compiled = "fewer, larger kernels" if compiled else "needs Triton and a newer GPU"
        if compiled and steps is not None and steps < COMPILED_STEPS:
            compiled, why_compiled = False, f"would take longer than it saves in {steps:,} steps"
    else:
        compiled, why_compiled = False, "hardly faster on a CPU"
    graph = "one CUDA graph per step" if on_gpu else "no CUDA graph"
    if on_gpu and config.deterministic:
        graph += ", deterministic (without cuDNN's fastest algorithms and TF32)"
    backend, why_backend = default_backend(device)
    kernels = {"triton": "fused kernels", "torch": f"plain PyTorch ({why_backend})"}[backend]
    reasons = (
        f"{precision} ({why_precision}), {'' if compiled else 'not '}compiled ({why_compiled}), {graph}, "
        f"bottleneck and weighted loss in {kernels}"
    )
    return Execution(precision, compiled, on_gpu, reasons)


def choose_algorithms(deterministic: bool, precision: str) -> None:
    """Configures the GPU's libraries in this process: the fastest algorithms, or deterministic ones.

    In bfloat16 runs, float32 products may use TF32, whose rounding is eight times as fine as that of bfloat16.

    With deterministic algorithms, PyTorch raises RuntimeError for an operation that has none.
    """
    # Shapes are the same in every step, so benchmarking pays off; which algorithm is fastest varies between runs.
    torch.backends.cudnn.benchmark = not deterministic
    if precision == "bfloat16":
        torch.backends.cuda.matmul.allow_tf32 = True
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # required by cuBLAS, which reads it at its start
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # only needed in tests


@contextlib.contextmanager
def flushed_denormals() -> Iterator[None]:
    """A context in which the CPU flushes denormal numbers, below 10⁻³⁸, to zero, as fast GPU functions do.

    Samples of parts that do not occur are about 10⁻⁴⁰, and a CPU is five times slower with such numbers.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


class TrainingStep:
    """The update of a system on a batch, the same on every device, executed as in `execution`.

    The noise of an image is a function of the seed, the step and the image's position in the global batch, so it does
    not depend on earlier random numbers. Seed, step, temperature and the sums of the loss are on the device, where
    the step updates them: a captured step needs only its batch from the host.
    """

    def __init__(self, system: System, config: TrainingConfig, device: torch.device, steps: int | None = None):
        self.system, self.config = system, config
        self.execution = choose_execution(config, device, steps)
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
                # PyTorch's fused kernel processes 65,536 numbers per multiprocessor, the compiler's a thousand.
                group.update(dict(fused=False, foreach=True) if group["capturable"] else {})
            self.compute = Compiled(self._compute, lambda: copy.deepcopy(self.state_dict()), self.load_state_dict)
        self.run = self._run
        if device.type == "cuda":
            choose_algorithms(config.deterministic, self.execution.precision)
        if self.execution.graph:
            self.run = Captured(self._run, device)

    @property
    def number(self) -> int:
        """Number of steps since the run began."""
        return self._number

    @number.setter
    def number(self, number: int) -> None:
        self._number = number
        self.clock.fill_(number)

    @property
    def compiled(self) -> bool:
        """Whether steps are compiled: as chosen, until a compilation fails."""
        return isinstance(self.compute, Compiled) and not self.compute.failed

    @property
    def captured(self) -> bool:
        """Whether steps are replayed as one CUDA graph: from the fourth step on, unless the capture failed."""
        return isinstance(self.run, Captured) and self.run.graph is not None

    def __call__(self, images: Tensor, labels: Tensor | None = None) -> None:
        """Takes the next step on uint8 images (B, C, H, W) and labels as in `System.losses`.

        With several processes, rank r takes images r · B to (r + 1) · B of the global batch.
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
        # Compilation is interrupted here, which gives one graph before and one after the backward pass.
        self.system.backward(self.system.descended_loss(losses))
        self.system.step_optimisers()
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
            raise ValueError(f"{len(state['sums'])} sums of loss terms, expected {len(self.ledger.sums)}")
        self.system.networks.load_state_dict(state["networks"])
        for name, optimiser in self.system.optimisers.items():
            load_optimiser(optimiser, state["optimisers"][name])
        self.ledger.sums.copy_(state["sums"] if processes.rank() == 0 else torch.zeros_like(state["sums"]))
        self.number = state["number"]
        if isinstance(self.run, Captured):
            self.run.begin_again()


def load_optimiser(optimiser: torch.optim.Optimizer, saved: dict) -> None:
    """Loads the state of an optimiser of the same kind; keeps the options of this one.

    Raises KeyError or ValueError, without changing anything, unless all parameters or none have state, and each
    tensor of a state has the layout of its parameter: otherwise a kernel that updates both would write out of bounds.
    """
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    state = saved["state"]
    if state and state.keys() != set(range(len(parameters))):
        raise ValueError(f"an optimiser has the state of {len(state)} parameters, expected {len(parameters)}")
    names = ("momentum_buffer",) if isinstance(optimiser, torch.optim.SGD) else ("step", "exp_avg", "exp_avg_sq")
    for number, kept in state.items():
        if kept.keys() != set(names):
            raise ValueError(f"an optimiser has state {', '.join(kept)}, expected {', '.join(names)}")
        for name, value in kept.items():
            # Adam has a separate counter of steps.
            like = torch.zeros((), dtype=torch.float32) if name == "step" else parameters[number]
            got, expected = ((t.shape, t.dtype, t.stride()) for t in (value, like))
            if got != expected:
                raise ValueError(f"{name} of parameter {number} is {_layout(value)}, expected {_layout(like)}")
    rates = [group["lr"] for group in optimiser.param_groups]
    optimiser.load_state_dict(optimiser.state_dict() | {"state": state})
    for group, rate in zip(optimiser.param_groups, rates, strict=True):
        group["lr"] = rate  # the tensor that a CUDA graph reads, which loading would replace by a copy


def _layout(tensor: Tensor) -> str:
    return f"{tensor.dtype} {tuple(tensor.shape)} with strides {tensor.stride()}"
