"""`verify`: checks whether a run can be repeated here."""

import argparse
from pathlib import Path

from accel.commands.finished import MovedImages, add_run_arguments, refuse_other_folder
from accel.training.config import TrainingConfig

HELP = "check whether a run can be repeated here: compare data and versions, repeat its first steps"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments and options of the command."""
    add_run_arguments(parser, MovedImages)


def run(given: dict) -> None:
    """Prints differences; ValueError if the first steps are not bit-identical here."""
    folder = Path(given.pop("run"))
    options = MovedImages(**given)
    refuse_other_folder(folder)

    from accel.training import record
    from accel.training.repeating import differences, repeat
    from accel.training.resources import choose_device

    config = options.applied(TrainingConfig.from_json_file(folder / "config.json"))
    known = record.read(folder)
    if known is None or "first" not in known:
        raise ValueError(
            f"{folder} has no {record.NAME} with the result of its first steps: it was made by an earlier version"
        )
    found = differences(known, choose_device(config.device))
    for sentence in found or ["same machine and same versions"]:
        print(sentence)
    steps = known["first"]["steps"]
    if problem := repeat(known, config, options.load(config)):
        raise ValueError(f"{folder} cannot be repeated here: {problem}{f' ({found[0]})' if found else ''}")
    print(f"{folder}: the data are the same, and the first {steps} steps give bit-identical results here")
