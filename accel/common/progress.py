"""A progress bar where tqdm is installed and somebody looks."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def progress(total: int, *, initial: int = 0, shown: bool = True, **options: Any) -> Iterator[Callable[..., object]]:
    """A function to call with the number of units that were done and, if need be, a note to stand beside the bar.

    shown: a bar; `options` are tqdm's. What is measured goes on where the terminal has been closed.
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
    finally:  # before the sentence of whatever ended it
        with contextlib.suppress(OSError):
            if bar is not None:
                bar.close()


def duration(seconds: float) -> str:
    """About how long, in words."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
