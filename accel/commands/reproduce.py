"""`reproduce`: reproduces a table of the paper, with the paper's figures for comparison."""

import argparse
import dataclasses
import functools
import io
import json
import shlex
import sys
from pathlib import Path

from accel.common.files import write_whole
from accel.common.options import Options, add_options, at_least, flag, option
from accel.common.progress import duration
from accel.common.spelling import nearest
from accel.training.config import TrainingConfig

HELP = "reproduce one of the paper's tables"
TABLES = tuple(f"table{number}" for number in range(1, 7))
TRAINING = ("data_dir", "image_size", "train_images", "encoder", "weights", "device", "precision", "compile")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReproduceOptions(Options):
    """The options of `reproduce` besides those of training."""

    data: str | None = option(
        None, "table", "data set to use, as for train --data", absent="cifar100, imagenet for table2"
    )
    systems: str | None = option(
        None,
        "table",
        "comma-separated systems: rows of table1 and table2, or, for the other tables, the systems to vary",
        absent="all rows, patchvae",
    )
    seeds: int = option(3, "table", "number of runs per row, with seeds 0, 1, …", check=at_least(1))
    epochs: int | None = option(
        None, "table", "number of epochs of training and of each transfer", check=at_least(1), absent="the paper's"
    )
    parallel: int = option(1, "table", "number of simultaneous runs on each GPU, or on the CPU", check=at_least(1))
    out: str | None = option(None, "table", "folder for the runs and the table", absent="runs/TABLE-DATA")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments and options of the command."""
    parser.add_argument("table", metavar="TABLE", help=f"{TABLES[0]} to {TABLES[-1]}")
    add_options(parser, ReproduceOptions)
    add_options(parser, TrainingConfig, TRAINING)
    parser.add_argument(
        "--dry-run", action="store_true", help="only list the runs and estimate the time, which needs the data"
    )


def run(given: dict) -> None:
    """Performs missing training and transfers, then prints the table and writes it as Markdown, JSON and a plot."""
    name, dry_run = given.pop("table"), given.pop("dry_run")
    if name not in TABLES:
        raise ValueError(f"no such table: {name} (nearest: {nearest(name, TABLES)})")
    words = shlex.join(["python", "-m", "accel", "reproduce", name, *_words(given)])
    training = {key: given.pop(key) for key in TRAINING if key in given}
    options = ReproduceOptions(**given)

    from accel.evaluation import performing
    from accel.evaluation.collecting import collect, markdown
    from accel.evaluation.jobs import plan
    from accel.evaluation.tables import TABLES as tables

    table = tables[name]
    data = options.data or table.data
    out = Path(options.out or f"runs/{name}-{Path(data).stem}")
    systems = tuple(dict.fromkeys(options.systems.replace(" ", "").split(","))) if options.systems else ()
    jobs = plan(table, out, systems=systems, seeds=options.seeds, epochs=options.epochs, data=data, **training)
    devices = performing.devices_of(training.get("device", "auto")) * options.parallel
    if dry_run:
        for job in jobs:
            print(f"{job.name}: {', '.join(job.missing()) or 'done'}   {job.config.folder}")
        try:
            seconds = performing.estimate(jobs, devices)
            print(f"{len(jobs)} runs, about {duration(seconds)} on {', '.join(dict.fromkeys(devices))}")
        except OSError as error:
            print(f"{len(jobs)} runs; their time can only be estimated with the data: {error}")
        return

    # Errors of the data are reported once, and files are downloaded once.
    performing.dataset_of(jobs[0].config)
    out.mkdir(parents=True, exist_ok=True)
    say = functools.partial(print, file=sys.stdout, flush=True)  # the present stream: runs redirect theirs to log files
    try:
        for failures in performing.perform_all(jobs, devices, say):
            result = {"command": words, **collect(table, jobs, failures)}
            text = markdown(result)
            plain = json.dumps(result, indent=2, ensure_ascii=False) + "\n"
            write_whole({out / f"{name}.md": text.encode(), out / f"{name}.json": plain.encode()})
    except KeyboardInterrupt as stop:
        stop.args = ("stopped and saved; the same command continues from there",)
        raise
    print(f"\n{text}")
    print(f"{out}: {', '.join([f'{name}.md', f'{name}.json', *_plot(result, out)])}")
    if failures:
        first, problem = next(iter(failures.items()))
        raise ValueError(f"{len(failures)} of {len(jobs)} runs failed; {first}: {problem}")


def _plot(result: dict, out: Path) -> list[str]:
    """Writes the table as a bar chart and returns its file name, or prints that matplotlib is missing."""
    from accel import figures

    try:
        picture = io.BytesIO()
        figures.reproduction_bars(result).savefig(picture, format="png")
    except ImportError as error:
        print(f"no plot was drawn: {error}")
        return []
    write_whole({out / f"{result['table']}.png": picture.getvalue()})
    return [f"{result['table']}.png"]


def _words(given: dict) -> list[str]:
    """The options as they were written, for the record."""
    words = []
    for name, value in given.items():
        if isinstance(value, bool):
            words.append(flag(name) if value else f"--no-{flag(name)[2:]}")
        else:
            words += [flag(name), str(value)]
    return words
