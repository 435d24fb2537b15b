"""Shared code of commands that read a finished run: its options, images and model."""

import argparse
import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

from accel.common.options import Options, add_options, device_option, option
from accel.training.config import TrainingConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class MovedImages(Options):
    """The present location of a run's images, if they have moved."""

    data: str | None = option(None, "run", "present location of the run's images", absent="as in the run")
    data_dir: str | None = option(None, "run", "present folder of the published data sets", absent="as in the run")

    def applied(self, config: TrainingConfig) -> TrainingConfig:
        """Returns the run's options with the present location of its images."""
        named = {name: value for name in ("data", "data_dir") if (value := getattr(self, name)) is not None}
        return dataclasses.replace(config, **named)

    def load(self, config: TrainingConfig) -> Any:
        """The data set of a configuration, which is `applied`; an error for missing images says which option helps."""
        from accel.training.resources import load_dataset

        try:
            return load_dataset(config)
        except FileNotFoundError as error:
            hint = "" if self.data else "; if the images of the run are elsewhere, or were in memory, give --data"
            raise FileNotFoundError(f"{error}{hint}") from None


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinishedRunOptions(MovedImages):
    """Options of the commands that read a finished run."""

    device: str = device_option()


class FinishedRun(NamedTuple):
    """A run folder in memory."""

    folder: Path
    config: TrainingConfig
    model: Any  # on the device, in evaluation mode
    dataset: Any


def add_run_arguments(parser: argparse.ArgumentParser, options: type[Options]) -> None:
    """Adds the argument RUN and the options of a command."""
    parser.add_argument("run", metavar="RUN", help="folder of a run that was trained with train")
    add_options(parser, options)


def refuse_other_folder(folder: Path) -> None:
    """Raises FileNotFoundError unless the folder is that of a run."""
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} is not the folder of a run: it has no config.json")
    if any((folder / name).is_file() for name in ("weights.pt", "model.safetensors")):
        raise FileNotFoundError(f"{folder} is a model, expected the folder of the run, such as {folder.parent}")


def refuse_unfinished(folder: Path) -> None:
    """Raises FileNotFoundError if the folder of a run holds no model yet."""
    if not (folder / "model").is_dir():
        raise FileNotFoundError(f"{folder} has no model/ yet: the run has not finished its first epoch")


def open_finished_run(folder: Path, options: FinishedRunOptions) -> FinishedRun:
    """Reads the model and loads the images; ValueError or OSError if there is no finished run."""
    from accel.training import record
    from accel.training.resources import at_most_its_threads, choose_device
    from accel.training.run_folder import load_run

    refuse_other_folder(folder)
    refuse_unfinished(folder)
    model, config = load_run(folder)
    config = options.applied(config)
    dataset = options.load(config)
    record.refuse_other_images(folder, dataset)
    device = choose_device(options.device)
    at_most_its_threads(device, config)
    return FinishedRun(folder, config, model.to(device).eval(), dataset)
