"""What somebody may look at: lines, and a progress bar where tqdm is installed."""

import contextlib
import errno
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any


def say(*lines: str, error: bool = False) -> None:
    """Prints lines, or without any what is still to be printed; goes on where the terminal has been closed.

    Raises OSError that names the stream for any other failure, such as a full disk, BrokenPipeError where whoever read
    it has left.
    """
    stream = sys.stderr if error else sys.stdout
    try:
        if lines:
            print(*lines, sep="\n", file=stream)
        stream.flush()
    except BrokenPipeError:
        raise
    except OSError as problem:
        lead_nowhere(stream)
        if problem.errno != errno.EIO:
            name = "standard error" if error else "standard output"
            raise OSError(f"could not write to {name} ({problem.strerror})") from problem


def lead_nowhere(stream: Any) -> None:
    """Makes a standard stream write to nothing, also what it still holds, which Python would try to write at exit."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # a notebook's has no number
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextlib.contextmanager
def progress(total: int, *, initial: int = 0, shown: bool = True, **options: Any) -> Iterator[Callable[..., object]]:
    """Yields a function that advances the bar by a number of units and optionally shows a note next to it.

    shown: whether to show a bar. options: those of tqdm. If the terminal is closed, the work continues.
    """
    bar: Any = None
    with contextlib.suppress(ImportError, OSError):
        from tqdm import tqdm

        bar = tqdm(total=total or None, initial=initial, leave=False, disable=None if shown else True, **options)

    def advance(count: int, note: str = "") -> None:
        with contextlib.suppress(OSError):
            if bar is not None:
                bar.set_postfix_str(note, refresh=False)
                bar.update(count)

    try:
        yield advance
    finally:  # before the message of an error is printed
        with contextlib.suppress(OSError):
            if bar is not None:
                bar.close()


def duration(seconds: float) -> str:
    """A rounded duration as text."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
