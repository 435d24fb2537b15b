"""A progress bar, if tqdm is installed and the output is a terminal."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any


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
