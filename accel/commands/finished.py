"""What the commands share that look at a finished run: where its images are, and its model."""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

from accel.training.config import TrainingConfig
from accel.training.options import Options, add_options, option

DEVICE = next(field.metadata for field in dataclasses.fields(TrainingConfig) if field.name == "device")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinishedRun(Options):
    """Where a run is looked at, and where its images are if they have moved."""

    device: str = option("auto", "run", DEVICE["help"], check=DEVICE["check"])
    data: str | None = option(None, "run", "where the run's images are now", absent="where they were")
    data_dir: str | None = option(None, "run", "where the archives are now", absent="where they were")


class Opened(NamedTuple):
    """A run folder in memory."""

    folder: Path
    config: TrainingConfig
    model: Any  # on the device, in evaluation mode
    dataset: Any


def add_run_arguments(parser: argparse.ArgumentParser, options: type[FinishedRun]) -> None:
    """Adds the run folder and the options of looking at it."""
    parser.add_argument("run", metavar="RUN", help="folder of a run, as train leaves it")
    add_options(parser, options)


def open_run(folder: Path, options: FinishedRun) -> Opened:
    """Reads the model and loads the images; ValueError or OSError with a sentence if there is no finished run."""
    from accel.training.loop import choose_device, load_dataset, load_run

    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} is not the folder of a run: it has no config.json")
    if not (folder / "model").is_dir():
        raise FileNotFoundError(f"{folder} has no model/ yet: the run has not finished its first epoch")
    model, config = load_run(folder)
    moved = {name: value for name in ("data", "data_dir") if (value := getattr(options, name)) is not None}
    config = dataclasses.replace(config, **moved)
    return Opened(folder, config, model.to(choose_device(options.device)).eval(), load_dataset(config))


def read_json(path: Path, kind: type) -> Any:
    """A JSON file's dict or list, empty if there is no such file; ValueError names a file that is something else."""
    if not path.is_file():
        return kind()
    try:
        value = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(value, kind):
        raise ValueError(f"{path} must hold a {kind.__name__}, got {type(value).__name__}")
    return value


def read_history(folder: Path) -> list[dict]:
    """The lines of a run's metrics.jsonl, one an epoch; none if there is no such file."""
    path = folder / "metrics.jsonl"
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    except ValueError as error:
        raise ValueError(f"{path} is not a line of JSON an epoch: {error}") from None
    if not all(isinstance(line, dict) and "epoch" in line for line in lines):
        raise ValueError(f"{path} must say of each line which epoch it is of")
    return lines
