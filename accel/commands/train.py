"""`train`: learn parts from images."""

import argparse
import time

from accel.common.options import add_options, flag
from accel.training.catalogue import SYSTEMS
from accel.training.config import TrainingConfig

HELP = "learn parts from images"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what may stand behind the command."""
    add_options(parser, TrainingConfig)
    parser.add_argument(
        "--resume", action="store_true", help="go on with the run in the folder, with the options it has"
    )


def run(given: dict) -> None:
    """Trains, then prints what was achieved and draws pictures into the run folder."""
    began = time.monotonic()
    resume = given.pop("resume")
    config = TrainingConfig(**given)

    from accel.evaluation import observe, summary
    from accel.training import checkpoint, processes
    from accel.training.loop import open_run
    from accel.training.resources import choose_device

    if resume:
        folder = config.folder
        saved = checkpoint.read(folder)["config"]
        config = TrainingConfig.from_dict({**saved, **given, "out": str(folder)}, str(folder / checkpoint.NAME))
    for name in given:
        if name in SYSTEMS[config.system].without_effect:
            raise ValueError(f"{flag(name)} has no effect on {config.system}")
    with processes.joined(choose_device(config.device)):
        training = open_run(config, resume=resume)
        training.fit(observe)
    if not training.writes:
        return

    print()
    print(summary(training.folder, training.model, training.dataset))
    print()
    written = ["model/", *draw_closing_pictures(training)]
    print(f"{training.folder}: {', '.join(written)} after {time.monotonic() - began:.0f} s")


def draw_closing_pictures(training) -> list[str]:
    """Writes the closing pictures into the run's folder and returns their names; says so if matplotlib is missing."""
    from accel import figures

    if not training.model.has_decoder:
        return []
    try:
        drawn = list(figures.closing_pictures(training.model, training.dataset))
    except ImportError as error:
        print(f"no pictures were drawn, since {error}")
        return []
    return figures.write_pictures(training.folder, drawn, all_of_run=False)
