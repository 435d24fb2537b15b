"""Counts the kernels that Triton compiles, and those that it finds in its disk cache."""

import contextlib
from dataclasses import dataclass, field

try:
    from triton import knobs
except ImportError:  # no Triton, nothing is compiled
    knobs = None


@dataclass
class Compilations:
    """Names of kernels, one for each first use of a kernel in a process."""

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
    """A context that yields Compilations and fills it."""
    counted = Compilations()
    if knobs is None:
        yield counted
        return
    before, knobs.compilation.listener = knobs.compilation.listener, counted
    try:
        yield counted
    finally:
        knobs.compilation.listener = before
