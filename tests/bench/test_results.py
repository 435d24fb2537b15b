"""The figures in the README and in bench/results agree with the files that the benchmarks wrote."""

import json
import re
from pathlib import Path

import pytest

from bench.tables import HEAD, lines

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "bench" / "results"


def measured(name):
    return json.loads((RESULTS / f"{name}.json").read_text())


@pytest.mark.parametrize("page", [ROOT / "README.md", RESULTS / "README.md"])
def test_tables_of_operators_are_what_was_measured(page):
    text = page.read_text()
    table = text[text.index(HEAD) :].partition("\n\n")[0].splitlines()[2:]
    known = [line for name in ("h200-bottleneck", "h200-weighted-loss") for line in lines(measured(name))]
    assert len(table) > 3
    assert set(table) <= set(known)
    assert page.parent == ROOT or table == known


def test_the_training_step_is_what_was_measured():
    document = measured("h200-training-32px-b128")
    (row,) = document["results"]
    text = (ROOT / "README.md").read_text()
    assert f"{row['milliseconds'][0]:.3f} ms" in text
    (rate,) = re.findall(r"([\d,]+) images a second on one NVIDIA H200", text)
    assert float(rate.replace(",", "")) == pytest.approx(row["images_a_second"], abs=50)
    for fact in (document["device"], *(document[x].partition("+")[0] for x in ("torch", "triton"))):
        assert fact in text
