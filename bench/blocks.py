"""Times the bottleneck under other tiles than its table's, to see whether the table still holds on this GPU.

    python bench/blocks.py

For each shape of the table, each dtype and memory format: the table's tile, then the fastest of its neighbours (twice
and half the parts, the cells and the warps), forward and backward together.
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


def neighbours(tile, warps):
    """The tile itself first."""
    parts, numbers, cells = tile
    for p, c, w in itertools.product((1, 2, 0.5), (1, 2, 0.5), (1, 2, 0.5)):
        candidate = (int(parts * p), numbers, int(cells * c)), int(warps * w)
        if candidate[0][0] and candidate[0][2] and 1 <= candidate[1] <= 16:
            yield candidate


def main():
    if not harness.CUDA:
        sys.exit("bench/blocks.py times kernels and needs a CUDA device")
    formats = torch.contiguous_format, torch.channels_last
    for shape, dtype, memory_format in itertools.product(bottleneck.SHAPES, (torch.float32, torch.bfloat16), formats):
        case = bottleneck.make_case(shape, dtype, memory_format, "geometric")
        provider = next(bottleneck.make_providers(case, False, False))
        _, parts, part_dim, side = shape
        chosen = kernels.blocks(parts, part_dim, side * side, memory_format == torch.channels_last, dtype.itemsize)
        leaves = case.inputs(0)
        incoming = case.incoming(provider.run(leaves))
        times = {}
        for candidate in neighbours(*chosen):
            with mock.patch.object(kernels, "blocks", lambda *_, candidate=candidate: candidate):
                harness.check(case, provider)
                call = functools.partial(harness.both, provider, leaves, incoming)
                times[candidate] = harness.time_in_graph([call] * 8, 0.1)[0]
        best = min(times, key=times.get)
        print(f"{case.label:50} table {chosen} {times[chosen]:.4f} ms, best {best} {times[best]:.4f} ms", flush=True)


if __name__ == "__main__":
    main()
