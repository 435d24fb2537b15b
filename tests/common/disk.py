"""Simulates a full disk."""

import resource
from contextlib import contextmanager


@contextmanager
def files_limited_to(size):
    """Lets every write beyond `size` bytes of a file fail with an OSError, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
