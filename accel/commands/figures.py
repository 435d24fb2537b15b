"""`figures`: draw every picture of a run."""

import argparse
import dataclasses
import time
from pathlib import Path

from accel.commands.finished import FinishedRunOptions, add_run_arguments, open_finished_run
from accel.common.files import read_json
from accel.common.options import at_least, option

HELP = "draw all figures of a run: parts, appearances, reconstructions, samples, curves"


@dataclasses.dataclass(frozen=True, kw_only=True)
class FigureOptions(FinishedRunOptions):
    """The options of `figures`."""

    patch_size: int | None = option(
        None,
        "pictures",
        "side of the patches in the part gallery, in pixels",
        check=at_least(1),
        absent="the effective receptive field, the square that holds half of a cell's gradient",
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments and options of the command."""
    add_run_arguments(parser, FigureOptions)


def run(given: dict) -> None:
    """Draws into RUN/figures/ and lists the files."""
    began = time.monotonic()
    folder = Path(given.pop("run"))
    options = FigureOptions(**given)
    names = draw(folder, options)
    print(f"{folder}: {', '.join(names)} after {time.monotonic() - began:.0f} s")


def draw(folder: Path, options: FigureOptions) -> list[str]:
    """Writes every picture of the run in `folder` and returns their names."""
    from accel.evaluation import transfer_records
    from accel.evaluation.measures import Measures
    from accel.figures import pictures, write_pictures
    from accel.training.run_folder import read_history

    opened = open_finished_run(folder, options)
    if options.patch_size is not None and not opened.model.has_parts:
        raise ValueError(f"--patch-size has no effect on {opened.config.system}, which has no parts")
    drawn = pictures(
        opened.model,
        opened.dataset,
        history=read_history(folder),
        measures=read_json(folder / "measures.json", Measures, may_be_missing=True),
        transfer=transfer_records.results(folder),
        patch_size=options.patch_size,
    )
    return write_pictures(folder, drawn)
