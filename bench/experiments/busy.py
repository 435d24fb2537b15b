"""Speed of the default command next to busy programs, with one thread, with all threads, and with the chosen number.

    python bench/experiments/busy.py --busy 0 1 2 4 --results bench/results/busy.json

A busy program is an endless loop in Python. Each number is the median of several short measurements of the first steps
of the run on `parts`, on the CPU, alternating between the numbers of threads. The load average before the first busy
program shows what else is running on the machine.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
from accel.data import load
from accel.training import TrainingConfig
from accel.training.loop import Run
from accel.training.pace import measure_pace
from bench.common import records

STRETCHES = 3
SECONDS = 1.0


def images_per_second(run: Run, threads: int) -> float:
    """Images per second of one short measurement."""
    torch.set_num_threads(threads)
    batch = next(run.batches.epoch(0))
    began, steps = time.monotonic(), 0
    while time.monotonic() - began < SECONDS:
        run.step(*batch)
        steps += 1
    return steps * len(batch.images) / (time.monotonic() - began)


def measure(busy: int, all_threads: int) -> dict:
    """A row of results, next to a number of busy programs."""
    config, dataset = TrainingConfig(device="cpu", train_images=64, out="runs/busy"), load("parts", train_images=64)
    programs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    try:
        time.sleep(0.5)
        torch.set_num_threads(all_threads)
        chosen = measure_pace(config, dataset).threads
        run = Run(config, dataset)
        images_per_second(run, all_threads)  # the first stretch allocates
        speeds = {count: [] for count in sorted({1, all_threads, chosen})}
        for _ in range(STRETCHES):
            for count, values in speeds.items():
                values.append(images_per_second(run, count))
    finally:
        for program in programs:
            program.kill()
            program.wait()
    medians = {count: statistics.median(values) for count, values in speeds.items()}
    return {"busy": busy, "chosen": chosen, "one": medians[1], "all": medians[all_threads], "own": medians[chosen]}


def main():
    parser = argparse.ArgumentParser(description="Time training next to busy programs.")
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1, 2, 4])
    parser.add_argument("--results", type=Path, default=Path("bench/results/busy.json"))
    given = parser.parse_args()
    load_before, threads = os.getloadavg()[0], torch.get_num_threads()
    rows = [measure(busy, threads) for busy in given.busy]
    records.write(
        given.results, "Images a second beside busy programs.", rows, load_before=load_before, cores=os.cpu_count()
    )
    lines = [
        f"`{' '.join(['python', *sys.argv])}`",
        "",
        f"{os.cpu_count()} cores, torch {torch.__version__}; load average before: {load_before:.1f}.",
        "",
        f"| busy programs | 1 thread | {threads} threads | threads chosen | with those |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(f"| {row['busy']} | {row['one']:,.0f} | {row['all']:,.0f} | {row['chosen']} | {row['own']:,.0f} |")
    given.results.with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
