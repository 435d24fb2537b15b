"""The figures in the README and in bench/results agree with the files that the benchmarks wrote."""

import json
import re
from pathlib import Path

import pytest

from bench.tables import HEAD, PASSES_HEAD, lines, lines_of_passes

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "bench" / "results"


def measured(name):
    return json.loads((RESULTS / f"{name}.json").read_text())


def table(page, head):
    text = page.read_text()
    return text[text.index(head) :].partition("\n\n")[0].splitlines()[2:]


def test_tables_of_operators_are_what_was_measured():
    page = RESULTS / "README.md"
    known = [line for name in ("h200-bottleneck", "h200-weighted-loss") for line in lines(measured(name))]
    assert table(page, HEAD) == known


# Cases whose tiles were changed after they were measured, to tiles that were not measured with them.
OF_OLD_TILES = {
    "geometric B128 N16 D6 14x14 bfloat16 channels-last",
    "geometric, categorical B128 N64 D16 28x28 bfloat16 contiguous",
}


def test_times_of_passes_are_what_was_measured():
    pytest.importorskip("triton")
    document = measured("h200-passes")
    by_pass = list(lines_of_passes(document))
    shown = {row["case"] for row in document["results"] if any(f", {row['case']} |" in line for line in by_pass)}
    assert {row["case"] for row in document["results"]} - shown == OF_OLD_TILES
    assert table(RESULTS / "README.md", PASSES_HEAD) == by_pass
    few = table(ROOT / "README.md", PASSES_HEAD)
    assert len(few) > 3
    assert set(few) <= set(by_pass)


def test_the_training_step_is_what_was_measured():
    document = measured("h200-training-32px-b128")
    (row,) = document["results"]
    text = (ROOT / "README.md").read_text()
    assert f"{row['milliseconds'][0]:.3f} ms" in text
    (rate,) = re.findall(r"([\d,]+) images a second on one NVIDIA H200", text)
    assert float(rate.replace(",", "")) == pytest.approx(row["images_a_second"], abs=50)
    for fact in (document["device"], *(document[x].partition("+")[0] for x in ("torch", "triton"))):
        assert fact in text


def test_means_of_the_ladder_are_what_was_measured():
    """Every cell of the table of harder images is a mean over seeds in ladder.json, or empty if there is none."""
    methods = ["new recipe", "first recipe", "paper's recipe, 8 epochs", "k-means on cells", "untrained",
               "fine encoder taught"]  # fmt: skip
    found = {}
    for row in measured("ladder")["results"]:
        found.setdefault((row["rung"], row["method"]), []).append(row["mean"])
        found.setdefault((row["rung"], "chance"), []).append(row["chance"])
    rows = [line.strip("|").split("|") for line in table(RESULTS / "README.md", "| images | new recipe |")]
    assert {name.strip() for name, *_ in rows} == {rung for rung, _ in found}
    for name, *cells in rows:
        means = [found.get((name.strip(), method)) for method in (*methods, "chance")]
        assert [cell.strip() for cell in cells] == [f"{sum(m) / len(m):.2f}" if m else "" for m in means]
