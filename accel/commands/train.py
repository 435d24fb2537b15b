"""`train`: learn parts from images."""

import argparse
import dataclasses
import time
from pathlib import Path

from accel.common.options import Options, add_options, flag, option
from accel.common.progress import duration
from accel.training.catalogue import SYSTEMS
from accel.training.config import TrainingConfig

HELP = "learn parts from images"
LONG_EPOCH = 600.0  # seconds; a longer one is remarked on


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecipeOptions(Options):
    """The option --recipe."""

    recipe: str = option(
        "auto",
        "recipe",
        "defaults of the options that are not given: those of the paper, which are listed below, or quick ones (about "
        "4,000 steps of 16 images, or of 8 above 64 pixels, on a CPU, 8,000 on a GPU; learning rate 0.002, encoder "
        "small, categorical occurrences, beta-app 0.1, temperature-floor 0.5, warm-up over half of the "
        "steps); auto takes quick on a CPU or for few images, but never for adversarial systems or supervised; the log "
        "states the choice; the data set parts has a recipe of its own",
        choices=("auto", "paper", "quick"),
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments and options of the command."""
    add_options(parser, RecipeOptions)
    add_options(parser, TrainingConfig)
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="repeat a run: take all options that are not given from its config.json; needs another --out",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue the run in the folder --out, with the options that it was started with; --epochs may be more",
    )


def run(given: dict) -> None:
    """Trains, then prints a summary and draws figures into the run folder."""
    began = time.monotonic()
    resume, recipe, repeated = given.pop("resume"), given.pop("recipe", None), given.pop("config")
    for name, value in (("--recipe", recipe), ("--config", repeated)):
        if resume and value is not None:
            raise ValueError(f"{name} has no effect with --resume: a resumed run keeps its options")
    if repeated is not None and recipe is not None:
        raise ValueError("--recipe has no effect with --config: all options are in that file")
    config = TrainingConfig(**given)
    if repeated is not None:
        config = dataclasses.replace(TrainingConfig.from_json_file(Path(repeated)), **given)

    from accel.evaluation import find_occurrences, observe, summary
    from accel.training import checkpoint, processes
    from accel.training.loop import open_run, refuse_among_images, refuse_existing
    from accel.training.resources import choose_device, load_dataset
    from accel.training.run_folder import LEFT_OUT

    if resume:
        folder = config.folder
        saved = checkpoint.read(folder)["config"]
        config = TrainingConfig.from_dict({**saved, **given, "out": str(folder)}, str(folder / checkpoint.NAME))
    else:
        refuse_existing(config.folder)
        refuse_among_images(config)
    for name in given:
        if name in SYSTEMS[config.system].without_effect:
            raise ValueError(f"{flag(name)} has no effect on {config.system}")
    device = choose_device(config.device)
    with processes.joined(device):
        dataset, opening = None, ""  # a resumed run loads the data itself, after checking that it can be resumed
        if not resume:
            dataset = load_dataset(config)
            whose = f"options of {repeated}"
            if repeated is None:
                config, whose = with_recipe(config, given, recipe or "auto", dataset, device)
            config, opening = with_threads(config, whose, dataset, device)
        training = open_run(config, dataset, resume=resume)
        training.fit(observe, opening)
    if not training.writes:
        return

    model, dataset = training.model, training.dataset
    found = find_occurrences(model, dataset.test.images) if model.has_parts else None
    print()
    print(summary(training.folder, model, dataset, found))
    print()
    written = ["model/", *draw_closing_pictures(training, found)]
    if dataset.left_out:
        written.append(LEFT_OUT)
    print(f"{training.folder}: {', '.join(written)} after {time.monotonic() - began:.0f} s")


def with_recipe(config: TrainingConfig, given: dict, recipe: str, dataset, device) -> tuple[TrainingConfig, str]:
    """Returns (options of a new run on these images, the recipe's name and reason for the log).

    The recipe sets options that the user has not given.
    """
    from accel.training.recipes import choose_options

    name, why, options = choose_options(recipe, config, given, dataset, device.type)
    return TrainingConfig(**options, **given), f"recipe {name} ({why})"


def with_threads(config: TrainingConfig, whose: str, dataset, device) -> tuple[TrainingConfig, str]:
    """Returns (options, lines for the log); on a CPU, a measurement sets the number of threads.

    whose: where the options come from, as the log's first words.
    """
    from accel.data.batches import steps_an_epoch
    from accel.training import processes
    from accel.training.pace import measure_pace, run_seconds
    from accel.training.resources import learned_images

    images = len(learned_images(config, dataset))
    steps = config.epochs * steps_an_epoch(images, config.batch_size)
    opening = f"{whose}: {config.epochs} epochs, {steps:,} steps of {config.batch_size} images each"
    if device.type == "cpu" and processes.count() == 1 and config.epochs:
        try:
            pace = measure_pace(config, dataset)
        except (MemoryError, RuntimeError):
            return config, opening + "\n"  # the run will fail in the same way, and report it
        config = dataclasses.replace(config, threads=pace.threads)
        seconds = run_seconds(config, dataset, pace.seconds[pace.threads])
        opening += f", about {duration(seconds)}"
        opening += f"\nthreads: {pace.reason}"
        if (epoch := seconds / config.epochs) > LONG_EPOCH:
            fewer = float(f"{images * LONG_EPOCH / 2 / epoch:.1g}")
            opening += (
                f"\nan epoch takes about {duration(epoch)}, and results are shown at its end: with --train-images "
                f"{fewer:.0f} it takes about {duration(epoch * fewer / images)}"
            )
    return config, opening + "\n"


def draw_closing_pictures(training, found) -> list[str]:
    """Writes the closing figures into the run's folder and returns their names, or prints that matplotlib is missing.

    found: what `find_occurrences` found in the held-out images, or None for a model without parts.
    """
    from accel import figures

    if not training.model.has_decoder:
        return []
    try:
        drawn = list(figures.closing_pictures(training.model, training.dataset, found))
    except ImportError as error:
        print(f"no figures were drawn: {error}")
        return []
    return figures.write_pictures(training.folder, drawn, all_of_run=False)
