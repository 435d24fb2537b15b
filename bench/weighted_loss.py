"""Benchmark of the weighted squared error, forward and backward, against other implementations.

    python bench/weighted_loss.py [--quick] [--sweep] [--output FILE.json] [--plot FILE.png]

Bytes that must move: five passes over the images, two reads in the forward pass, two reads and a write in the backward
pass.
"""

import itertools
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
import reference
from accel import ops
from bench.common import formulations
from bench.common.harness import OURS, Case, Provider, command, run, versions
from bench.common.timing import DEVICE

CHECKED = 2  # images that are compared with the reference
SHAPES = [(128, 32), (256, 224)]  # (B, side), three channels
SWEEP = [(batch, side) for side in (16, 64, 96, 128, 448) for batch in (32, 256)]
SMALL = [(32, 32), (4, 224)]  # for a CPU


def make_case(shape, dtype, memory_format):
    batch, side = shape

    def inputs(seed):
        generator = torch.Generator(DEVICE).manual_seed(seed)
        pair = (torch.rand(batch, 3, side, side, generator=generator, device=DEVICE) * 2 - 1 for _ in range(2))
        reconstruction, images = (x.to(dtype).contiguous(memory_format=memory_format) for x in pair)
        return [reconstruction.requires_grad_(), images]

    def incoming(outputs):
        return [torch.ones((), device=DEVICE, dtype=x.dtype).expand_as(x) for x in outputs]

    def expected(leaves, incoming):
        arrays = [x[:CHECKED].detach().double().cpu().numpy() for x in leaves]
        d_error = incoming[0][:CHECKED].double().cpu().numpy()
        gradient, _ = reference.weighted_squared_error_gradients(d_error, *arrays)
        return [reference.weighted_squared_error(*arrays), gradient]

    passes = batch * 3 * side * side * torch.empty((), dtype=dtype).element_size()
    return Case(
        name=f"B{batch} {side} px",
        dtype=dtype,
        memory_format=memory_format,
        inputs=inputs,
        incoming=incoming,
        expected=expected,
        forward_bytes=2 * passes,
        backward_bytes=3 * passes,
        facts={"batch": batch, "side": side},
    )


def make_providers(case, others, compiled):
    """Our implementation, and optionally the others and their compiled versions."""

    def ours(leaves):
        return [ops.weighted_squared_error(*leaves)]

    yield Provider(OURS, ours, ours)
    for name in ("plain", "release") if others else ():
        function = getattr(formulations, f"{name}_weighted_error")
        for version, run_it in versions(name, function, compiled).items():
            yield Provider(version, *[lambda leaves, f=run_it: f(*leaves)] * 2)


def grid(cuda, quick, sweep):
    """Arguments of make_case, with those of the table first; small shapes for a CPU."""
    shapes, dtypes = (SHAPES, (torch.float32, torch.bfloat16)) if cuda else (SMALL, (torch.float32,))
    formats = torch.contiguous_format, torch.channels_last
    if quick or not cuda:
        formats = formats[:1]
    around = SWEEP if sweep and cuda else []
    return [*itertools.product(shapes, dtypes, formats), *itertools.product(around, dtypes, formats)]


def reason(row):
    """Why a large shape reaches less than 70 % of the copy bandwidth, if known."""
    if row["channels_last"]:
        return "a run of three channels fills three quarters of a tile"
    return None


def main():
    options, cases, providers = command(__doc__.splitlines()[0], make_case, make_providers, grid)
    run("Weighted squared error, forward and backward, 3 channels", cases, providers, options, reason)


if __name__ == "__main__":
    main()
