"""The paper's tables, made again: the runs that a table needs, whatever of them is missing, and the table itself.

All that is known of a run lies in its folder, so whoever is interrupted goes on by asking for the table again.
"""

import contextlib
import dataclasses
import functools
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch
from torch import nn

from accel.common.workers import end_with_parent
from accel.data import Dataset
from accel.evaluation import transfer
from accel.evaluation.tables import Row, Table, epochs_of
from accel.training import checkpoint
from accel.training.config import TrainingConfig
from accel.training.held_out import evaluating
from accel.training.loop import Run, load_dataset, open_run, read_history, refuse_other_options
from accel.training.protocols import TransferConfig

WARM_UP_STEPS = 2
TIMED_STEPS = 3
LOG = "log.txt"
END_TO_END = "end-to-end"  # in place of a protocol of transfer


@dataclasses.dataclass(frozen=True)
class Job:
    """One run of training and the transfers from it.

    row: of the table, with the figures that are to stand beside it. protocols: of transfer, or END_TO_END.
    """

    row: Row
    config: TrainingConfig
    protocols: tuple[str, ...]
    transfer_epochs: int

    @property
    def name(self) -> str:
        return f"{self.row.name}, seed {self.config.seed}"

    def results(self) -> dict[str, dict[str, Any]]:
        """What is recorded of the transfers that are done, by protocol."""
        asked = {"data": str(Path(self.config.data)), "seed": self.config.seed, "epochs": self.transfer_epochs}
        found = {}
        for entry in transfer.results(self.config.folder):
            if entry["protocol"] in self.protocols and asked.items() <= entry.items():
                found[entry["protocol"]] = entry
        return found

    def missing(self) -> list[str]:
        """What is to be done, the training first; nothing once all transfers are recorded, as they come last."""
        done = self.results()
        protocols = [name for name in self.protocols if name not in done]
        return ["training", *protocols] if protocols else []

    def seconds(self) -> float:
        """What training and transfers have taken so far."""
        return sum(entry["seconds"] for entry in [*read_history(self.config.folder), *self.results().values()])


def plan(
    table: Table,
    out: Path,
    *,
    systems: tuple[str, ...] = (),
    seeds: int = 3,
    epochs: int | None = None,
    **options: Any,
) -> list[Job]:
    """The runs of a table, row by row, each with the seeds 0, 1, ….

    Args:
        out: the folder in which each run has its own.
        systems: the rows of Tables 1 and 2 that are wanted, by default all; in the others the systems on which the
            option is varied, by default patchvae.
        epochs: of training and of each transfer, instead of the paper's.
        options: of `TrainingConfig`, for all rows; `data` is the table's by default. `weights`, for the row supervised
            alone, is a file of torchvision's ResNet-18: the paper's encoder that was trained on ImageNet.

    Raises ValueError for a system that the table has not, an option that has no effect, or a run in `out` that was
    trained with other options, whose results would else pass for these.
    """
    weights = options.pop("weights", None)
    options = (
        {"data": table.data} | table.options | {name: value for name, value in options.items() if value is not None}
    )
    training_epochs, transfer_epochs = epochs_of(options["data"]) if epochs is None else (epochs, epochs)
    jobs = []
    rows = rows_of(table, systems)
    if weights is not None and not any(row.imagenet for row in rows):
        raise ValueError(f"no row of {table.name} that is wanted starts from weights")
    for row in rows:
        own = {"epochs": training_epochs} | options | row.options
        if row.imagenet:
            if weights is None:
                row = dataclasses.replace(row, paper={})
            else:
                own |= {"weights": weights, "epochs": 0}
        varied = [str(value) for option, value in row.options.items() if option != "system"]
        for seed in range(seeds):
            name = "-".join([own["system"], *varied, f"epochs-{own['epochs']}-{transfer_epochs}-seed-{seed}"])
            config = TrainingConfig(**own, seed=seed, out=str(out / name))
            if (config.folder / "config.json").is_file():
                refuse_other_options(config, TrainingConfig.from_json_file(config.folder / "config.json"))
            jobs.append(Job(row, config, (END_TO_END,) if row.end_to_end else table.protocols, transfer_epochs))
    return jobs


def rows_of(table: Table, systems: tuple[str, ...]) -> list[Row]:
    """The rows that are wanted, each of one system; see `plan`."""
    known = tuple(row.options["system"] for row in table.rows if "system" in row.options)
    if known:
        if unknown := [system for system in systems if system not in known]:
            raise ValueError(f"{table.name} has no row {unknown[0]!r}, expected some of {', '.join(known)}")
        return [row for row in table.rows if not systems or row.options["system"] in systems]
    if other := [system for system in systems if not system.startswith("patchvae")]:
        raise ValueError(f"{table.name} varies an option of PatchVAE, which {other[0]!r} has not")
    systems = systems or ("patchvae",)
    return [
        dataclasses.replace(
            row,
            name=row.name if len(systems) == 1 else f"{system} {row.name}",
            options={"system": system} | row.options,
        )
        for system in systems
        for row in table.rows
    ]


@functools.lru_cache(maxsize=1)
def _dataset(data: str, image_size: int | None, data_dir: str | None, train_images: int | None) -> Dataset:
    """Loaded once for all runs of a process."""
    config = TrainingConfig(data=data, image_size=image_size, data_dir=data_dir, train_images=train_images)
    return load_dataset(config)


def dataset_of(config: TrainingConfig) -> Dataset:
    return _dataset(config.data, config.image_size, config.data_dir, config.train_images)


def perform(job: Job, device: str, say: Callable[[str], object]) -> None:
    """Trains and transfers whatever of a job is missing; `say` gets a line for each thing done."""
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
    """Records how well a run that has learned from labels names the test images, and returns the entry."""
    began = time.monotonic()
    with evaluating(model) as device:
        examples = transfer.split(dataset)["test"].batches(device)
        top1, top5 = transfer.top_accuracies((model(images), labels) for images, labels in examples)
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
    transfer.record(job.config.folder, entry)
    return entry


def devices_of(name: str) -> list[str]:
    """All GPUs for "auto", if there are any; else the one device that is named."""
    if name != "auto":
        return [name]
    return [f"cuda:{index}" for index in range(torch.cuda.device_count())] or ["cpu"]


def perform_all(jobs: list[Job], devices: list[str], say: Callable[[str], object]) -> Iterator[dict[str, str]]:
    """Performs jobs, and gives after each what has failed so far: name → sentence.

    There is one process for each entry of `devices`, which may name a device several times; if there is one entry, runs
    follow each other in this process. A run that fails leaves the others alone.
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
            raise OSError("a process that trains was killed; the same command goes on from where it was") from None
        finally:
            pool.shutdown(cancel_futures=True)


def _attempt(job: Job, device: str, say: Callable[[str], object]) -> str | None:
    """Performs a job; gives the sentence about what a user can cause, such as a run that diverged."""
    try:
        perform(job, device, say)
    except (ValueError, OSError, FloatingPointError, torch.OutOfMemoryError) as error:
        say(f"{job.name}: failed: {error}")
        return str(error)
    return None


_device: str  # of this process, where there are several


def _take_device(queue) -> None:
    global _device
    _device = queue.get()
    if _device != "cpu":
        torch.cuda.set_device(torch.device(_device).index or 0)  # where kernels are launched, too
    end_with_parent()


def _attempt_here(job: Job) -> tuple[list[str], str | None]:
    lines: list[str] = []
    return lines, _attempt(job, _device, lines.append)


def estimate(jobs: list[Job], devices: list[str]) -> float:
    """Seconds that the missing work will take, about: a few steps of each row's system are timed, and an epoch of
    transfer, which computes less than an epoch of training, counts as one; looks at held-out images do not count."""
    total, seconds = 0.0, {}
    for job in jobs:
        if not job.missing():
            continue
        if job.row.name not in seconds:
            seconds[job.row.name] = _seconds_an_epoch(dataclasses.replace(job.config, device=devices[0]))
        epochs = job.config.epochs + job.transfer_epochs * (len(job.missing()) - 1)
        total += seconds[job.row.name] * epochs
    return total / len(devices)


def _seconds_an_epoch(config: TrainingConfig) -> float:
    run = Run(config, dataset_of(config))
    batch = next(run.batches.epoch(0))
    for number in range(WARM_UP_STEPS + TIMED_STEPS):
        if number == WARM_UP_STEPS:
            run.step.ledger.means()  # waits for the device
            began = time.monotonic()
        run.step(*batch)
    run.step.ledger.means()
    return (time.monotonic() - began) / TIMED_STEPS * len(run.batches)


def collect(table: Table, jobs: list[Job], failures: dict[str, str]) -> dict[str, Any]:
    """What is known of a table, as plain data: for every cell the values by seed, their mean and standard deviation."""
    by_row = {job.row.name: [other for other in jobs if other.row.name == job.row.name] for job in jobs}
    first = jobs[0].config
    rows = []
    for name, own in by_row.items():
        paper = own[0].row.paper.get(first.data, (None,) * len(table.columns))
        rows.append(
            {
                "name": name,
                "cells": {
                    title: _cell(own, *column, figure)
                    for (title, column), figure in zip(table.columns.items(), paper, strict=True)
                },
                "seconds": statistics.mean(job.seconds() for job in own),
                "failures": {job.config.seed: failures[job.name] for job in own if job.name in failures},
            }
        )
    return {
        "table": table.name,
        "caption": table.caption,
        "data": first.data,
        "seeds": len({job.config.seed for job in jobs}),
        "epochs": max(job.config.epochs for job in jobs),
        "transfer_epochs": jobs[0].transfer_epochs,
        "rows": rows,
        "machine": machine(),
    }


def _cell(jobs: list[Job], protocol: str, last: str, selected: str, paper: float | None) -> dict[str, Any]:
    results = [job.results().get(END_TO_END if job.row.end_to_end else protocol, {}) for job in jobs]
    cell: dict[str, Any] = {"paper": paper}
    for choice, measure in (("last", last), ("selected", selected)):
        values = [result[measure] for result in results if measure in result]
        cell[choice] = {
            "values": values,
            "mean": statistics.mean(values) if values else None,
            "deviation": statistics.stdev(values) if len(values) > 1 else None,
        }
    return cell


def machine() -> dict[str, str]:
    """What the numbers were computed on and with."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(": ")[1] for line in lines if line.startswith("model name")), model)
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "device": f"{len(gpus)} × {gpus[0]}" if gpus else f"{os.cpu_count()} cores of {model}",
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def markdown(result: dict[str, Any]) -> str:
    """A table of the last epochs' accuracies, and one of those that a held-out tenth of the training set chose."""
    titles = list(result["rows"][0]["cells"])
    lines = [f"# {result['table'].replace('table', 'Table ')}: {result['caption']}", ""]
    seeds = f"{result['seeds']} seed" + ("s" if result["seeds"] > 1 else "")
    lines += [
        f"{result['data']}; {seeds}; epochs: {result['epochs']} of training, {result['transfer_epochs']} of transfer; "
        f"{result['machine']['device']}, PyTorch {result['machine']['torch']}.",
        "Percent, mean ± standard deviation over the seeds, or over as many as stand behind; in brackets the paper's.",
        "",
        f"    {result['command']}",
        "",
    ]
    headings = {"last": "After the last epoch", "selected": "After the epoch that a held-out tenth chose"}
    for choice, heading in headings.items():
        lines += [
            f"## {heading}",
            "",
            "| | " + " | ".join(titles) + " | seconds a run |",
            "|---|" + "---:|" * (len(titles) + 1),
        ]
        for row in result["rows"]:
            cells = [_text(cell[choice], cell["paper"], result["seeds"]) for cell in row["cells"].values()]
            lines.append("| " + " | ".join([row["name"], *cells, f"{row['seconds']:.1f}"]) + " |")
        lines.append("")
    for row in result["rows"]:
        lines += [f"{row['name']}, seed {seed}: {problem}" for seed, problem in row["failures"].items()]
    return "\n".join(lines).rstrip() + "\n"


def _text(measured: dict[str, Any], paper: float | None, seeds: int) -> str:
    count = len(measured["values"])
    text = f"{measured['mean']:.2f}" if count else "–"
    if count > 1:
        text += f" ± {measured['deviation']:.2f}"
    if 0 < count < seeds:
        text += f" of {count}"
    return text + (f" ({paper:.2f})" if paper is not None else "")
