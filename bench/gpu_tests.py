"""Runs tests in several parallel processes, each with a share of them, so that kernels compile on all cores.

    python bench/gpu_tests.py [--output FILE.jsonl] [--examples N] PYTEST_ARGUMENT…

Results are written immediately, one line each. Exits with status 1 if a test failed, or if none passed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MOST = 8  # processes on one GPU
SHARE = "PATCHVAE_TEST_SHARE"  # in the environment of a share: its number, how many there are, and the file of outcomes
EXAMPLES = "PATCHVAE_TEST_EXAMPLES"  # how many of each property Hypothesis draws, if not the usual number


# As a plugin of pytest, in a share's process


def pytest_sessionstart():
    if EXAMPLES in os.environ:  # after tests/conftest.py chose a profile, before the tests take it up
        from hypothesis import settings

        settings.register_profile("fewer", settings(max_examples=int(os.environ[EXAMPLES])))
        settings.load_profile("fewer")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    number, count, _ = os.environ[SHARE].split(" ", 2)
    items[:] = items[int(number) :: int(count)]


def pytest_runtest_logreport(report):
    if report.when == "call" or report.outcome != "passed":  # what surrounds a test may fail or skip it
        row = {"test": report.nodeid, "outcome": report.outcome, "seconds": report.duration}
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            told = crash.message if crash else report.longreprtext
            row["failure"] = told[:300]  # lines are short enough to be appended in one piece
        with Path(os.environ[SHARE].split(" ", 2)[2]).open("a") as file:
            file.write(json.dumps(row) + "\n")


# As a command


def run(arguments, output, processes, examples=None):
    """(a row for each test, exit statuses) of pytest with these arguments."""
    output.unlink(missing_ok=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pytest", "-p", "bench.gpu_tests", "-p", "no:cacheprovider", *arguments]
    shares = []
    for number in range(processes):
        environment = os.environ | {SHARE: f"{number} {processes} {output.resolve()}"}
        if examples:
            environment[EXAMPLES] = str(examples)
        shares.append(subprocess.Popen(command, cwd=ROOT, env=environment))
    statuses = [share.wait() for share in shares]
    rows = [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []
    return rows, statuses


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, metavar="FILE.jsonl", help="write the result of every test")
    parser.add_argument("--examples", type=int, metavar="N", help="number of Hypothesis examples for each property")
    options, arguments = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        output = options.output or Path(folder) / "tests.jsonl"
        rows, statuses = run(arguments, output, min(MOST, os.cpu_count()), options.examples)
    counts = Counter(row["outcome"] for row in rows)
    for row in rows:
        if row["outcome"] == "failed":
            print(f"FAILED {row['test']}: {row['failure']}")
    print(", ".join(f"{count} {outcome}" for outcome, count in counts.items()) or "no tests")
    nothing_collected = 5  # of a share that got no test
    if counts["failed"] or not counts["passed"] or set(statuses) - {0, nothing_collected}:
        skipped = " (every one was skipped)" if counts["skipped"] and not counts["passed"] else ""
        sys.exit(f"{counts['failed']} tests failed, {counts['passed']} passed{skipped}")


if __name__ == "__main__":
    main()
