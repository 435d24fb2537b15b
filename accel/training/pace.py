"""How fast a run's steps are on the machine as it is now, and with how many threads they are fastest."""

import dataclasses
import statistics
import time
from typing import NamedTuple

import torch

from accel.data import Dataset
from accel.data.batches import steps_an_epoch
from accel.training.config import TrainingConfig
from accel.training.loop import Run
from accel.training.resources import learned_images

ROUNDS = 3  # of each number of threads in turn, since other programs come and go
ROUND_SECONDS = 0.25
SLOW = 1.0  # seconds a step from which one round has to do
WORTH = 1.05  # times as fast, from which another doubling of threads is worth its cores
EVALUATION = 0.6  # of a step's time an image takes that is only looked at


class Pace(NamedTuple):
    """Seconds a step by number of threads, and the number that is chosen."""

    seconds: dict[int, float]
    threads: int

    @property
    def reason(self) -> str:
        """For the log: what was measured."""
        few, more = min(self.seconds), max(self.seconds)
        if few == more:
            return f"{self.threads} of {self.threads}"
        speeds = ", ".join(f"{1 / seconds:.3g} steps/s with {count}" for count, seconds in self.seconds.items())
        return f"{self.threads} (measured: {speeds})"


def measure_pace(config: TrainingConfig, dataset: Dataset) -> Pace:
    """Times the first steps of a run on the CPU with 1, 2, 4, … threads, while more of them are faster.

    PyTorch's number of threads is the limit, and so OMP_NUM_THREADS is. The threads of a step wait for each other,
    spinning: beside other programs two can be much slower than one. Nothing of the run's own state is touched.
    """
    limit = config.threads or torch.get_num_threads()
    run = Run(dataclasses.replace(config, compile=False), dataset)  # compiling would take longer than it tells
    batch = next(run.batches.epoch(0))

    def seconds(threads: int, at_least: float) -> float:
        torch.set_num_threads(threads)
        began, steps = time.monotonic(), 0
        while time.monotonic() - began < at_least or not steps:
            run.step(*batch)
            steps += 1
        return (time.monotonic() - began) / steps

    try:
        seconds(limit, 0.0)  # the first step allocates
        first = seconds(limit, 0.0)
        rounds = 1 if first > SLOW else ROUNDS
        measured: dict[int, float] = {}
        counts = [config.threads or 1]
        while True:
            # Each beside the one before, in turn, so that a program that comes in between slows both.
            times = {count: [] for count in counts[-2:]}
            for _ in range(rounds):
                for count, taken in times.items():
                    taken.append(seconds(count, ROUND_SECONDS))
            measured |= {count: statistics.median(taken) for count, taken in times.items()}
            if len(counts) > 1 and measured[counts[-2]] < WORTH * measured[counts[-1]]:
                return Pace(measured, counts[-2])
            if counts[-1] == limit:
                return Pace(measured, limit)
            counts.append(min(2 * counts[-1], limit))
    finally:
        torch.set_num_threads(limit)


def run_seconds(config: TrainingConfig, dataset: Dataset, seconds_a_step: float) -> float:
    """About how long the run will take, at so many seconds a step."""
    images = len(learned_images(config, dataset))
    steps = steps_an_epoch(images, config.batch_size)
    looks = EVALUATION * len(dataset.test) / min(config.batch_size, images)
    return config.epochs * (steps + looks) * seconds_a_step
