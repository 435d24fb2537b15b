"""docs/reliability.md: the rows that the tests and the coverage-guided fuzzer write after each success."""

import re
from pathlib import Path

FAULTS = Path(__file__).parent
INTRODUCTION = """# Reliability

These faults and hostile inputs are injected by tests. Each row was written by the test that it names, after its
assertions, and gives the number of cases that ran. `RELIABILITY=docs/reliability.md pytest tests/faults -m "long or not
long"` rewrites the rows of the tests that it runs, and `python tests/faults/coverage_fuzz.py` writes its own rows.
Plain `pytest tests/` runs a short version of these tests.

"Nothing lost" means: the run was resumed, and its final weights, optimiser state and metrics were bit-identical to
those of an undisturbed run. "One sentence" means: exit status 2, or a ValueError or OSError with a message of one line
that names the file, option or argument.

| fault or hostile input | what happens | test | cases |
|---|---|---|---:|
"""
ROW = re.compile(r"^\| (.+) \| (.+) \| `(.+?)` \| ([\d,]+) \|$", re.MULTILINE)


def update(path, counts):
    """Replaces the rows of the tests that ran, and removes those of tests that no longer exist.

    counts: the number of cases by (fault, outcome, test), for every test that ran.
    """
    old = {row[:3]: int(row[3].replace(",", "")) for row in ROW.findall(path.read_text() if path.exists() else "")}
    ran = {test for _, _, test in counts}
    rows = {key: cases for key, cases in old.items() if key[2] not in ran and is_there(key[2])} | dict(counts)
    lines = [
        f"| {fault} | {outcome} | `{test}` | {cases:,} |"
        for (fault, outcome, test), cases in sorted(rows.items(), key=lambda row: (row[0][2], row[0][0]))
    ]
    path.write_text(INTRODUCTION + "\n".join(lines) + f"\n\n{sum(rows.values()):,} cases in all.\n")


def is_there(test):
    """Whether the function of a row's FILE::NAME still exists."""
    file, name = test.split("::")
    return (FAULTS / file).exists() and f"\ndef {name}(" in (FAULTS / file).read_text()
