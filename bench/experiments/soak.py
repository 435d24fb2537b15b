"""100,000 training steps on tiny images, to check that memory, open files and threads do not grow.

    python bench/experiments/soak.py --output soak

Writes soak.json after every epoch and soak.png at the end. It needs Linux for these counts.
"""

import argparse
import os
import sys
import threading
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))
from accel.data import Dataset, ImageSet
from accel.training import TrainingConfig
from accel.training.loop import open_run
from bench.common import records

STEPS_AN_EPOCH = 1000
BATCH = 2


def resident():
    """Megabytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def sample(step):
    """Memory, open files and threads of this process after a number of steps."""
    files = len(os.listdir("/proc/self/fd"))
    native = len(os.listdir("/proc/self/task"))
    return {
        "step": step,
        "megabytes": resident(),
        "files": files,
        "threads": threading.active_count(),
        "native": native,
    }


def growth(rows):
    """By how much each count grew from the first tenth of a run to its end."""
    first, last = rows[len(rows) // 10], rows[-1]
    return {name: last[name] - first[name] for name in first if name != "step"}


def plot(rows, path):
    """The counts over the steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), layout="constrained")
    axes = figure.subplots(3, sharex=True)
    steps = [row["step"] for row in rows]
    for axis, name, title in zip(
        axes, ("megabytes", "files", "native"), ("resident memory, MB", "open files", "threads"), strict=True
    ):
        axis.plot(steps, [row[name] for row in rows])
        axis.set_ylim(0, 1.2 * max(row[name] for row in rows))
        axis.set_title(title, loc="left", fontsize=10)
    axes[-1].set_xlabel("steps")
    figure.savefig(path, dpi=100)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--output", type=Path, default=Path("soak"))
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    images = [ImageSet(rng.integers(0, 256, (count, 8, 8, 3), np.uint8)) for count in (BATCH * STEPS_AN_EPOCH, 8)]
    config = TrainingConfig(
        data="noise", encoder="small", num_parts=2, part_dim=1, batch_size=BATCH, device="cpu", checkpoint_every=5.0,
        epochs=-(-given.steps // STEPS_AN_EPOCH), temperature_rate=1e-3, out=str(given.output / "run"),
    )  # fmt: skip
    run, rows = open_run(config, Dataset("noise", *images)), []

    def observe(model, dataset, epoch):
        rows.append(sample(epoch * STEPS_AN_EPOCH))
        records.write(given.output / "soak.json", __doc__.splitlines()[0], rows)
        return {}

    run.fit(observe)
    plot(rows, given.output / "soak.png")
    print(", ".join(f"{name} {value:+g}" for name, value in growth(rows).items()))


if __name__ == "__main__":
    main()
