"""Stages continue after any failure of one, keep to their time limits, and are all reported."""

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from bench import all as everything
from bench import gpu_tests
from bench.common import stages
from bench.common.stages import GPU, Stage

ROOT = Path(__file__).parents[2]


def python(name, code, folder, seconds=60.0, needs=()):
    return Stage(name, [sys.executable, "-c", code], seconds, folder / f"{name}.json", needs)


def ends(pid):
    """Whether the process is gone, or a zombie, within some seconds; a signal takes a moment to arrive."""
    until = time.monotonic() + 10.0
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def by_name(rows):
    return {row["stage"]: row for row in rows}


def test_the_rest_reports_after_a_failure_and_a_time_out(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(stages, "LEAST", 0.1)
    child = (
        "import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)']); "
    )
    written = f"open({str(tmp_path / 'hangs.json')!r}, 'w').write(str(p.pid)); print('begun', flush=True); "
    rows = stages.run(
        [
            python("fails", "print('before'); raise SystemExit('made to fail')", tmp_path),
            python("hangs", child + written + "time.sleep(99)", tmp_path, seconds=3.0),
            python("lacks", "", tmp_path, needs=("no_such_module", "no-such-program", str(tmp_path / "no-such-file"))),
            python("works", f"open({str(tmp_path / 'works.json')!r}, 'w').write('1')", tmp_path),
        ],
        tmp_path,
        total=60.0,
    )
    assert [row["status"] for row in rows] == ["failed", "timed out", "skipped", "done"]
    assert rows[0]["why"] == "made to fail"
    assert rows[0]["output"] == str(tmp_path / "00-fails.log")
    assert rows[1]["why"] == "after 3 s"
    assert rows[1]["output"] == str(tmp_path / "hangs.json")  # what it had written counts
    assert ends(int((tmp_path / "hangs.json").read_text()))
    assert (tmp_path / "01-hangs.log").read_text() == "begun\n"
    assert rows[2]["why"] == f"needs no_such_module and no-such-program and {tmp_path / 'no-such-file'}"
    assert rows[3]["output"] == str(tmp_path / "works.json")
    assert json.loads((tmp_path / "stages.json").read_text()) == rows
    table = stages.table(rows)
    assert all(row["status"] in table and row["stage"] in table for row in rows)
    assert "made to fail" in capsys.readouterr().out


def test_a_stage_gets_what_is_left_of_the_whole_time(tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "LEAST", 0.5)
    sleeps = [python(name, "import time; time.sleep(99)", tmp_path) for name in ("first", "second")]
    began = time.monotonic()
    rows = stages.run(sleeps, tmp_path, total=2.0)
    assert time.monotonic() - began < 30.0  # of 198
    assert [(row["status"], row["why"]) for row in rows] == [("timed out", "after 2 s"), ("skipped", "no time is left")]


def test_children_that_a_stage_leaves_behind_end_with_it(tmp_path):
    code = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(99)"])
open({str(tmp_path / "leaves.json")!r}, "w").write(str(child.pid))
"""
    (row,) = stages.run([python("leaves", code, tmp_path)], tmp_path, 60.0)
    assert row["status"] == "done"
    assert ends(int((tmp_path / "leaves.json").read_text()))


# The plan itself


@pytest.mark.parametrize("quick", [True, False])
def test_the_plan_names_each_stage_once_and_its_scripts_are_there(tmp_path, quick):
    plan = list(everything.plan(tmp_path, quick))
    assert len({stage.name for stage in plan}) == len({stage.output for stage in plan}) == len(plan)
    for stage in plan:
        assert all((ROOT / word).exists() for word in stage.command if word.startswith(("bench/", "tests/")))
    names = [stage.name for stage in plan]
    assert names.index("compile") == 0
    assert ("memcheck" in names) == ("table 1" in names) == (not quick)
    if not quick:
        assert names[-1] == "table 1"


@pytest.mark.skipif(torch.cuda.is_available(), reason="takes minutes on a GPU, where every stage is larger")
def test_the_quick_plan_reports_every_stage_on_a_cpu(tmp_path, monkeypatch, capsys):
    plan = everything.plan
    passing = tmp_path / "test_passing.py"
    passing.write_text("def test_passes():\n    pass\n")

    def altered(folder, quick):
        for stage in plan(folder, quick):
            stage = dataclasses.replace(stage, seconds=10 * stage.seconds)  # this machine may be busy
            if stage.name == "weighted loss":
                stage = dataclasses.replace(stage, command=[sys.executable, "-c", "raise SystemExit('made to fail')"])
            if stage.name == "kernel tests":
                command = [*stage.command[: stage.command.index("tests/kernels")], str(passing)]
                stage = dataclasses.replace(stage, command=command, needs=())
            yield stage

    monkeypatch.setattr(everything, "QUICK", 10 * everything.QUICK)
    monkeypatch.setattr(everything, "plan", altered)
    monkeypatch.setattr(sys, "argv", ["all.py", "--quick", "--output", str(tmp_path)])
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(SystemExit) as ended:
        everything.main()
    assert ended.value.code == 1
    table = capsys.readouterr().out.rpartition("\nstage ")[2]
    rows = by_name(json.loads((tmp_path / "stages.json").read_text()))
    assert all(name in table for name in rows)
    statuses = {name: row["status"] for name, row in rows.items()}
    alone = {name for name in statuses if GPU in rows[name]["why"]}
    assert alone == {"graphs", "compiled graphs", "gpu tests", "passes"}
    assert statuses == {
        **dict.fromkeys(statuses, "done"),
        **dict.fromkeys(alone, "skipped"),
        "weighted loss": "failed",
    }, table
    tests = [json.loads(line) for line in Path(rows["kernel tests"]["output"]).read_text().splitlines()]
    assert [test["outcome"] for test in tests] == ["passed"]

    def document(name):
        return json.loads(Path(rows[name]["output"]).read_text())

    for name in ("compile", "training small", "bottleneck", "trace", "determinism", "whole run", "parts"):
        assert {"device", "torch", "commit", "date", "command"} <= document(name).keys()
        assert document(name)["results"]
        assert not [row for row in document(name)["results"] if "failure" in row]
    assert {row["provider"] for row in document("training small")["results"]} == {"ours", "plain", "release"}
    assert all(row["captured"] is False for row in document("training small")["results"])
    assert all(row["both"][0] > 0 and row["graph"] is None for row in document("bottleneck")["results"])
    assert len({row["provider"] for row in document("bottleneck")["results"]}) == 3
    (parts,) = document("parts")["results"]
    assert [row["part"] for row in parts["parts"]] == [
        "data", "encoder", "head", "bottleneck", "decoder", "loss", "optimiser",
    ]  # fmt: skip
    assert all(row["same"] for row in document("determinism")["results"])
    assert sum(row["compiled"] for row in document("compile")["results"]) > 0


# Tests that are shared by processes


def test_shares_run_every_test_once_and_say_what_failed(tmp_path):
    output = tmp_path / "some.jsonl"
    (tmp_path / "test_some.py").write_text(
        f"""
import pytest

@pytest.mark.parametrize("number", range(7))
def test_numbers(number):
    assert number != 5, "five is wrong"
    if number >= 3:  # results are written as they come, so a killed run keeps them
        assert f"test_numbers[{{number - 3}}]" in open({str(output)!r}).read()

def test_skipped():
    pytest.skip("not here")
"""
    )
    rows, statuses = gpu_tests.run([str(tmp_path), "--import-mode=importlib"], output, 3)
    assert len({row["test"] for row in rows}) == len(rows) == 8
    outcomes = [row["outcome"] for row in rows]
    assert [outcomes.count(kind) for kind in ("passed", "failed", "skipped")] == [6, 1, 1]
    assert "five is wrong" in next(row["failure"] for row in rows if row["outcome"] == "failed")
    assert sorted(statuses) == [0, 0, 1]
    assert [json.loads(line) for line in output.read_text().splitlines()] == rows


def test_shares_draw_as_many_examples_as_they_are_told(tmp_path):
    file = tmp_path / "test_drawn.py"
    file.write_text(
        f"""
from hypothesis import given, strategies

@given(strategies.integers())
def test_drawn(number):
    open({str(tmp_path / "drawn")!r}, "a").write("x")
"""
    )
    rows, _ = gpu_tests.run([str(file)], tmp_path / "drawn.jsonl", 1, examples=3)
    assert [row["outcome"] for row in rows] == ["passed"]
    assert len((tmp_path / "drawn").read_text()) == 3


def test_a_run_without_a_passed_test_fails(tmp_path):
    (tmp_path / "test_none.py").write_text("import pytest\n\ndef test_skipped():\n    pytest.skip('not here')\n")
    done = subprocess.run(
        [sys.executable, "bench/gpu_tests.py", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "every one was skipped" in done.stderr


# Kernels that are compiled in advance

LAUNCHES = """
import json, sys, torch
from bench import compile
from bench.common.compilations import counting
compile.prepare_here()
arguments, counts = (torch.bfloat16, torch.channels_last), []
for name, images, side in json.loads(sys.argv[1]):
    kind = "arithmetic", "categorical"
    cases = {"bottleneck": [(0, 4, 3, side), *arguments, kind], "weighted_loss": [(0, 8 * side), *arguments]}
    with counting() as kernels:
        compile.launch_operator(name, *cases[name], images=images)
    counts.append((kernels.compiled, kernels.found))
print(json.dumps(counts))
"""


def test_what_was_compiled_for_two_images_is_what_the_benchmarks_launch_for_many(tmp_path):
    pytest.importorskip("triton")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)

    def compiled_and_found(*launches):
        """The results for each (operator, images, side), all computed in one separate process."""
        command = [sys.executable, "-c", LAUNCHES, json.dumps(launches)]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    operators = "bottleneck", "weighted_loss"
    first = compiled_and_found(*((operator, 2, 4) for operator in operators))
    assert all(compiled > 0 and found == 0 for compiled, found in first)
    *again, other = compiled_and_found(*((operator, 37, 4) for operator in operators), ("weighted_loss", 2, 5))
    assert again == [[0, compiled] for compiled, _ in first]
    assert other[0] > 0  # another shape is another kernel
