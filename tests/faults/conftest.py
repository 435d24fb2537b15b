"""What the tests of faults and hostile files report: each calls `seen`, and docs/reliability.md is made of that.

RELIABILITY=docs/reliability.md pytest tests/faults -m "long or not long"
"""

import os
from collections import Counter
from pathlib import Path

import pytest
import torch

SEEN = pytest.StashKey[Counter]()
INTRODUCTION = """# Reliability

What was broken on purpose, and what happened. Every row was written by the test that it names, after its assertions,
and counts the cases that ran: `RELIABILITY=docs/reliability.md pytest tests/faults -m "long or not long"` makes this
file. Without `-m`, as in every change, the tests run in a short version.

"nothing lost" stands for: the run was resumed, and ended in the weights, the optimisers' state and the metrics of a
run that nothing disturbed, bit for bit. "one sentence" stands for exit status 2, or a ValueError or OSError of one
line, which names the file, option or argument.

| fault or hostile input | what happens | test | cases |
|---|---|---|---:|
"""


def pytest_configure(config):
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
        rows = sorted(session.config.stash[SEEN].items(), key=lambda item: item[0][2])
        lines = [f"| {fault} | {outcome} | `{name}` | {cases:,} |" for (fault, outcome, name), cases in rows]
        total = sum(cases for _, cases in rows)
        Path(path).write_text(INTRODUCTION + "\n".join(lines) + f"\n\n{total:,} cases in all.\n")
