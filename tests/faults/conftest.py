"""What the tests of faults and hostile files report: each calls `seen`, and reliability.py writes the rows.

RELIABILITY=docs/reliability.md pytest tests/faults -m "long or not long"
"""

import os
from collections import Counter
from pathlib import Path

import pytest
import torch

from tests.faults import reliability

SEEN = pytest.StashKey[Counter]()


def pytest_configure(config):
    if "RELIABILITY" in os.environ and hasattr(config, "workerinput"):
        raise pytest.UsageError("RELIABILITY needs all tests in one process, without -n: each would write its own rows")
    config.stash[SEEN] = Counter()


@pytest.fixture(scope="package", autouse=True)
def one_thread():
    """Processes are forked here, and a forked one waits for ever for the threads that computed in its parent."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def seen(request):
    """seen(fault, outcome, cases): these cases of a fault ended as they shall."""
    name = f"{request.path.name}::{request.function.__name__}"

    def note(fault, outcome, cases=1):
        request.config.stash[SEEN][fault, outcome, name] += cases

    return note


def pytest_sessionfinish(session, exitstatus):
    path = os.environ.get("RELIABILITY")
    if path and exitstatus == 0:
        reliability.update(Path(path), session.config.stash[SEEN])
