"""A progress bar where tqdm is installed and somebody looks."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def progress(total: int, *, initial: int = 0, shown: bool = True, **options: Any) -> Iterator[Callable[[int], object]]:
    """A function to call with the number of units that were done. shown: a bar; `options` are tqdm's."""
    try:
        from tqdm import tqdm
    except ImportError:
        yield lambda count: None
        return
    with tqdm(total=total or None, initial=initial, leave=False, disable=None if shown else True, **options) as bar:
        yield bar.update
