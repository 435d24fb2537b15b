"""How much memory there is, so that what cannot fit is refused before it is begun."""

import os
from pathlib import Path

LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a container, on Linux


def memory() -> int | None:
    """Bytes of memory that this process may have at most; None where the system does not say."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
    try:
        return min(total, int(LIMIT.read_text()))
    except (OSError, ValueError):  # no container, or "max"
        return total


def refuse_larger(size: int, what: object, advice: str) -> None:
    """Raises ValueError, with advice, if something that takes `size` bytes cannot fit into memory, itself alone."""
    limit = memory()
    if limit is not None and size > limit:
        raise ValueError(f"{what} takes {size / 1e9:,.1f} GB of memory, {limit / 1e9:,.1f} GB are available: {advice}")
