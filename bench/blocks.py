"""Times the operators' kernels pass by pass, and the bottleneck with other tiles than its table's.

    python bench/blocks.py [--quick] [--output FILE.json]

It times the forward pass, the backward pass and both, each in its own CUDA graph, and prints the share of the bandwidth
of a large copy, counting only the bytes that must move. For 28 × 28 and 7 × 7 maps, other tiles follow (with --quick
none): double and half the parts, the cells and the warps. All kernels are compiled first, in parallel. bench/tables.py
prints the rows of the tiles that the table has now.
"""

import argparse
import functools
import itertools
import os
import sys
from pathlib import Path
from unittest import mock

import torch
import triton

sys.path.insert(0, str(Path(__file__).parents[1]))
from accel.kernels import bottleneck as kernels
from bench import bottleneck, compile, weighted_loss
from bench.common import harness
from bench.common.records import machine, write
from bench.common.timing import CUDA, copy_bandwidth, first_line, time_in_graph

DTYPES, FORMATS = (torch.float32, torch.bfloat16), (torch.contiguous_format, torch.channels_last)
SWEPT = [(128, 64, 16, 28), (256, 64, 16, 7)]
SMALL = [(128, 16, 6, 4), (128, 16, 6, 8), (128, 16, 6, 14), (128, 64, 1, 14)]
PASSES = "forward", "backward", "both"


def table_tile(shape, dtype, memory_format, kind=bottleneck.KINDS[0], backward=False):
    """((parts, numbers, cells), warps) of the table; weights are detached, so only a forward pass can be heavy."""
    _, parts, part_dim, side = shape
    last, heavy = memory_format == torch.channels_last, kind[0] == "arithmetic" and not backward
    return kernels.blocks(parts, part_dim, side * side, last, dtype.itemsize, heavy, backward)


def neighbours(tile, warps, most_cells):
    """Other tiles, with 8 to 128 numbers per thread."""
    parts, numbers, cells = tile
    for p, c, w in itertools.product((1, 2, 0.5), repeat=3):
        candidate = (int(parts * p), numbers, int(cells * c)), int(warps * w)
        (n, _, m), count = candidate
        if n and 0 < m <= most_cells and 1 <= count <= 16 and 8 <= n * numbers * m / (32 * count) <= 128:
            yield candidate


def measurements(quick):
    """(name in compile.OPERATORS, arguments of make_case, tile or None for the table's) of every row."""
    kinds = bottleneck.KINDS[:1] if quick else bottleneck.KINDS
    shapes = SWEPT if quick else SWEPT + SMALL
    for shape, dtype, memory_format in itertools.product(shapes, DTYPES, FORMATS):
        for kind in kinds if shape in SWEPT else kinds[:1]:
            yield "bottleneck", (shape, dtype, memory_format, kind), None
    for arguments in weighted_loss.grid(True, False, False):
        yield "weighted_loss", arguments, None
    if not quick:
        # With categorical occurrences, every tile of parts reads the cells' statistics again: others may be faster.
        for arguments in itertools.product(SWEPT, DTYPES, FORMATS, bottleneck.KINDS[::2]):
            of_table = [table_tile(*arguments, backward=backward) for backward in (False, True)]
            cells = min(512, triton.next_power_of_2(arguments[0][3] ** 2))
            tiles = set(of_table).union(*(neighbours(*tile, cells) for tile in of_table))
            if of_table[0] == of_table[1]:
                tiles.remove(of_table[0])  # measured above
            for tile in sorted(tiles):
                yield "bottleneck", arguments, tile


def with_tile(tile):
    """A context in which the bottleneck's kernels take this tile."""
    return mock.patch.object(kernels, "blocks", kernels.blocks if tile is None else lambda *_: tile)


def launch(benchmark, arguments, tile):
    """Compiles the kernels of a row, in a process that compile.prepare has prepared."""
    with with_tile(tile):
        return compile.perform(functools.partial(compile.launch_operator, benchmark, *arguments))


def calls_of(case, provider, sets, incoming, name):
    """A call of a pass for each set of leaves, on fresh leaves."""
    leaves = [harness.fresh(x) for x in sets]
    if name == "both":
        return harness.both_passes(provider, leaves, incoming)
    if name == "forward":
        return [functools.partial(provider.run, [x.detach() for x in xs]) for xs in leaves]
    return [
        functools.partial(harness.backward, provider.run(x), x, g, retain_graph=True)
        for x, g in zip(leaves, incoming, strict=True)
    ]


def measure(benchmark, arguments, tile, bandwidth):
    """A row: milliseconds of each pass and their shares of the copy's bandwidth, or a failure."""
    module = compile.OPERATORS[benchmark]
    case = module.make_case(*arguments)
    row = {"case": case.label, **case.facts}
    provider = next(module.make_providers(case, False, False))
    if module is bottleneck:
        row |= {"dtype": str(case.dtype)[6:], "channels_last": case.memory_format == torch.channels_last}
        tiles = [tile or table_tile(*arguments, backward=backward) for backward in (False, True)]
        row["tiles"] = [[parts, cells, warps] for (parts, _, cells), warps in tiles]
    try:
        with with_tile(tile):
            harness.check(case, provider)
            sets = harness.input_sets(case, case.inputs(0))
            incoming = [case.incoming(provider.run(leaves)) for leaves in sets]
            for name in PASSES:
                make = functools.partial(calls_of, case, provider, sets, incoming, name)
                quantiles, reason = time_in_graph(make, 0.06)
                if reason:
                    return row | {"failure": reason}
                row[name] = quantiles[0]
    except Exception as error:  # stays in the table, and the exit status is 1
        return row | {"failure": first_line(error)}
    bytes_moved = case.forward_bytes, case.backward_bytes, case.forward_bytes + case.backward_bytes
    return row | {f"of_{name}": 1e3 * b / bandwidth / row[name] for name, b in zip(PASSES, bytes_moved, strict=True)}


def describe(row):
    head = f"{row['case']:64} {row.get('tiles', '')!s:28}"
    if "failure" in row:
        return f"{head} FAIL {row['failure']}"
    return head + "".join(f"  {row[name]:8.4f} ({100 * row[f'of_{name}']:3.0f} %)" for name in PASSES)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="only the table's tiles, without the smallest maps")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="write the results, with device and versions")
    options = parser.parse_args()
    if not CUDA:
        sys.exit("bench/blocks.py times kernels and needs a CUDA device")
    wanted = list(measurements(options.quick))
    with compile.pool_of(os.cpu_count(), torch.cuda.get_device_capability()) as pool, compile.hidden_gpu():
        list(pool.map(launch, *zip(*wanted, strict=True)))
    bandwidth = copy_bandwidth()
    print(f"{machine()['device']}: a copy moves {1e-9 * bandwidth:.1f} GB/s, bytes read and written")
    print(f"{'':64} {'tiles of both passes':28}  {'  '.join(f'{name:16}' for name in PASSES)}")
    rows = []
    for arguments in wanted:
        rows.append(measure(*arguments, bandwidth))
        print(describe(rows[-1]), flush=True)
        if options.output:
            description = "Bottleneck and weighted loss, each pass in a CUDA graph"
            write(options.output, description, rows, copy_bytes_a_second=bandwidth)
    if failures := sum("failure" in row for row in rows):
        sys.exit(f"{failures} of {len(rows)} measurements failed")


if __name__ == "__main__":
    main()
