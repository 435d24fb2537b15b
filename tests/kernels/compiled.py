"""Compiles every kernel as the launchers would launch it, for GPUs that are not present, and reads its resources.

    python -m tests.kernels.compiled                every case for every target, a table

Triton asks its driver for the target and the launchers for arguments; here the driver returns the given target, tensors
have no memory, and the launch stops after compilation.
"""

import argparse
import itertools
import json
import re
import subprocess
import tempfile
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from accel.common.bottleneck import BottleneckOptions
from accel.kernels import bottleneck, pooled, weighted_loss
from accel.kernels.occurrence import CELL_STATISTICS

TARGETS = (80, 90, 100)
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"

# One shape (N, D, h, w) for each entry of the bottleneck's table of tiles, and part_dim at its ends.
SHAPES = {
    "whole image": (16, 6, 8, 8),
    "few cells": (64, 16, 7, 7),
    "many cells": (64, 16, 28, 28),
    "wide parts": (16, 128, 14, 14),
    "narrow parts": (64, 1, 14, 14),
}

# The cases that need most registers, some 250 of 255, compile for all targets in every turn.
SCARCE = [f"bottleneck, many cells, contiguous, bfloat16, {head}, categorical" for head in ("maps", "pooled")]


class Driver:
    target = TARGETS[0]

    def get_current_device(self):
        return self.target

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        return GPUTarget("cuda", self.target, 32)


def empty(*shape, dtype=torch.float32, format=torch.contiguous_format):
    return torch.empty(shape, dtype=dtype, device="meta", memory_format=format)


def launch_bottleneck(shape, dtype, format, pooled, options):
    parts, part_dim, height, width = shape
    logits = empty(2, parts, height, width, dtype=dtype, format=format)
    maps = empty(2, parts * part_dim, height, width, dtype=dtype, format=format)
    of_parts = empty(2, parts, part_dim)
    given = of_parts if pooled else maps
    saved = empty(2, parts, 2 * part_dim + (0 if pooled else 2))
    cells = empty(2, CELL_STATISTICS.value, height * width)
    image = empty(2)
    draw = [*(torch.empty((), dtype=torch.int64, device="meta") for _ in range(3)), empty()]
    options = BottleneckOptions(occurrence_prior=0.01, appearance_prior_mean=2.0, **options)
    how = options, draw, pooled
    bottleneck.forward(logits, given, given, *how, (maps, of_parts, of_parts, image, image, saved, cells))
    attached = not (pooled or options.detach_weights)
    mean = given if attached else None
    log_variance = given if attached or options.variance == "arithmetic" else None
    incoming = [maps, None, None, image, image]
    bottleneck.backward(incoming, logits, mean, log_variance, of_parts, saved, cells, *how, (logits, given, given))


def launch_weighted_loss(dtype, format, size, patch):
    images = empty(2, 3, size, size, dtype=dtype, format=format)
    energy, scale, total = empty(2, 3, size // patch, size // patch), empty(2, 3), empty(2)
    weighted_loss.forward(images, images, patch, (total, energy, scale))
    weighted_loss.backward(total, images, images, energy, scale, patch, images)


def launch_shifted_weights(dtype, side, kernel, categorical):
    logits = empty(2, 64, side, side, dtype=dtype)
    weights = empty(2, 64, kernel**2, side * side, dtype=dtype)
    cells = empty(2, CELL_STATISTICS.value, side * side) if categorical else None
    pooled.shifted_weights(logits, cells, kernel, weights)
    pooled.shifted_weights_backward(weights, logits, cells, kernel, logits)


def cases():
    """(name, function that launches) of everything that the launchers' tables can choose."""
    formats = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}
    dtypes = torch.float32, torch.bfloat16
    for (label, shape), (order, format), dtype in itertools.product(SHAPES.items(), formats.items(), dtypes):
        if (label, order) == ("few cells", "channels-last"):
            continue  # the same entry as many cells
        plainest, heaviest = {}, {"variance": "arithmetic", "detach_weights": False}
        categorical = {"occurrence": "categorical"}
        variants = [(False, plainest), (False, heaviest), (False, heaviest | categorical)]
        if label == "many cells":
            variants += [(False, plainest | categorical), (True, plainest), (True, categorical)]
        for is_pooled, options in variants:
            words = ["pooled" if is_pooled else "maps", *map(str, options.values())]
            name = f"bottleneck, {label}, {order}, {str(dtype)[6:]}, {', '.join(words)}"
            yield name, lambda a=(shape, dtype, format, is_pooled, options): launch_bottleneck(*a)
    for (order, format), dtype in itertools.product(formats.items(), dtypes):
        for size, patch in ((224, 8), (56, 7)) if dtype == torch.float32 else ((224, 8),):
            name = f"weighted loss, {size} px, patch {patch}, {order}, {str(dtype)[6:]}"
            yield name, lambda a=(dtype, format, size, patch): launch_weighted_loss(*a)
    for dtype, categorical in itertools.product(dtypes, (False, True)):
        name = f"shifted weights, 28x28, {str(dtype)[6:]}{', categorical' * categorical}"
        yield name, lambda a=(dtype, 28, 3, categorical): launch_shifted_weights(*a)


def resources(kernel):
    """(registers, stack bytes, local bytes) a thread."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage = subprocess.run([CUOBJDUMP, "-res-usage", file.name], capture_output=True, text=True, check=True)
    text = usage.stdout + usage.stderr
    return tuple(int(re.search(rf"{name}:(\d+)", text).group(1)) for name in ("REG", "STACK", "LOCAL"))


def targets_of(number, name, turn):
    """The targets of a case in a turn: one, and in each of the three turns another, unless its registers are scarce."""
    if turn is None or name in SCARCE:
        return TARGETS
    return (TARGETS[(number + number // len(TARGETS) + turn) % len(TARGETS)],)


def compile_cases(share, shares, turn=None):
    compiled = []
    launch = JITFunction.run

    def stop_after_compilation(self, *args, grid, warmup, **kwargs):
        compiled.append((self.fn.__name__, launch(self, *args, grid=grid, warmup=True, **kwargs)))

    JITFunction.run = stop_after_compilation
    fake = Driver()
    driver.set_active(fake)
    for number, (name, run) in enumerate(cases()):
        if number % shares != share:
            continue
        for target in targets_of(number, name, turn):
            fake.target = target
            compiled.clear()
            run()
            for function, kernel in compiled:
                registers, stack, local = resources(kernel)
                yield {
                    "kernel": function,
                    "case": name,
                    "target": f"sm_{target}",
                    "warps": kernel.metadata.num_warps,
                    "registers": registers,
                    "shared": kernel.metadata.shared,
                    "stack": stack,
                    "local": local,
                }


def table(rows):
    lines = [f"{'':24} {'target':7} warps regs shared stack local  case"]
    for row in rows:
        numbers = "{warps:5} {registers:4} {shared:6} {stack:5} {local:5}".format(**row)
        lines.append(f"{row['kernel']:24} {row['target']:7} {numbers}  {row['case']}")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--share", type=int, nargs=2, default=(0, 1), metavar=("I", "N"), help="every N-th case, from I"
    )
    parser.add_argument(
        "--turn", type=int, choices=range(len(TARGETS)), help="each case for one target, in each turn another"
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = list(compile_cases(*arguments.share, arguments.turn))
    print(json.dumps(rows) if arguments.json else table(rows))
