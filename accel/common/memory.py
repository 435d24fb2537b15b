"""The available memory, so that data that do not fit are refused before they are loaded."""

import os
from pathlib import Path

LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a container, on Linux


def memory() -> int | None:
    """The maximal memory of this process in bytes; None if the system does not report it."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
    try:
        return min(total, int(LIMIT.read_text()))
    except (OSError, ValueError):  # no container, or "max"
        return total


def refuse_larger(size: int, what: object, advice: str) -> None:
    """Raises ValueError, with advice, if `size` bytes are more than the memory of this process."""
    limit = memory()
    if limit is not None and size > limit:
        raise ValueError(f"{what} takes {size / 1e9:,.1f} GB of memory, {limit / 1e9:,.1f} GB are available: {advice}")
