"""A progress bar where tqdm is installed and somebody looks."""

import contextlib
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def progress(total: int, *, initial: int = 0, shown: bool = True, **options) -> Iterator[Callable[[int], object]]:
    """A function to call with the number of units that were done. shown: a bar; `options` are tqdm's.

    What is measured goes on where the terminal has been closed.
    """
    try:
        from tqdm import tqdm
    except ImportError:
        yield lambda count: None
        return
    bar = None
    with contextlib.suppress(OSError):
        bar = tqdm(total=total or None, initial=initial, leave=False, disable=None if shown else True, **options)

    def advance(count: int) -> None:
        with contextlib.suppress(OSError):
            bar.update(count)

    yield advance if bar is not None else lambda count: None
    if bar is not None:
        with contextlib.suppress(OSError):
            bar.close()
