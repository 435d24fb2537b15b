"""The program: `python -m accel COMMAND`, also installed as `patchvae COMMAND`.

Errors that a user can cause end in one sentence on standard error and exit status 2. Commands import their dependencies
when they run, so that help and misspelt options are fast.
"""

import argparse
import contextlib
import os
import re
import sys

from accel import __version__
from accel.commands import figures, locate, measure, pack, report, reproduce, train, transfer, verify
from accel.common.progress import lead_nowhere, say
from accel.common.spelling import nearest

COMMANDS = {
    "train": train,
    "locate": locate,
    "transfer": transfer,
    "measure": measure,
    "figures": figures,
    "report": report,
    "reproduce": reproduce,
    "pack": pack,
    "verify": verify,
}  # in the order of the overview

# Options that determine memory, the most effective first.
HUNGRY = ("--batch-size", "--num-parts", "--image-size", "--train-images")

EXAMPLES = """examples:
  python -m accel train                                    find the parts of generated images, in minutes
  python -m accel train --data FOLDER --image-size 64      find parts in your own images, in minutes
  python -m accel locate RUN FOLDER parts.csv              list where its parts occur in a folder of images
  python -m accel train --data cifar10 --recipe paper      the paper's recipe on photographs
  python -m accel transfer runs/cifar10-patchvae+w         accuracy of its encoder: a row of Table 1
  python -m accel reproduce table1                         Table 1 on CIFAR-100, next to the paper's figures
  python -m accel pack FOLDER --image-size 224 set.npy     decode once, then train with --data set.npy
  python -m accel report runs/parts-patchvae+w             results and figures in one HTML file
  python -m accel train --resume --out RUN                 continue an interrupted run
"""


class Parser(argparse.ArgumentParser):
    """An argument parser that raises ValueError, with the nearest existing option in the message."""

    def __init__(self, **arguments):
        super().__init__(allow_abbrev=False, formatter_class=HelpFormatter, **arguments)

    def error(self, message: str):
        """Raises ValueError with argparse's message, without its prefix 'argument'."""
        raise ValueError(re.sub(r"^argument ([^\s:]+): ", r"\1 ", message))

    def parse_args(self, args=None, namespace=None):
        """As in argparse, but the error for an unknown option names the nearest known one."""
        result, unknown = self.parse_known_args(args, namespace)
        if unknown:
            word = unknown[0].split("=")[0]
            if not word.startswith("-"):
                places = ", ".join(action.metavar for action in self._get_positional_actions()) or "options"
                raise ValueError(f"unexpected argument {word!r}, {self.prog} takes {places} only")
            known = [name for name in self._option_string_actions if name.startswith("--") and name != "--help"]
            raise ValueError(f"unknown option {word} (nearest: {nearest(word, known)})")
        return result


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the format of descriptions, and aligns all help texts of options in one column."""

    def __init__(self, prog):
        super().__init__(prog, max_help_position=34, width=110)


def overview() -> str:
    """The help text of the program without a command."""
    commands = "\n".join(f"  {name:<12}{command.HELP}" for name, command in COMMANDS.items())
    return (
        "usage: python -m accel COMMAND [options]      (or: patchvae COMMAND [options])\n\n"
        "PatchVAE: unsupervised discovery of parts in images.\n\n"
        f"commands (COMMAND --help lists its options; --version prints the version):\n{commands}\n\n{EXAMPLES}"
    )


def run(arguments: list[str]) -> None:
    """Runs the command that the arguments name; raises what the command raises."""
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:], "--help"]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview(), end="")
        return
    if arguments[0] == "--version":
        print(f"patchvae {__version__}")
        return
    name, *rest = arguments
    if name not in COMMANDS:
        raise ValueError(f"unknown command {name!r} (nearest: {nearest(name, COMMANDS)})")
    command = COMMANDS[name]
    parser = Parser(prog=f"patchvae {name}", description=command.HELP)
    command.add_arguments(parser)
    places = "".join(f" {action.metavar}" for action in parser._get_positional_actions())
    parser.usage = f"%(prog)s{places} [options]"
    command.run(vars(parser.parse_args(rest)))


def main(arguments: list[str] | None = None) -> int:
    """The program; returns its exit status."""
    open_streams()
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        run(arguments)
        say()
    except BrokenPipeError:
        lead_nowhere(sys.stdout)  # the reader of the output has closed it
        return 141
    except KeyboardInterrupt as stop:
        complain(str(stop) or "interrupted")
        return 128 + getattr(stop, "signal_number", 2)
    except OSError as error:
        complain(f"{f'{error.filename}: ' if error.filename else ''}{error.strerror or error}")
    except (ValueError, ImportError, FloatingPointError) as error:
        complain(str(error))
    except (MemoryError, RuntimeError) as error:
        # PyTorch's class for this needs torch to be imported, and its CPU allocator does not use it.
        of_memory = re.search("memory|bad_alloc|size calculation overflowed", str(error))
        if not isinstance(error, MemoryError) and not of_memory:
            raise
        said = str(error) if isinstance(error, MemoryError) else ""
        complain(said or f"not enough memory{less(arguments[0])}")
    else:
        return 0
    return 2


def complain(sentence: str) -> None:
    """Prints an error to standard error, if that is open."""
    with contextlib.suppress(OSError):
        print(f"patchvae: {sentence}", file=sys.stderr)


def less(command: str) -> str:
    """The options that reduce the memory of a command, as the end of a sentence."""
    parser = Parser()
    COMMANDS[command].add_arguments(parser)
    known = [name for name in HUNGRY if name in parser._option_string_actions]
    return f": smaller values of {' or '.join(known)} need less" if known else ""


def open_streams() -> None:
    """Redirects closed standard streams to the null device, and lets all of them accept any character.

    Otherwise the next opened file, such as a checkpoint, would get the descriptor of a closed stream, and output to
    that stream, such as a library's warning, would be written into the file.
    """
    for descriptor in range(3):
        with contextlib.suppress(OSError):
            os.fstat(descriptor)
            continue
        os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        with contextlib.suppress(AttributeError):  # a notebook's
            getattr(sys, name).reconfigure(errors="replace")  # for a terminal that supports only ASCII
