"""Performs the missing runs and transfers of a table, one after another or several at once."""

import contextlib
import dataclasses
import functools
import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch
from torch import nn

from accel.common.workers import end_with_parent
from accel.data import Dataset
from accel.evaluation import transfer
from accel.evaluation.jobs import END_TO_END, Job
from accel.evaluation.probes import top_accuracies
from accel.evaluation.splits import split
from accel.evaluation.transfer_records import record
from accel.training import checkpoint
from accel.training.capture import WARM_UP
from accel.training.config import TrainingConfig
from accel.training.held_out import evaluating
from accel.training.loop import Run, open_run
from accel.training.protocols import TransferConfig
from accel.training.resources import load_dataset

FIRST_STEPS = WARM_UP + 2  # which include compilation, capture and choice of kernels, once per run
TIMED_STEPS = 10  # between readings of the clock, each of which waits for the device
TIMED_SECONDS = 1.0
LOG = "log.txt"


@functools.lru_cache(maxsize=1)
def _dataset(data: str, image_size: int | None, data_dir: str | None, train_images: int | None) -> Dataset:
    """See `dataset_of`; takes only the options that determine the images, so that runs share them."""
    config = TrainingConfig(data=data, image_size=image_size, data_dir=data_dir, train_images=train_images)
    return load_dataset(config)


def dataset_of(config: TrainingConfig) -> Dataset:
    """The data set of a configuration, loaded once for all runs of a process that share it."""
    return _dataset(config.data, config.image_size, config.data_dir, config.train_images)


def perform(job: Job, device: str, say: Callable[[str], object]) -> None:
    """Performs the missing training and transfers of a job; `say` gets one line for each."""
    missing = job.missing()
    if not missing:
        return
    config = dataclasses.replace(job.config, device=device)
    dataset = dataset_of(config)
    config.folder.mkdir(parents=True, exist_ok=True)
    with (config.folder / LOG).open("a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        run = open_run(config, dataset, resume=checkpoint.exists(config.folder))
        done, began = run.epoch, time.monotonic()
        run.fit()
        if run.epoch > done:
            say(f"{job.name}: trained in {time.monotonic() - began:.0f} s")
        for protocol in missing[1:]:
            began = time.monotonic()
            if protocol == END_TO_END:
                result = classify(job, run.model, dataset)
            else:
                options = TransferConfig(epochs=job.transfer_epochs, seed=config.seed, device=device)
                result = transfer.transfer(config.folder, protocol, options, dataset)
            say(f"{job.name}: {protocol} {result['last_top1']:.2f} % in {time.monotonic() - began:.0f} s")


def classify(job: Job, model: nn.Module, dataset: Dataset) -> dict[str, Any]:
    """Records the test accuracy of a supervised run, and returns the entry."""
    began = time.monotonic()
    with evaluating(model) as device:
        examples = split(dataset)["test"].batches(device)
        top1, top5 = top_accuracies((model(images), labels) for images, labels in examples)
    entry = {
        "protocol": END_TO_END,
        "data": dataset.name,
        "seed": job.config.seed,
        "epochs": job.transfer_epochs,
        "last_top1": top1,
        "parameters": {},
        "seconds": time.monotonic() - began,
    }
    if dataset.num_classes > 5:
        entry["top5"] = top5
    record(job.config.folder, entry)
    return entry


def devices_of(name: str) -> list[str]:
    """All GPUs for "auto", if there are any; otherwise the given device."""
    if name != "auto":
        return [name]
    return [f"cuda:{index}" for index in range(torch.cuda.device_count())] or ["cpu"]


def perform_all(jobs: list[Job], devices: list[str], say: Callable[[str], object]) -> Iterator[dict[str, str]]:
    """Performs jobs, and yields the failures so far after each of them: {name: message}.

    Starts one process for each entry of `devices`, which may contain a device several times; for a single entry, jobs
    run one after another in this process. A failed run does not affect the others.
    """
    failures: dict[str, str] = {}
    if len(devices) == 1:
        for job in jobs:
            if problem := _attempt(job, devices[0], say):
                failures[job.name] = problem
            yield failures
        return
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    queue = context.SimpleQueue()
    for device in devices:
        queue.put(device)
    with ProcessPoolExecutor(len(devices), context, _take_device, (queue,)) as pool:
        futures = {pool.submit(_attempt_here, job): job for job in jobs}
        try:
            for future in as_completed(futures):
                lines, problem = future.result()
                for line in lines:
                    say(line)
                if problem:
                    failures[futures[future].name] = problem
                yield failures
        except BrokenProcessPool:
            raise OSError(
                "a training process was killed; the same command continues from the last checkpoint"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def _attempt(job: Job, device: str, say: Callable[[str], object]) -> str | None:
    """Performs a job; returns the message of an error that a user can cause, such as a run that diverged."""
    try:
        perform(job, device, say)
    except (ValueError, OSError, FloatingPointError, MemoryError, torch.OutOfMemoryError) as error:
        say(f"{job.name}: failed: {error}")
        return str(error)
    return None


_device: str  # of this process, where there are several


def _take_device(queue) -> None:
    global _device
    _device = queue.get()
    if _device != "cpu":
        torch.cuda.set_device(torch.device(_device).index or 0)  # kernels are launched there, too
    end_with_parent()


def _attempt_here(job: Job) -> tuple[list[str], str | None]:
    lines: list[str] = []
    return lines, _attempt(job, _device, lines.append)


def estimate(jobs: list[Job], devices: list[str]) -> float:
    """Estimated seconds for the missing work. For each row's system, the first steps, which include compilation and
    capture, count once per run, and the following steps are timed. An epoch of transfer, which is cheaper, counts as an
    epoch of training; evaluation on held-out images does not count."""
    total, timed = 0.0, {}
    for job in jobs:
        if not job.missing():
            continue
        if job.row.name not in timed:
            timed[job.row.name] = _time_steps(dataclasses.replace(job.config, device=devices[0]))
        first, epoch = timed[job.row.name]
        total += first + epoch * (job.config.epochs + job.transfer_epochs * (len(job.missing()) - 1))
    return total / len(devices)


def _time_steps(config: TrainingConfig) -> tuple[float, float]:
    """Seconds of a run's first steps, and of an epoch of steps after them."""
    run = Run(config, dataset_of(config))
    batch = next(run.batches.epoch(0))

    def seconds(steps: int) -> float:
        began = time.monotonic()
        for _ in range(steps):
            run.step(*batch)
        run.step.ledger.means()  # waits for the device
        return time.monotonic() - began

    first = seconds(FIRST_STEPS)
    steps, elapsed = 0, 0.0
    while elapsed < TIMED_SECONDS:
        elapsed += seconds(TIMED_STEPS)
        steps += TIMED_STEPS
    return first, elapsed / steps * len(run.batches)
