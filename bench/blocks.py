"""Times the bottleneck with tiles that differ from its table, to check whether the table fits this GPU.

    python bench/blocks.py

For each shape of the table, each dtype and memory format, it prints the table's tile, then the fastest of its
neighbours (double and half the parts, the cells and the warps), for forward and backward pass together.
"""

import functools
import itertools
import sys
from pathlib import Path
from unittest import mock

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from accel.kernels import bottleneck as kernels
from bench import bottleneck, harness
from bench.timing import CUDA, time_in_graph

REPEATS = 8  # of both passes in a graph


def neighbours(tile, warps):
    """The tile itself first."""
    parts, numbers, cells = tile
    for p, c, w in itertools.product((1, 2, 0.5), (1, 2, 0.5), (1, 2, 0.5)):
        candidate = (int(parts * p), numbers, int(cells * c)), int(warps * w)
        if candidate[0][0] and candidate[0][2] and 1 <= candidate[1] <= 16:
            yield candidate


def milliseconds(case, provider):
    """Of both passes, in a graph."""
    leaves = case.inputs(0)
    incoming = [case.incoming(provider.run(leaves))] * REPEATS
    calls = functools.partial(harness.both_passes, provider, [harness.fresh(leaves)] * REPEATS, incoming)
    quantiles, reason = time_in_graph(calls, 0.1)
    if reason:
        sys.exit(f"bench/blocks.py times graphs, and one could not be captured: {reason}")
    return quantiles[0]


def main():
    if not CUDA:
        sys.exit("bench/blocks.py times kernels and needs a CUDA device")
    formats = torch.contiguous_format, torch.channels_last
    for shape, dtype, memory_format in itertools.product(bottleneck.SHAPES, (torch.float32, torch.bfloat16), formats):
        case = bottleneck.make_case(shape, dtype, memory_format, bottleneck.KINDS[0])
        provider = next(bottleneck.make_providers(case, False, False))
        _, parts, part_dim, side = shape
        chosen = kernels.blocks(parts, part_dim, side * side, memory_format == torch.channels_last, dtype.itemsize)
        times = {}
        for candidate in neighbours(*chosen):
            with mock.patch.object(kernels, "blocks", lambda *_, candidate=candidate: candidate):
                harness.check(case, provider)
                times[candidate] = milliseconds(case, provider)
        best = min(times, key=times.get)
        print(f"{case.label:50} table {chosen} {times[chosen]:.4f} ms, best {best} {times[best]:.4f} ms", flush=True)


if __name__ == "__main__":
    main()
