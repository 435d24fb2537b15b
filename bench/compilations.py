"""How many kernels Triton compiled meanwhile, and how many lay in its cache on the disk."""

import contextlib
from dataclasses import dataclass, field

try:
    from triton import knobs
except ImportError:  # no Triton, nothing is compiled
    knobs = None


@dataclass
class Compilations:
    """Names of kernels, one for each time that one was asked for in a process for the first time."""

    compiled_names: list[str] = field(default_factory=list)
    found_names: list[str] = field(default_factory=list)

    def __call__(self, *, src, cache_hit, **_):
        (self.found_names if cache_hit else self.compiled_names).append(src.name)

    @property
    def compiled(self):
        return len(self.compiled_names)

    @property
    def found(self):
        return len(self.found_names)


@contextlib.contextmanager
def counting():
    """Gives Compilations that fills up inside."""
    counted = Compilations()
    if knobs is None:
        yield counted
        return
    before, knobs.compilation.listener = knobs.compilation.listener, counted
    try:
        yield counted
    finally:
        knobs.compilation.listener = before
