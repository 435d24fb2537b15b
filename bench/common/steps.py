"""Training steps to be timed: ours, and other implementations.

`plain` is straightforward PyTorch from the equations; `release` follows the authors' description, including its second
pass through the decoder; `tuned` is the plain step, hand-tuned with bfloat16, channels-last, compilation, cuDNN's
fastest algorithms, fused Adam and a CUDA graph. The first loss of each is checked.
"""

import functools
from dataclasses import dataclass, replace

import torch

from accel import ops
from accel.models import PatchVAE, elbo
from accel.models.autoencoder import scaled_pixels
from accel.training import TrainingConfig
from accel.training.capture import Captured
from accel.training.catalogue import SYSTEMS
from accel.training.step import TrainingStep, choose_algorithms
from accel.training.systems import build_system
from bench.common import formulations
from bench.common.timing import CUDA, DEVICE

MAIN = "patchvae+w"
TEMPERATURE, TOLERANCE = 1.0, 0.02  # bfloat16 activations in the first loss
CLASSES = 10


@dataclass(frozen=True)
class Configuration:
    """The sizes of a run."""

    short: str  # its name on the command line
    pixels: int
    batch: int
    parts: int
    part_dim: int
    encoder: str

    @property
    def name(self):
        return f"{self.pixels} px B{self.batch} N{self.parts} D{self.part_dim} {self.encoder}"

    def training(self, system=MAIN, **options):
        return TrainingConfig(
            data="random images",
            system=system,
            encoder=self.encoder,
            num_parts=self.parts,
            part_dim=self.part_dim,
            batch_size=self.batch,
            device=DEVICE,
            **options,
        )

    def with_batch(self, batch):
        return replace(self, batch=batch)

    def images(self, count):
        """uint8 (count, 3, H, W) on the device, channels last."""
        generator = torch.Generator(DEVICE).manual_seed(0)
        shape = count, self.pixels, self.pixels, 3
        images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator, device=DEVICE)
        return images.permute(0, 3, 1, 2)


# Those of the table of others' measurements, whose encoder is the release's; its grid of 7 × 7 is a ResNet-18's.
TABLE = [
    Configuration("32px-b128", 32, 128, 16, 6, "release"),
    Configuration("32px-b1024", 32, 1024, 16, 6, "release"),
    Configuration("28x28", 224, 128, 64, 16, "release"),
    Configuration("7x7", 224, 256, 64, 16, "resnet18"),
]
SMALL = [Configuration("small", 32, 32, 16, 6, "small")]  # for a CPU


def configurations(cuda=CUDA):
    return TABLE if cuda else SMALL


def chosen(names):
    """The configurations of these short names, all if there are none."""
    return [c for c in configurations() if not names or c.short in names]


def our_step(configuration, system=MAIN, **options):
    config = configuration.training(system, **options)
    device = torch.device(DEVICE)
    size = configuration.pixels
    return TrainingStep(build_system(config, size, size, 3, CLASSES, device), config, device)


class PlainStep:
    """The same step without this project's operators and training; layers and first weights are PatchVAE's."""

    def __init__(self, configuration, formulation, tuned):
        torch.manual_seed(0)
        variance = "arithmetic" if formulation == "release" else "geometric"
        self.model = PatchVAE(
            image_size=configuration.pixels,
            num_parts=configuration.parts,
            part_dim=configuration.part_dim,
            encoder=configuration.encoder,
            variance=variance,
        ).to(DEVICE)
        self.released = formulation == "release"
        self.bottleneck = getattr(formulations, f"{formulation}_bottleneck")
        self.weighted_error = getattr(formulations, f"{formulation}_weighted_error")
        self.compiled = tuned
        self.autocast = torch.autocast(DEVICE, torch.bfloat16, enabled=tuned)
        self.compute, self.run = self.losses, self.step
        if tuned:
            choose_algorithms(False, "bfloat16")
            self.model.to(memory_format=torch.channels_last)
            self.compute = torch.compile(self.losses, dynamic=False)
            self.run = Captured(self.step, torch.device(DEVICE))
        options = {"fused": True, "capturable": True} if tuned else {}
        self.optimiser = torch.optim.Adam(self.model.parameters(), lr=1e-4, **options)

    def losses(self, images, **draws):
        """(B,)"""
        model, images = self.model, images.float() / 127.5 - 1
        features = model.encoder(images)
        heads = model.occurrence_head, model.appearance_mean_head, model.appearance_log_variance_head
        maps = [head(features) for head in heads]
        code, _, _, *divergences = self.bottleneck(*maps, TEMPERATURE, model.bottleneck.occurrence_prior, **draws)
        reconstruction = model.decoder(code)
        if self.released:
            reconstruction = model.decoder(code)
        return self.weighted_error(reconstruction, images)[0] + sum(divergences)

    def step(self, images):
        self.optimiser.zero_grad(set_to_none=True)
        with self.autocast:
            loss = self.compute(images).mean()
        loss.backward()
        self.optimiser.step()

    def __call__(self, images, labels=None):
        self.run(images)


def check_plain(step, images, labels=None):
    """Raises AssertionError unless the loss before the first step is that of PatchVAE with the same random numbers."""
    noise, model = ops.Noise(), step.model
    cells = model.grid[0] * model.grid[1]
    uniform = ops.occurrence_noise(noise, len(images), model.num_parts, cells, device=images.device)
    normal = ops.appearance_noise(noise, len(images), model.num_parts, model.part_dim, device=images.device)
    with torch.no_grad(), step.autocast:
        got = step.losses(images, uniform=uniform, normal=normal).mean().item()
    with torch.no_grad():
        expected = elbo(model(images, TEMPERATURE, noise), images).total.item()
    compare(got, expected)


def check_ours(step, images, labels=None):
    """Takes the first step; raises AssertionError unless its loss is that of its model in float32."""
    with torch.no_grad():
        noise = ops.Noise(step.config.seed, 0)
        target = scaled_pixels(images, torch.float32)
        _, losses = step.system.losses(target, None, step.config.temperature, noise)
    expected = losses["total"].item()
    step.ledger.reset()
    step(images, labels)
    compare(step.ledger.means()["total"], expected)


def compare(got, expected):
    if not abs(got - expected) <= TOLERANCE * abs(expected):
        raise AssertionError(f"the first loss is {got:.6g}, should be {expected:.6g}")


def how_it_ran(step):
    """Whether a step was compiled, whether it was one CUDA graph, and if not why."""
    captured = getattr(step.run, "graph", None) is not None
    row = {"compiled": step.compiled, "captured": captured}
    if not captured:
        if isinstance(step.run, Captured):
            why = "the capture failed, and standard error says why"
        else:
            why = "a graph needs a GPU" if not CUDA else "its step is not captured"
        row["no_graph_because"] = why
    return row


# Who is timed, the most telling first


@dataclass(frozen=True)
class Contender:
    """An implementation: how to make its step, its check, and whether it is also timed with data loading."""

    make: object
    check: object
    data: bool = False
    compiled: bool = True  # on a GPU


def _plain(formulation, tuned):
    return Contender(functools.partial(PlainStep, formulation=formulation, tuned=tuned), check_plain, compiled=tuned)


CONTENDERS = {
    "ours": Contender(our_step, check_ours, data=True),
    "release tuned": _plain("release", True),
    "release": _plain("release", False),
    "plain tuned": _plain("plain", True),
    "plain": _plain("plain", False),
    "ours, float32, uncompiled": Contender(
        functools.partial(our_step, precision="float32", compile=False), check_ours, compiled=False
    ),
    **{
        f"ours, {system}": Contender(functools.partial(our_step, system=system), lambda *_: None)
        for system in SYSTEMS
        if system != MAIN
    },
}


def contenders(first, quick):
    """Names of those that are timed with a configuration; the other systems with the first one alone."""
    names = [name for name in CONTENDERS if name.removeprefix("ours, ") not in SYSTEMS or (first and not quick)]
    if not CUDA:
        return [name for name in names if "tuned" not in name and "uncompiled" not in name]
    return names[: 3 if first else 2] if quick else names


def compiled_contenders(quick):
    """(configuration, name) of all contenders that bench/training.py times, and that are compiled on a GPU."""
    for configuration in configurations():
        for name in contenders(configuration == configurations()[0], quick):
            if CONTENDERS[name].compiled:
                yield configuration, name
