"""What the benchmarks share: the machine, a check before every timing, fair timing, tables and files.

On a GPU: device events around each call, many calls, medians with the 20 % and 80 % quantiles; inputs are fresh random
numbers, of which as many sets take turns as it takes to outgrow the cache. Small shapes, whose time is the host's, are
timed once more inside a CUDA graph. What is achieved is stated against the bandwidth of a large copy in the same run,
bytes read and written counted, and only the bytes that the mathematics must move are counted for a shape.
"""

import argparse
import datetime
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
OURS = "ours" if CUDA else "ours, torch"
CACHE_BYTES = 2**27  # more than the L2 cache of any GPU so far
TOLERANCE = {torch.float32: 2e-4, torch.bfloat16: 3e-2, torch.float16: 1e-2}


@dataclass(frozen=True)
class Case:
    """One shape, dtype and memory format: how to make its inputs, and what must come out of the first images."""

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
    """A way to compute it. exact_draw computes with the specification's noise, for the check."""

    name: str
    run: Callable[[list[Tensor]], list[Tensor]]
    exact_draw: Callable[[list[Tensor]], list[Tensor]]


def versions(name, function, compiled):
    """A formulation by its name, and where wanted torch.compile's version of it."""
    return {name: function} | ({f"{name} compiled": torch.compile(function, dynamic=False)} if compiled else {})


def backward(outputs, leaves, incoming, **options):
    """The gradients of those leaves that take one, for those outputs that get one."""
    pairs = [(x, g) for x, g in zip(outputs, incoming, strict=True) if g is not None]
    learning = [x for x in leaves if x.requires_grad]
    return torch.autograd.grad([x for x, _ in pairs], learning, [g for _, g in pairs], **options)


def check(case: Case, provider: Provider):
    """Raises AssertionError where an output or gradient is not the specification's to the dtype's accuracy.

    ‖got − expected‖ / ‖expected‖ over the first images, which a NaN never passes.
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


def quantiles(milliseconds):
    """Median, 20 % and 80 % quantile."""
    return [float(x) for x in np.quantile(milliseconds, (0.5, 0.2, 0.8))]


def time_calls(calls: list[Callable[[], object]], budget: float):
    """Quantiles of one call in milliseconds; the calls take turns, for about budget seconds."""
    for call in calls[:3]:
        call()
    durations, began = [], time.perf_counter()
    if not CUDA:
        while len(durations) < 5 or time.perf_counter() - began < budget:
            start = time.perf_counter()
            calls[len(durations) % len(calls)]()
            durations.append(1e3 * (time.perf_counter() - start))
        return quantiles(durations)
    torch.cuda.synchronize()
    events = []
    while len(events) < 20 or time.perf_counter() - began < budget:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        calls[len(events) % len(calls)]()
        end.record()
        events.append((start, end))
        if len(events) % 20 == 0:
            torch.cuda.synchronize()
    torch.cuda.synchronize()
    return quantiles([start.elapsed_time(end) for start, end in events])


def time_in_graph(calls: list[Callable[[], object]], budget: float):
    """Quantiles of one call in milliseconds where all the calls are one CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for call in calls:
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    return [x / len(calls) for x in time_calls([graph.replay], budget)]


def copy_bandwidth():
    """Bytes a second, read and written, of a large copy on this device now."""
    source = torch.empty(2**28 if CUDA else 2**25, dtype=torch.float32, device=DEVICE).normal_()
    target = torch.empty_like(source)
    median, _, _ = time_calls([lambda: target.copy_(source)], 0.5)
    return 2 * source.nbytes / (1e-3 * median)


def memory(case: Case, provider: Provider, leaves: list[Tensor]):
    """Megabytes that both passes must hold at once, and on a GPU, those allocated at most while they run.

    When the backward pass ends, the inputs, the outputs and the gradients of both are all there. What is allocated
    beyond them was kept between the passes, or is a copy.
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
        row["peak_megabytes"] = torch.cuda.max_memory_allocated() / 1e6
    return row


def measure(case: Case, provider: Provider, bandwidth: float, budget: float):
    """A row of results: the check, then forward, backward, both, both in a graph, and the peak of memory."""
    row = {"case": case.label, "provider": provider.name, **case.facts, "dtype": str(case.dtype)[6:]}
    row["channels_last"] = case.memory_format == torch.channels_last
    try:
        check(case, provider)
        first = case.inputs(0)
        row |= memory(case, provider, first)
        size = sum(x.nbytes for x in first)
        count = min(16, 1 + 2 * CACHE_BYTES // size) if CUDA else 1
        row |= timings(case, provider, [first, *(case.inputs(seed) for seed in range(1, count))], bandwidth, budget)
    except Exception as error:  # a provider that fails stays in the table, and fails the run
        row["failure"] = f"{type(error).__name__}: {error}".splitlines()[0]
    return row


def both(provider, leaves, incoming):
    """Outputs and gradients, all there when it returns."""
    outputs = provider.run(leaves)
    return outputs, backward(outputs, leaves, incoming)


def timings(case, provider, sets, bandwidth, budget):
    recorded = [provider.run(leaves) for leaves in sets]
    incoming = [case.incoming(outputs) for outputs in recorded]
    forwards = [lambda x=x: provider.run(x) for x in sets]
    backwards = [
        lambda y=y, x=x, g=g: backward(y, x, g, retain_graph=True)
        for y, x, g in zip(recorded, sets, incoming, strict=True)
    ]
    wholes = [lambda x=x, g=g: both(provider, x, g) for x, g in zip(sets, incoming, strict=True)]
    times = {"forward": time_calls(forwards, budget), "backward": time_calls(backwards, budget)}
    times["both"] = time_calls(wholes, budget)
    limit = 1e3 * (case.forward_bytes + case.backward_bytes) / bandwidth
    if CUDA and limit < 0.1:
        times["graph"] = time_in_graph(wholes, budget)
    best = min(times["both"][0], times.get("graph", times["both"])[0])
    achieved = {"limit": limit, "of_copy": limit / best, "bytes_a_second": limit / best * bandwidth}
    return times | achieved


def describe(row):
    head = f"{row['case']:62} {row['provider']:10}"
    if "failure" in row:
        return f"{head} FAIL {row['failure']}"

    def times(name):
        return f"{row[name][0]:8.4f}" if name in row else f"{'':8}"

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


def commit():
    """The checked-out commit, marked where files differ from it."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.strip() or "unknown"


def machine():
    """The device and the versions that the figures belong to."""
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    try:
        import triton

        versions["triton"] = triton.__version__
    except ImportError:
        pass
    device = torch.cuda.get_device_name() if CUDA else f"CPU, {torch.get_num_threads()} threads"
    return {"device": device, "cuda": torch.version.cuda, **versions, "commit": commit()}


def arguments(description):
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="few shapes and short timings, under a minute")
    parser.add_argument("--sweep", action="store_true", help="also the shapes around the table's, ours alone")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="write the results, with device and versions")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the achieved share of the copy bandwidth")
    return parser.parse_args()


def why_slow(row, reason):
    """Why a shape stays under 70 % of the copy bandwidth: it is too small, or what its benchmark says of it."""
    if row["limit"] < 0.02:
        return "it moves too little to fill the device: launches and the latency of one wave of programs"
    return reason(row) or "no reason known"


def run(description, cases, providers, options, reason):
    """Measures every case with providers(case); prints, writes and plots. Exits with status 1 if any failed.

    reason(row) says why a large shape stays under 70 % of the copy bandwidth, or nothing.
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
            row = measure(case, provider, bandwidth, budget)
            if "both" in row:
                ours = ours or row["both"][0]
                row["times_ours"] = row["both"][0] / ours
            rows.append(row)
            print(describe(row), flush=True)
    slow = [row for row in rows if row["provider"] == OURS and row.get("of_copy", 1.0) < 0.7] if CUDA else []
    for row in slow:
        print(f"under 70 %: {row['case']}: {100 * row['of_copy']:.0f} %, {why_slow(row, reason)}")
    if options.output:
        write(options.output, description, rows, copy_bytes_a_second=bandwidth)
    if options.plot:
        plot(rows, options.plot, description)
    failures = [row for row in rows if "failure" in row]
    if failures:
        sys.exit(f"{len(failures)} of {len(rows)} measurements failed")


def write(path, description, rows, **facts):
    """The results as JSON, with what they belong to."""
    document = {
        "description": description,
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **machine(),
        **facts,
        "results": rows,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n")


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
