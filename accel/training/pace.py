"""Measures the speed of a run's steps on the machine in its present state, and the fastest number of threads."""

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

ROUNDS = 3  # measurements of each number of threads, alternating, since other programs come and go
ROUND_SECONDS = 0.25
SLOW = 1.0  # seconds per step; slower steps are measured in one round only
WORTH = 1.05  # minimal speed-up by which doubling the threads is worth its cores
EVALUATION = 0.6  # time of evaluating an image, relative to training on it


class Pace(NamedTuple):
    """Seconds per step by number of threads, and the chosen number."""

    seconds: dict[int, float]
    threads: int

    @property
    def reason(self) -> str:
        """The measurement as text for the log."""
        few, more = min(self.seconds), max(self.seconds)
        if few == more:
            return f"{self.threads} of {self.threads}"
        speeds = ", ".join(f"{1 / seconds:.3g} steps/s with {count}" for count, seconds in self.seconds.items())
        return f"{self.threads} (measured: {speeds})"


def measure_pace(config: TrainingConfig, dataset: Dataset) -> Pace:
    """Times the first steps of a run on the CPU with 1, 2, 4, … threads, as long as more threads are faster.

    PyTorch's number of threads, and so OMP_NUM_THREADS, is the limit. The threads of a step wait for each other in busy
    loops, so next to other programs two threads can be much slower than one. The state of the run does not change.
    """
    limit = config.threads or torch.get_num_threads()
    run = Run(dataclasses.replace(config, compile=False), dataset)  # compilation would take longer than the measurement
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
            # Each number alternates with the one before, so that a program that starts meanwhile slows both.
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
    """Estimated seconds of the whole run."""
    images = len(learned_images(config, dataset))
    steps = steps_an_epoch(images, config.batch_size)
    looks = EVALUATION * len(dataset.test) / min(config.batch_size, images)
    return config.epochs * (steps + looks) * seconds_a_step
