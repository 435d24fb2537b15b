"""Shared code of the operator benchmarks: a check before every timing, rows, tables and plots.

On a GPU, each call is timed with device events; results are medians of many calls, with the 20 % and 80 % quantiles.
Inputs are random, and enough sets alternate to exceed the cache. Both passes are timed again in a CUDA graph, without
the host; a row gives the reason if that fails. The achieved bandwidth is relative to that of a large copy in the same
run, counting bytes read and written; for a shape, only the bytes that the computation must move are counted.
"""

import argparse
import functools
import gc
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench.common.compilations import counting
from bench.common.records import machine, write
from bench.common.timing import CUDA, copy_bandwidth, first_line, time_calls, time_in_graph

OURS = "ours" if CUDA else "ours, torch"
CACHE_BYTES = 2**27  # more than the L2 cache of any GPU so far
TOLERANCE = {torch.float32: 2e-4, torch.bfloat16: 3e-2, torch.float16: 1e-2}


@dataclass(frozen=True)
class Case:
    """One shape, dtype and memory format: its inputs, and the expected results of the first images."""

    name: str
    dtype: torch.dtype
    memory_format: torch.memory_format
    inputs: Callable[[int], list[Tensor]]  # of a seed: the leaves
    incoming: Callable[[list[Tensor]], list[Tensor | None]]  # of the outputs: their gradients
    expected: Callable[[list[Tensor], list[Tensor]], list[np.ndarray]]  # of leaves and incoming: outputs and gradients
    forward_bytes: int
    backward_bytes: int
    facts: dict = field(default_factory=dict)  # of the shape, for files and plots

    @property
    def label(self):
        order = "channels-last" if self.memory_format == torch.channels_last else "contiguous"
        return f"{self.name} {str(self.dtype)[6:]} {order}"


@dataclass(frozen=True)
class Provider:
    """An implementation. exact_draw computes with the specification's noise, for the check."""

    name: str
    run: Callable[[list[Tensor]], list[Tensor]]
    exact_draw: Callable[[list[Tensor]], list[Tensor]]


def versions(name, function, compiled):
    """An implementation by name, and optionally its torch.compile version."""
    return {name: function} | ({f"{name} compiled": torch.compile(function, dynamic=False)} if compiled else {})


def backward(outputs, leaves, incoming, **options):
    """The gradients of those leaves that take one, for those outputs that get one."""
    pairs = [(x, g) for x, g in zip(outputs, incoming, strict=True) if g is not None]
    learning = [x for x in leaves if x.requires_grad]
    return torch.autograd.grad([x for x, _ in pairs], learning, [g for _, g in pairs], **options)


def check(case: Case, provider: Provider):
    """Raises AssertionError if an output or gradient deviates from the specification beyond the dtype's accuracy.

    The measure is ‖got − expected‖ / ‖expected‖ over the first images; NaN always fails.
    """
    leaves = case.inputs(0)
    outputs = provider.exact_draw(leaves)
    incoming = case.incoming(outputs)
    got = [*outputs, *backward(outputs, leaves, incoming)]
    for number, (mine, wanted) in enumerate(zip(got, case.expected(leaves, incoming), strict=True)):
        mine = mine[: len(wanted)].detach().double().cpu().numpy()
        error = np.linalg.norm(mine - wanted) / np.linalg.norm(wanted)
        if not error <= TOLERANCE[case.dtype]:
            raise AssertionError(f"result {number} differs from the reference by {error:.2g}")


def memory(case: Case, provider: Provider, leaves: list[Tensor], before: int = 0):
    """Megabytes that both passes need at the same time, and, on a GPU, the allocated peak.

    before: bytes that were allocated before the leaves, which do not count.

    At the end of the backward pass, inputs, outputs and the gradients of both exist. Additional memory was saved
    between the passes, or is a copy.
    """
    outputs = provider.run(leaves)
    incoming = case.incoming(outputs)
    tensors = *leaves, *outputs, *backward(outputs, leaves, incoming), *(g for g in incoming if g is not None)
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}
    row = {"needed_megabytes": sum(storages.values()) / 1e6}
    del outputs, tensors
    if CUDA:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        both(provider, leaves, incoming)
        torch.cuda.synchronize()
        row["peak_megabytes"] = (torch.cuda.max_memory_allocated() - before) / 1e6
    return row


def measure(case: Case, provider: Provider, bandwidth: float, budget: float):
    """A row of results: the check, then forward, backward, both, both in a graph, and the peak of memory."""
    row = {"case": case.label, "provider": provider.name, **case.facts, "dtype": str(case.dtype)[6:]}
    row["channels_last"] = case.memory_format == torch.channels_last
    gc.collect()  # of what another provider left in cycles
    before = torch.cuda.memory_allocated() if CUDA else 0
    try:
        check(case, provider)
        first = case.inputs(0)
        row |= memory(case, provider, first, before)
        row |= timings(case, provider, input_sets(case, first), bandwidth, budget)
    except Exception as error:  # a failed implementation stays in the table, and the exit status is 1
        row["failure"] = first_line(error)
    return row


def input_sets(case, first):
    """The first set of leaves and as many others as exceed the cache together, but at most 15."""
    count = min(16, 1 + 2 * CACHE_BYTES // sum(x.nbytes for x in first)) if CUDA else 1
    return [first, *(case.inputs(seed) for seed in range(1, count))]


def both(provider, leaves, incoming):
    """Outputs and gradients."""
    outputs = provider.run(leaves)
    return outputs, backward(outputs, leaves, incoming)


def fresh(leaves):
    """Copies of leaves that autograd has not used on any stream."""
    return [x.detach().requires_grad_(x.requires_grad) for x in leaves]


def eager_times(case, provider, sets, budget):
    """(times of forward, backward and both, the incoming gradients of each set); what was recorded is gone then."""
    recorded = [provider.run(leaves) for leaves in sets]
    incoming = [case.incoming(outputs) for outputs in recorded]
    forwards = [lambda x=x: provider.run(x) for x in sets]
    backwards = [
        lambda y=y, x=x, g=g: backward(y, x, g, retain_graph=True)
        for y, x, g in zip(recorded, sets, incoming, strict=True)
    ]
    times = {"forward": time_calls(forwards, budget), "backward": time_calls(backwards, budget)}
    times["both"] = time_calls(both_passes(provider, sets, incoming), budget)
    return times, incoming


def both_passes(provider, sets, incoming):
    """A call for each set of leaves."""
    return [functools.partial(both, provider, x, g) for x, g in zip(sets, incoming, strict=True)]


def timings(case, provider, sets, bandwidth, budget):
    times, incoming = eager_times(case, provider, sets, budget)
    times["graph"], reason = time_in_graph(lambda: both_passes(provider, map(fresh, sets), incoming), budget)
    if reason:
        times["no_graph_because"] = reason
    limit = 1e3 * (case.forward_bytes + case.backward_bytes) / bandwidth
    best = min(times["both"][0], (times["graph"] or times["both"])[0])
    achieved = {"limit": limit, "of_copy": limit / best, "bytes_a_second": limit / best * bandwidth}
    return times | achieved


def describe(row):
    head = f"{row['case']:62} {row['provider']:10}"
    if "failure" in row:
        return f"{head} FAIL {row['failure']}"

    def times(name):
        return f"{row[name][0]:8.4f}" if row[name] else f"{'none':>8}"

    median, low, high = row["both"]
    peak = f"{row['peak_megabytes']:7.0f}" if "peak_megabytes" in row else f"{'':7}"
    ratio = f"{row['times_ours']:6.2f}" if "times_ours" in row else f"{'':6}"
    return (
        f"{head} {times('forward')} {times('backward')} {median:8.4f} ({low:.4f} to {high:.4f}) {times('graph')} "
        f"{row['limit']:8.4f} {100 * row['of_copy']:5.1f} {1e-9 * row['bytes_a_second']:7.1f} {ratio} "
        f"{row['needed_megabytes']:9.0f} {peak}"
    )


HEAD = (
    f"{'':62} {'':10} forward  backward both (20 % to 80 %)           in graph    limit  % copy    GB/s  ×ours "
    "needed MB peak MB\n(milliseconds, medians; needed: inputs, outputs and the gradients of both, all there at last)"
)


def command(description, make_case, make_providers, grid):
    """Options of the command line, cases of the grid, and providers of a case: others only for cases of the table."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="few shapes and short timings, under a minute")
    parser.add_argument(
        "--sweep", action="store_true", help="also shapes around those of the table, only for our operators"
    )
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="write the results, with device and versions")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the achieved share of the copy bandwidth")
    options = parser.parse_args()
    cases = [make_case(*c) for c in grid(CUDA, options.quick, options.sweep)]
    table = len(grid(CUDA, options.quick, False))

    def providers(case):
        contiguous = case.memory_format == torch.contiguous_format
        return make_providers(case, case in cases[:table], CUDA and contiguous and not options.quick)

    return options, cases, providers


def why_slow(row, reason):
    """Why a shape reaches less than 70 % of the copy bandwidth: too small, or the reason of its benchmark."""
    if row["limit"] < 0.02:
        return "too little data to fill the device: limited by launches and the latency of one wave of programs"
    return reason(row) or "no reason known"


def run(description, cases, providers, options, reason):
    """Measures every case with providers(case); prints and writes each row, then plots. Exits with 1 if any failed.

    reason(row): why a large shape reaches less than 70 % of the copy bandwidth, or None.
    """
    if not CUDA:
        print("No CUDA device: PyTorch formulations on the CPU at small shapes; the fused kernels need a GPU.")
    bandwidth = copy_bandwidth()
    print(f"{machine()['device']}: a copy moves {1e-9 * bandwidth:.1f} GB/s, bytes read and written\n{HEAD}")
    budget = 0.1 if options.quick or not CUDA else 0.5
    rows = []
    for case in cases:
        ours = None
        for provider in providers(case):
            with counting() as kernels:
                row = measure(case, provider, bandwidth, budget)
            row["kernels_compiled"] = kernels.compiled
            if "both" in row:
                ours = ours or row["both"][0]
                row["times_ours"] = row["both"][0] / ours
            rows.append(row)
            print(describe(row), flush=True)
            if options.output:
                write(options.output, description, rows, copy_bytes_a_second=bandwidth)
    for reason_of_none in dict.fromkeys(row["no_graph_because"] for row in rows if "no_graph_because" in row):
        print(f"none in graph: {reason_of_none}")
    slow = [row for row in rows if row["provider"] == OURS and row.get("of_copy", 1.0) < 0.7] if CUDA else []
    for row in slow:
        print(f"under 70 %: {row['case']}: {100 * row['of_copy']:.0f} %, {why_slow(row, reason)}")
    if options.plot:
        plot(rows, options.plot, description)
    failures = [row for row in rows if "failure" in row]
    if failures:
        sys.exit(f"{len(failures)} of {len(rows)} measurements failed")


def plot(rows, path, title):
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    rows = [row for row in rows if "of_copy" in row]
    labels = list(dict.fromkeys(row["case"] for row in rows))
    names = list(dict.fromkeys(row["provider"] for row in rows))
    figure, axes = pyplot.subplots(figsize=(9, 1 + 0.25 * len(labels) * len(names)), layout="constrained")
    height = 0.8 / len(names)
    for i, name in enumerate(names):
        chosen = [row for row in rows if row["provider"] == name]
        places = [labels.index(row["case"]) + i * height for row in chosen]
        axes.barh(places, [100 * row["of_copy"] for row in chosen], height, label=name)
    axes.set_yticks([i + 0.4 - height / 2 for i in range(len(labels))], labels, fontsize="small")
    axes.invert_yaxis()
    axes.set_xlabel("% of the copy bandwidth, forward and backward")
    axes.set_title(title, fontsize="medium")
    axes.legend()
    figure.savefig(path, dpi=150)
