"""Whole training steps beside what one would write without this project, and where a step's time goes.

    python bench/training.py [--quick] [--output FILE.json] [--profile FOLDER]

Images a second of forward, backward and Adam on batches that are on the device, the peak of memory, and ours once more
with the data's order, gather and flips. `plain` is PyTorch as one would write it from the equations, `release` after
the authors' description, its second pass through the decoder included; `tuned` is the same by hand in bfloat16,
channels-last, compiled, with fused Adam, in a CUDA graph. Every provider's first loss is checked before it is timed.

Parts are timed by themselves, forward and backward, uncompiled, on a GPU each in a CUDA graph. A part's limit is the
larger of its operations at the speed of a large matrix product and its bytes at the bandwidth of a large copy, both
measured in the same run; of convolutions and linear maps, layer by layer, all else between them counted as free.
"""

import argparse
import functools
import itertools
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[1]))
from accel import ops
from accel.data import Batches, ImageSet
from accel.models import PatchVAE, elbo
from accel.models.autoencoder import scaled_pixels
from accel.models.patchvae import _joined
from accel.training import TrainingConfig
from accel.training.capture import WARM_UP, Captured
from accel.training.catalogue import SYSTEMS
from accel.training.step import TrainingStep
from accel.training.systems import build_system
from bench import formulations
from bench.harness import CUDA, DEVICE, backward, copy_bandwidth, machine, quantiles, time_calls, time_in_graph, write

MAIN = "patchvae+w"
TEMPERATURE, TOLERANCE = 1.0, 0.02  # bfloat16 activations in the first loss
CLASSES = 10


@dataclass(frozen=True)
class Configuration:
    """The sizes of a run."""

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

    def images(self, count):
        """uint8 (count, 3, H, W) on the device, channels last."""
        generator = torch.Generator(DEVICE).manual_seed(0)
        shape = count, self.pixels, self.pixels, 3
        images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator, device=DEVICE)
        return images.permute(0, 3, 1, 2)


# Those of the table of others' measurements, whose encoder is the release's; its grid of 7 × 7 is a ResNet-18's.
TABLE = [
    Configuration(32, 128, 16, 6, "release"),
    Configuration(32, 1024, 16, 6, "release"),
    Configuration(224, 128, 64, 16, "release"),
    Configuration(224, 256, 64, 16, "resnet18"),
]
SMALL = [Configuration(32, 32, 16, 6, "small")]  # for a CPU


# What is timed


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
        self.autocast = torch.autocast(DEVICE, torch.bfloat16, enabled=tuned)
        self.compute, self.run = self.losses, self.step
        if tuned:
            self.model.to(memory_format=torch.channels_last)
            self.compute = torch.compile(self.losses, dynamic=False)
            self.run = Captured(self.step, torch.device(DEVICE))
        options = {"fused": True, "capturable": True} if tuned else {}
        self.optimiser = torch.optim.Adam(self.model.parameters(), lr=1e-4, **options)

    def losses(self, images, **draws):
        """(B,)"""
        model, images = self.model, images.float() / 127.5 - 1
        features = model.encoder(images)
        maps = model.occurrence(features), model.appearance_mean(features), model.appearance_log_variance(features)
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


def check_plain(step, images):
    """Raises AssertionError where the loss before the first step is not that of PatchVAE with the same draws."""
    noise, model = ops.Noise(), step.model
    cells = model.grid[0] * model.grid[1]
    uniform = ops.occurrence_noise(noise, len(images), model.num_parts, cells, device=images.device)
    normal = ops.appearance_noise(noise, len(images), model.num_parts, model.part_dim, device=images.device)
    with torch.no_grad(), step.autocast:
        got = step.losses(images, uniform=uniform, normal=normal).mean().item()
    with torch.no_grad():
        expected = elbo(model(images, TEMPERATURE, noise), images).total.item()
    compare(got, expected)


def check_ours(step, images):
    """Raises AssertionError where the first step's loss is not that of its model in float32; takes that step."""
    with torch.no_grad():
        noise = ops.Noise(step.config.seed, 0)
        target = scaled_pixels(images, torch.float32)
        _, losses = step.system.losses(target, None, step.config.temperature, noise)
    expected = losses["total"].item()
    step.ledger.reset()
    step(images)
    compare(step.ledger.means()["total"], expected)


def compare(got, expected):
    if not abs(got - expected) <= TOLERANCE * abs(expected):
        raise AssertionError(f"the first loss is {got:.6g}, should be {expected:.6g}")


# Timing


def synchronise():
    if CUDA:
        torch.cuda.synchronize()


def seconds_a_step(step, turns, budget):
    """Median, 20 % and 80 % quantile over rounds of steps, between which the host waits for the device.

    turns: batches without end.
    """

    def round_of(steps):
        synchronise()
        began = time.perf_counter()
        for _ in range(steps):
            step(*next(turns))
        synchronise()
        return (time.perf_counter() - began) / steps

    round_of(WARM_UP + 2)
    steps = max(1, int(budget / 5 / round_of(2)))
    return quantiles([round_of(steps) for _ in range(5)])


def with_data(step, configuration, budget):
    """Seconds a step of an epoch's own loop, order, gather and flips included."""
    count = configuration.batch * (64 if configuration.pixels < 100 else 8)
    images = ImageSet(configuration.images(count).permute(0, 2, 3, 1).cpu().numpy())
    batches = Batches(images, configuration.batch, 0, True, DEVICE)
    return seconds_a_step(step, (batch for epoch in itertools.count() for batch in batches.epoch(epoch)), budget)


def measure(configuration, provider, make, check, budget, data=False):
    """A row of results, or of the failure."""
    row = {"case": configuration.name, "provider": provider, **asdict(configuration)}
    try:
        torch.compiler.reset()  # it gives up on a function that many providers share
        if CUDA:
            torch.cuda.empty_cache()
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
        step = make()
        images = configuration.images(4 * configuration.batch).split(configuration.batch)
        labels = torch.arange(configuration.batch, device=DEVICE) % CLASSES
        check(step, images[0])
        seconds = seconds_a_step(step, itertools.cycle([(batch, labels) for batch in images]), budget)
        row["milliseconds"] = [1e3 * x for x in seconds]
        row["images_a_second"] = configuration.batch / seconds[0]
        if CUDA:
            row["peak_megabytes"] = (torch.cuda.max_memory_allocated() - before) / 1e6
        if data:
            row["with_data"] = configuration.batch / with_data(step, configuration, budget)[0]
    except Exception as error:  # a provider that fails stays in the table, and fails the run
        row["failure"] = f"{type(error).__name__}: {error}".splitlines()[0]
    return row


# Where the time goes


@dataclass(frozen=True)
class Part:
    """Something that a step does: a call that does it, its operations, its bytes, or the limits of its layers."""

    name: str
    call: object
    operations: float = 0.0
    bytes: float = 0.0
    layers: tuple[tuple[float, float], ...] = ()

    def limit(self, speed, bandwidth):
        """Seconds."""
        layers = self.layers or ((self.operations, self.bytes),)
        return sum(max(operations / speed, size / bandwidth) for operations, size in layers)


def layers_of(module, call, first):
    """(operations, bytes) of each convolution and linear map in a call of the module, forward and backward.

    Forward reads the input and writes the output; backward reads the output's gradient and the input for the weights,
    and the output's gradient again to write the input's, which the first layer of a network spares itself.
    """
    found = []

    def note(layer, inputs, output):
        spared = first and not found
        weight = layer.weight
        sums = output.numel() // weight.shape[0] if not isinstance(layer, nn.ConvTranspose2d) else inputs[0].numel()
        if isinstance(layer, nn.ConvTranspose2d):
            operations = 2 * sums * weight.numel() // weight.shape[0]
        else:
            operations = 2 * sums * weight.numel()
        passes = 2 if spared else 3
        size = (passes * inputs[0].numel() + passes * output.numel()) * output.element_size() + 3 * weight.nbytes
        found.append((passes * operations, size))

    kinds = nn.Conv2d, nn.ConvTranspose2d, nn.Linear
    hooks = [layer.register_forward_hook(note) for layer in module.modules() if isinstance(layer, kinds)]
    try:
        call()
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(found)


def parts_of(step, configuration):
    """The parts of one of our steps of PatchVAE with a pooled head."""
    model, autocast = step.system.model, step.autocast
    batch = configuration.images(configuration.batch)
    images = scaled_pixels(batch, torch.float32)
    with torch.no_grad(), autocast:
        features = model.encoder(images)
        logits = model.occurrence(features)
        code = model.encode(images).code
        reconstruction = model.decoder(code)

    def both_ways(function, leaves, parameters=()):
        """A call that runs the function under the step's precision and all the way back."""
        leaves = [leaf.detach().requires_grad_() for leaf in leaves]

        def call():
            with autocast:
                outputs = function(*leaves)
            outputs = [outputs] if torch.is_tensor(outputs) else outputs
            backward(outputs, [*leaves, *parameters], [torch.ones_like(x) for x in outputs], allow_unused=True)

        return call

    def of_module(name, module, leaves, first=False):
        function = functools.partial(module, images) if first else module
        call = both_ways(function, leaves, list(module.parameters()))
        return Part(name, call, layers=layers_of(module, call, first))

    def bottleneck(features, logits, *heads, backend=None):
        options = {"noise": ops.Noise(step.seed, step.clock), "temperature": temperature, "backend": backend}
        out = ops.pooled_patch_bottleneck(features, logits, *heads, **options)
        return [out.code, out.kl_appearance, out.kl_occurrence]

    temperature = torch.tensor(TEMPERATURE, device=DEVICE)
    heads = [head.detach() for head in _joined(model.appearance_mean, model.appearance_log_variance)]
    leaves = [features, logits, *heads]
    with FlopCounterMode(display=False) as counter:
        both_ways(functools.partial(bottleneck, backend="torch"), leaves)()
    maps = 2 * features.nbytes + 4 * logits.nbytes + 2 * code.nbytes + 4 * sum(head.nbytes for head in heads)
    optimiser = step.system.optimisers["model"]
    weights = sum(p.nbytes for p in model.parameters())

    def gather():
        chosen = batch.permute(0, 2, 3, 1).index_select(0, order)
        chosen = torch.where(flips, chosen.flip(2), chosen).permute(0, 3, 1, 2)
        scaled_pixels(chosen.contiguous(memory_format=torch.channels_last), torch.float32)

    order = torch.randperm(len(batch), device=DEVICE)
    flips = (order % 2 == 0)[:, None, None, None]
    yield Part("data", gather, bytes=3 * batch.nbytes + images.nbytes)
    yield of_module("encoder", model.encoder, [], first=True)
    yield of_module("head", model.occurrence, [features])
    yield Part("bottleneck", both_ways(bottleneck, leaves), counter.get_total_flops(), maps)
    yield of_module("decoder", model.decoder, [code])
    loss = both_ways(lambda x: ops.weighted_squared_error(x, images), [reconstruction])
    yield Part("loss", loss, bytes=3 * reconstruction.nbytes + 2 * images.nbytes)
    yield Part("optimiser", optimiser.step, bytes=7 * weights)


def breakdown(configuration, speed, bandwidth, budget):
    """A dictionary for each part."""
    step = our_step(configuration, compile=False)
    images = configuration.images(configuration.batch)
    for _ in range(2):
        step(images)  # gradients and the optimiser's state
    rows = []
    for part in parts_of(step, configuration):
        median = time_in_graph([part.call] * 4, budget)[0] if CUDA else time_calls([part.call], budget)[0]
        rows.append({"part": part.name, "milliseconds": median, "limit": 1e3 * part.limit(speed, bandwidth)})
    return rows


def matrix_speed():
    """Operations a second of a large matrix product in the precision of the step."""
    size, dtype = (8192, torch.bfloat16) if CUDA else (1024, torch.float32)
    a, b = (torch.randn(size, size, device=DEVICE).to(dtype) for _ in range(2))
    return 2 * size**3 / (1e-3 * time_calls([lambda: a @ b], 0.5)[0])


def profile(configuration, folder):
    """A Chrome trace of some of our steps."""
    step = our_step(configuration)
    images = configuration.images(configuration.batch)
    for _ in range(WARM_UP + 2):
        step(images)
    synchronise()
    with torch.profiler.profile() as trace:
        for _ in range(3):
            step(images)
        synchronise()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{configuration.name.replace(' ', '-')}.json"
    trace.export_chrome_trace(str(path))
    print(f"trace: {path}")


def whole_run(count, side, epochs, *options):
    """Seconds from the start of the program to its end, of a run on random images, a fifth as many held out."""
    with tempfile.TemporaryDirectory() as folder:
        images = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
        np.savez(f"{folder}/images.npz", train_images=images, test_images=images[: count // 5])
        command = [sys.executable, "-m", "accel", "train", "--data", f"{folder}/images.npz", "--out", f"{folder}/run"]
        began = time.perf_counter()
        subprocess.run(
            [*command, "--epochs", str(epochs), *options],
            cwd=Path(__file__).parents[1],
            check=True,
            capture_output=True,
        )
        return time.perf_counter() - began


# The command


def providers(quick):
    """(name, how to make it from a configuration, its check, whether the data's part is timed as well)"""
    yield "ours", our_step, check_ours, True
    for formulation in ("plain", "release"):
        yield formulation, functools.partial(PlainStep, formulation=formulation, tuned=False), check_plain, False
        if CUDA and not (quick and formulation == "release"):
            tuned = functools.partial(PlainStep, formulation=formulation, tuned=True)
            yield f"{formulation} tuned", tuned, check_plain, False
    if not quick and CUDA:
        slow = functools.partial(our_step, precision="float32", compile=False)
        yield "ours, float32, uncompiled", slow, check_ours, False


def describe(row, ours):
    head = f"{row['case']:34} {row['provider']:26}"
    if "failure" in row:
        return f"{head} FAIL {row['failure']}"
    median, low, high = row["milliseconds"]
    rate = row["images_a_second"]
    data = f"{row['with_data']:11,.0f}" if "with_data" in row else f"{'':11}"
    peak = f"{row['peak_megabytes']:8,.0f}" if "peak_megabytes" in row else f"{'':8}"
    ratio = f"{rate / ours:7.2f}" if ours else f"{'':7}"
    return f"{head} {median:9.3f} ({low:.3f} to {high:.3f}) {rate:11,.0f} {data} {ratio} {peak}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rows and shorter timings")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="write the results, with device and versions")
    parser.add_argument("--profile", type=Path, metavar="FOLDER", help="also write a Chrome trace of our steps")
    options = parser.parse_args()
    configurations = (TABLE[::2] if options.quick else TABLE) if CUDA else SMALL
    systems = [MAIN] if CUDA and options.quick else SYSTEMS  # compiling each takes up to a minute
    if not CUDA:
        print("No CUDA device: a small configuration on the CPU, in float32, uncompiled.")
    budget = 0.5 if options.quick else 2.0
    bandwidth, speed = copy_bandwidth(), matrix_speed()
    print(
        f"{machine()['device']}: a copy moves {1e-9 * bandwidth:.1f} GB/s, a matrix product computes "
        f"{1e-12 * speed:.2f} TFLOP/s\n"
        f"{'':61} ms a step (20 % to 80 %)     images/s   with data   ×ours  peak MB"
    )
    rows = []
    for configuration in configurations:
        ours = None
        for name, make, check, data in providers(options.quick):
            row = measure(configuration, name, functools.partial(make, configuration), check, budget, data)
            ours = ours or row.get("images_a_second")
            rows.append(row)
            print(describe(row, ours), flush=True)
    for system in systems:
        if system != MAIN:
            make = functools.partial(our_step, configurations[0], system)
            row = measure(configurations[0], f"ours, {system}", make, lambda *_: None, budget)
            rows.append(row)
            print(describe(row, None), flush=True)
    parts = {}
    for configuration in configurations:
        print(f"\n{configuration.name}: {our_step(configuration).execution.reasons}")
        print(f"{'part':12}{'ms':>10}{'limit ms':>10}{'% of limit':>12}")
        parts[configuration.name] = breakdown(configuration, speed, bandwidth, budget / 4)
        for row in parts[configuration.name]:
            share = 100 * row["limit"] / row["milliseconds"]
            print(f"{row['part']:12}{row['milliseconds']:10.3f}{row['limit']:10.3f}{share:12.1f}", flush=True)
        both = [sum(row[column] for row in parts[configuration.name]) for column in ("milliseconds", "limit")]
        print(f"{'sum':12}{both[0]:10.3f}{both[1]:10.3f}{100 * both[1] / both[0]:12.1f}")
    facts = {"copy_bytes_a_second": bandwidth, "operations_a_second": speed, "parts": parts}
    if CUDA:
        facts["whole_run_seconds"] = whole_run(50_000, 32, 90)
        print(
            "\n90 epochs of 50,000 images of 32 px at batch 128, from process start to the last picture: "
            f"{facts['whole_run_seconds']:.1f} s"
        )
    if options.profile:
        for configuration in configurations:
            profile(configuration, options.profile)
    if options.output:
        write(options.output, "Whole training steps", rows, **facts)
    if failures := [row for row in rows if "failure" in row]:
        sys.exit(f"{len(failures)} of {len(rows)} measurements failed")


if __name__ == "__main__":
    main()
