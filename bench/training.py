"""Benchmark of whole training steps against other implementations (see bench/common/steps.py).

    python bench/training.py [--quick] [--only NAME] [--output FILE.json] [--profile FOLDER]

It measures images per second of forward, backward and Adam on batches on the device, and peak memory; our step also
with order, gather and flips of the data. Each row is measured in a separate process, which isolates memory, failures
and hangs, and states whether its steps were compiled, and replayed as one CUDA graph. Every first loss is checked
before the timing. bench/parts.py shows the times of the parts of a step.
"""

import argparse
import itertools
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from accel.data import Batches, ImageSet
from accel.training.capture import WARM_UP
from bench.common import steps
from bench.common.isolated import isolated
from bench.common.records import machine, write
from bench.common.timing import CUDA, DEVICE, quantiles, synchronise
from bench.tracing import trace


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

    round_of(2)
    steps = max(1, int(budget / 5 / round_of(2)))
    return quantiles([round_of(steps) for _ in range(5)])


def with_data(step, configuration, budget):
    """Seconds a step of an epoch's own loop, order, gather and flips included."""
    count = configuration.batch * (64 if configuration.pixels < 100 else 8)
    images = configuration.images(count).permute(0, 2, 3, 1).cpu().numpy()
    images = ImageSet(images, np.arange(count) % steps.CLASSES)  # with labels, as the timed batches: one graph for both
    batches = Batches(images, configuration.batch, 0, True, DEVICE)
    return seconds_a_step(step, (batch for epoch in itertools.count() for batch in batches.epoch(epoch)), budget)


def timed(configuration, make, check, budget, data=False):
    """The row of a step; on a GPU it needs a separate process, so that the peak of memory is only its own."""
    began = time.perf_counter()
    step = make(configuration)
    images = configuration.images(4 * configuration.batch).split(configuration.batch)
    labels = torch.arange(configuration.batch, device=DEVICE) % steps.CLASSES
    check(step, images[0], labels)  # as it is then timed: a graph is of one kind of arguments
    for _ in range(WARM_UP + 2):
        step(images[0], labels)
    synchronise()
    start = time.perf_counter() - began  # with what is compiled, tried out and captured
    seconds = seconds_a_step(step, itertools.cycle([(batch, labels) for batch in images]), budget)
    row = {"milliseconds": [1e3 * x for x in seconds], "images_a_second": configuration.batch / seconds[0]}
    row["start_seconds"] = start
    row |= steps.how_it_ran(step)
    if CUDA:
        row["peak_megabytes"] = torch.cuda.max_memory_allocated() / 1e6
    if data:
        row["with_data"] = configuration.batch / with_data(step, configuration, budget)[0]
    return row


def timed_by_name(configuration, name, budget):
    contender = steps.CONTENDERS[name]
    return timed(configuration, contender.make, contender.check, budget, contender.data)


def measure(configuration, name, budget, seconds):
    """A row of results or of a failure, with a time limit."""
    row = {"case": configuration.name, "provider": name, **asdict(configuration)}
    try:
        return row | isolated(timed_by_name, configuration, name, budget, seconds=seconds)
    except (RuntimeError, TimeoutError) as error:  # it stays in the table, and fails the run
        return row | {"failure": str(error)}


HEAD = f"{'':61} ms a step (20 % to 80 %)     images/s   with data   ×ours  peak MB  start s  how"


def describe(row, ours):
    head = f"{row['case']:34} {row['provider']:26}"
    if "failure" in row:
        return f"{head} FAIL {row['failure']}"
    median, low, high = row["milliseconds"]
    rate = row["images_a_second"]
    data = f"{row['with_data']:11,.0f}" if "with_data" in row else f"{'':11}"
    peak = f"{row['peak_megabytes']:8,.0f}" if "peak_megabytes" in row else f"{'':8}"
    ratio = f"{rate / ours:7.2f}" if ours else f"{'':7}"
    how = f"{'' if row['compiled'] else 'un'}compiled, "
    how += "one graph" if row["captured"] else f"no graph: {row['no_graph_because']}"
    how = f"{row['start_seconds']:8.0f}  {how}"
    return f"{head} {median:9.3f} ({low:.3f} to {high:.3f}) {rate:11,.0f} {data} {ratio} {peak} {how}"


def forget_choices():
    """Removes the compiler's notes of which variant of a kernel was the fastest, measured beside other processes."""
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    for path in Path(cache_dir()).rglob("*.best_config"):
        path.unlink(missing_ok=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rows and shorter timings")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[c.short for c in steps.configurations()])
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="write the results, with device and versions")
    parser.add_argument("--profile", type=Path, metavar="FOLDER", help="also write a Chrome trace of our steps")
    options = parser.parse_args()
    if CUDA:
        forget_choices()  # of bench/compile.py
    else:
        print("No CUDA device: a small configuration on the CPU, in float32, uncompiled.")
    budget, limit = (0.5, 120.0) if options.quick else (2.0, 300.0)
    print(f"{machine()['device']}\n{HEAD}")
    rows = []
    for configuration in steps.chosen(options.only):
        ours = None
        for name in steps.contenders(configuration == steps.configurations()[0], options.quick):
            row = measure(configuration, name, budget, limit)
            ours = ours or (row.get("images_a_second") if name == "ours" else None)
            rows.append(row)
            print(describe(row, ours), flush=True)
            if options.output:
                write(options.output, "Whole training steps", rows)
        if options.profile:
            print(f"trace: {isolated(trace, configuration, options.profile)['file']}", flush=True)
    if failures := [row for row in rows if "failure" in row]:
        sys.exit(f"{len(failures)} of {len(rows)} measurements failed")


if __name__ == "__main__":
    main()
