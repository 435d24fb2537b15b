"""Trace of one of our training steps on the device: number of nodes, their times, and the gaps between them.

python bench/tracing.py [--only NAME] [--output FILE.json] [--folder FOLDER]
"""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from accel.training.capture import WARM_UP
from bench.common import steps
from bench.common.isolated import isolated
from bench.common.records import machine, write
from bench.common.timing import CUDA, synchronise

NODES = {"kernel": "kernels", "gpu_memcpy": "copies", "gpu_memset": "fills"}  # a trace's categories
LONGEST = 12  # kernels that are named


def summary(events):
    """Summary of the device's events in a Chrome trace, in milliseconds; overlapping nodes count once."""
    nodes = sorted((e["ts"], e["ts"] + e["dur"], e["cat"], e["name"]) for e in events if e.get("cat") in NODES)
    counts = Counter(NODES[category] for _, _, category, _ in nodes)
    gaps, end = [], nodes[0][0] if nodes else 0.0
    by_name = Counter()
    for start, stop, _, name in nodes:
        gaps.append(max(0.0, start - end))
        end = max(end, stop)
        by_name[name] += stop - start
    span = end - nodes[0][0] if nodes else 0.0
    return {
        "nodes": len(nodes),
        **{name: counts[name] for name in NODES.values()},
        "span": 1e-3 * span,
        "busy": 1e-3 * (span - sum(gaps)),
        "gaps": 1e-3 * sum(gaps),
        "longest_gap": 1e-3 * max(gaps, default=0.0),
        "longest": {name: 1e-3 * length for name, length in by_name.most_common(LONGEST)},
    }


def trace(configuration, folder):
    """The summary of one step, its trace's file, and how it ran."""
    step = steps.our_step(configuration)
    images = configuration.images(configuration.batch)
    for _ in range(WARM_UP + 2):
        step(images)
    for _ in range(2):  # the first one pays for the profiler's own start
        synchronise()
        with torch.profiler.profile() as profile:
            step(images)
            synchronise()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{configuration.name.replace(' ', '-')}.json"
    profile.export_chrome_trace(str(path))
    found = summary(json.loads(path.read_text())["traceEvents"])
    if CUDA and not found["nodes"]:
        raise RuntimeError("the profiler recorded nothing on the device")
    return {"file": str(path), **found, **steps.how_it_ran(step)}


def describe(row):
    if "failure" in row:
        return f"{row['case']} FAIL {row['failure']}"
    if not row["nodes"]:
        return f"{row['case']}: nothing ran on a GPU"
    how = "one graph" if row["captured"] else f"no graph: {row['no_graph_because']}"
    lines = [
        f"{row['case']}: {row['nodes']} nodes ({', '.join(f'{row[kind]} {kind}' for kind in NODES.values())}), "
        f"{'' if row['compiled'] else 'un'}compiled, {how}",
        f"  {row['span']:.3f} ms from the first to the last: {row['busy']:.3f} busy, {row['gaps']:.3f} in gaps, "
        f"the longest {row['longest_gap']:.3f}",
        *(f"  {length:8.3f} ms  {name[:90]}" for name, length in row["longest"].items()),
    ]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[c.short for c in steps.configurations()])
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="write the results, with device and versions")
    parser.add_argument(
        "--folder", type=Path, default=Path("traces"), help="folder of the Chrome traces (default: traces)"
    )
    options = parser.parse_args()
    print(machine()["device"])
    rows = []
    for configuration in steps.chosen(options.only):
        row = {"case": configuration.name}
        try:
            row |= isolated(trace, configuration, options.folder)
        except RuntimeError as error:
            row["failure"] = str(error)
        rows.append(row)
        print(describe(row), flush=True)
        if options.output:
            write(options.output, "One training step on the device", rows)
    if failures := sum("failure" in row for row in rows):
        sys.exit(f"{failures} of {len(rows)} traces failed")


if __name__ == "__main__":
    main()
