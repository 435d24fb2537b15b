"""docs/reliability.md: rows that tests and the coverage-guided fuzzer write of what they saw."""

import re
from pathlib import Path

FAULTS = Path(__file__).parent
INTRODUCTION = """# Reliability

What was broken on purpose, and what happened. Every row was written by the test that it names, after its assertions,
and counts the cases that ran: `RELIABILITY=docs/reliability.md pytest tests/faults -m "long or not long"` makes this
file, and of some of the tests their rows alone; `python tests/faults/coverage_fuzz.py` writes its own rows. Without
`-m`, as in every change, the tests run in a short version.

"nothing lost" stands for: the run was resumed, and ended in the weights, the optimisers' state and the metrics of a
run that nothing disturbed, bit for bit. "one sentence" stands for exit status 2, or a ValueError or OSError of one
line, which names the file, option or argument.

| fault or hostile input | what happens | test | cases |
|---|---|---|---:|
"""
ROW = re.compile(r"^\| (.+) \| (.+) \| `(.+?)` \| ([\d,]+) \|$", re.MULTILINE)


def update(path, counts):
    """Replaces the rows of the tests that ran, and drops those of tests that are no more.

    counts: the cases by (fault, outcome, test), with which every test that ran is there.
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
    """Whether the function of a row's FILE::NAME is still in its file."""
    file, name = test.split("::")
    return (FAULTS / file).exists() and f"\ndef {name}(" in (FAULTS / file).read_text()
