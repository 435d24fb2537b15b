"""The commands: `python -m accel COMMAND`, also installed as `patchvae COMMAND`.

What a user can cause ends in one sentence on standard error and exit status 2. What a command needs is
imported when it runs, so that help and misspelled options are answered at once.
"""

import argparse
import io
import os
import re
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

from accel.training.config import PATCHVAE_ONLY, TrainingConfig
from accel.training.options import add_options, flag, nearest

EXAMPLES = """examples:
  python -m accel train                                    find the parts of generated images, in minutes
  python -m accel train --data cifar10                     the paper's recipe on photographs
  python -m accel train --data FOLDER --image-size 64      your own images
  python -m accel train --resume --out runs/cifar10-patchvae+w
"""


class Command(NamedTuple):
    """A command of the program: what it is for, its options, and what it does with those that were given."""

    help: str
    add_options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[dict], None]


class Parser(argparse.ArgumentParser):
    """An argument parser that raises ValueError with a sentence, which names the nearest option there is."""

    def __init__(self, **arguments):
        super().__init__(allow_abbrev=False, formatter_class=HelpFormatter, **arguments)

    def error(self, message: str):
        raise ValueError(re.sub(r"^argument ([^\s:]+): ", r"\1 ", message))

    def parse_args(self, args=None, namespace=None):
        result, unknown = self.parse_known_args(args, namespace)
        if unknown:
            word = unknown[0].split("=")[0]
            if not word.startswith("-"):
                raise ValueError(f"unexpected argument {word!r}, {self.prog} takes options only")
            known = [name for name in self._option_string_actions if name.startswith("--") and name != "--help"]
            raise ValueError(f"unknown option {word} (nearest: {nearest(word, known)})")
        return result


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Text as it is written, and all descriptions of options in one column."""

    def __init__(self, prog):
        super().__init__(prog, max_help_position=34, width=110)


def add_train_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser, TrainingConfig)
    parser.add_argument(
        "--resume", action="store_true", help="go on with the run in the folder, with the options it has"
    )


def train(given: dict) -> None:
    """Trains, then prints what was achieved and draws pictures into the run folder."""
    began = time.monotonic()
    resume = given.pop("resume")
    config = TrainingConfig(**given)

    from accel.training import checkpoint
    from accel.training.loop import open_run

    if resume:
        folder = config.folder
        saved = checkpoint.read(folder)["config"]
        config = TrainingConfig.from_dict({**saved, **given, "out": str(folder)}, str(folder / checkpoint.NAME))
    if not config.system.startswith("patchvae"):
        for name in PATCHVAE_ONLY:
            if name in given:
                raise ValueError(f"{flag(name)} has no effect on {config.system}")
    run = open_run(config, resume=resume)
    run.fit()

    from accel.evaluation import summary

    print()
    print(summary(run.folder, run.model, run.dataset))
    print()
    print(f"{run.folder}: {', '.join(['model/', *draw(run)])} after {time.monotonic() - began:.0f} s")


def draw(run) -> list[str]:
    """Writes the pictures of a run into its folder and returns their names; says so if matplotlib is missing."""
    from accel import figures
    from accel.models.storage import write_whole
    from accel.training import checkpoint

    held_out = run.dataset.test
    try:
        pictures = {"reconstructions.png": figures.reconstructions(run.model, held_out.images[:12])}
        if hasattr(run.model, "num_parts"):
            pictures["parts.png"] = figures.parts(run.model, held_out, run.dataset.part_names)
    except ImportError as error:
        print(f"no pictures were drawn, since {error}")
        return []
    for name, figure in pictures.items():
        figure.savefig(buffer := io.BytesIO(), format="png")
        with checkpoint.writing(run.folder / name, run.folder):
            write_whole({run.folder / name: buffer.getvalue()})
    return list(pictures)


COMMANDS = {"train": Command("learn parts from images", add_train_options, train)}


def overview() -> str:
    """What the program says without a command."""
    commands = "\n".join(f"  {name:<12}{command.help}" for name, command in COMMANDS.items())
    return (
        "usage: python -m accel COMMAND [options]      (or: patchvae COMMAND [options])\n\n"
        "PatchVAE: unsupervised discovery of parts in images.\n\n"
        f"commands (each has --help):\n{commands}\n\n{EXAMPLES}"
    )


def run(arguments: list[str]) -> None:
    """Runs the command that the arguments name; raises what the command raises."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview(), end="")
        return
    name, *rest = arguments
    if name not in COMMANDS:
        raise ValueError(f"unknown command {name!r} (nearest: {nearest(name, COMMANDS)})")
    command = COMMANDS[name]
    parser = Parser(prog=f"patchvae {name}", usage="%(prog)s [options]", description=command.help)
    command.add_options(parser)
    command.run(vars(parser.parse_args(rest)))


def main(arguments: list[str] | None = None) -> int:
    """The program; returns its exit status."""
    try:
        run(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read the output has left; Python would fail again when it flushes standard output at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt as stop:
        print(f"patchvae: {str(stop) or 'interrupted'}", file=sys.stderr)
        return 128 + getattr(stop, "signal_number", 2)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        print(f"patchvae: {place}{error.strerror or error}", file=sys.stderr)
        return 2
    except (ValueError, ImportError, FloatingPointError) as error:
        print(f"patchvae: {error}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        # PyTorch's own class for this needs torch to be imported, and its CPU allocator does not use it.
        if not isinstance(error, MemoryError) and "memory" not in str(error):
            raise
        print(
            "patchvae: not enough memory: smaller values of --batch-size, --num-parts, --image-size or --train-images "
            "need less",
            file=sys.stderr,
        )
        return 2
    return 0
