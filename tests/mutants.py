"""Mutation testing: does a test fail if an operator, a number or a condition of the code changes?

    python -m tests.mutants [--count 200] [--seed 0] [--out runs/mutants] [PATH …]

cosmic-ray makes the mutants. A random sample, one at each of --count places, is run against the tests of its own folder
only. PATH … restricts the sample to files or folders. Mutations apply to a copy of the code in --out, never to the code
itself. An interrupted command continues with its copy when it is started again. It ends with a table of the folders;
survivors.diff contains the mutants that no test noticed.
"""

import argparse
import ast
import json
import os
import random
import shutil
import sys
import time
from collections import Counter
from pathlib import Path

from cosmic_ray.commands import init
from cosmic_ray.mutating import MutationVisitor, mutate_and_test
from cosmic_ray.plugins import get_operator
from cosmic_ray.testing import run_tests
from cosmic_ray.work_db import use_db
from cosmic_ray.work_item import TestOutcome

ROOT = Path(__file__).parents[1]
COPIED = ("accel", "reference", "tests", "pyproject.toml")

# Of each room: what is mutated, and which tests should notice. test_compile takes minutes and sees no numbers.
KERNELS = "tests/kernels --ignore=tests/kernels/test_compile.py"
ROOMS = {
    "reference": (["reference/*.py"], "tests/reference"),
    "accel/ops": (["accel/ops/*.py"], f"tests/ops {KERNELS}"),
    "accel/kernels": (["accel/kernels/*.py"], KERNELS),
    "accel/models": (["accel/models/*.py"], "tests/models"),
    "accel/training": (
        [f"accel/training/{name}.py" for name in ("schedule", "step", "systems")],
        " ".join(f"tests/training/test_{name}.py" for name in ("schedule", "step", "systems")),
    ),
}
OUTCOMES = ("killed", "survived", "timeout", "not run")

# Hypothesis need not look for the smallest example that fails: any will do.
WITHOUT_SHRINKING = """
from hypothesis import Phase

settings.register_profile("mutants", settings.default, phases=[Phase.explicit, Phase.generate])
settings.load_profile("mutants")
"""


def modules():
    """{path of a module: its folder}, in the current directory."""
    return {path: room for room, (globs, _) in ROOMS.items() for glob in globs for path in sorted(Path().glob(glob))}


def test_command(room):
    return f"{sys.executable} -m pytest -x -p no:cacheprovider {ROOMS[room][1]}"


def annotated(source):
    """A function: whether a (line, column) is inside a type annotation, which has no effect at run time."""
    nodes = list(ast.walk(ast.parse(source)))
    annotations = [getattr(node, name, None) for node in nodes for name in ("annotation", "returns")]
    spans = [((a.lineno, a.col_offset), (a.end_lineno, a.end_col_offset)) for a in annotations if a]
    return lambda place: any(start <= place < end for start, end in spans)


def is_python(mutation, source):
    """Whether the mutant parses: cosmic-ray takes the * that ends positional arguments for a product."""
    operator = get_operator(mutation.operator_name)(**mutation.operator_args)
    try:
        ast.parse(MutationVisitor.mutate_code(source, operator, mutation.occurrence))
    except SyntaxError:
        return False
    return True


def draw_sample(paths, count, seed):
    """Work items, one at each of `count` places of the modules, or of all places if there are fewer."""
    with use_db(":memory:") as everything:
        init(paths, everything, {})
        items = everything.work_items
    sources = {str(path): path.read_text() for path in paths}
    skipped = {path: annotated(source) for path, source in sources.items()}
    places = {}
    for item in sorted(items, key=lambda item: (item.mutations[0].operator_name, item.mutations[0].occurrence)):
        path, start = str(item.mutations[0].module_path), item.mutations[0].start_pos
        if not skipped[path](start):
            places.setdefault((path, start), []).append(item)
    rng = random.Random(seed)
    sample = []
    for place in rng.sample(sorted(places), len(places)):
        item = rng.choice(places[place])
        if len(sample) < count and is_python(item.mutations[0], sources[place[0]]):
            sample.append(item)
    return sample


def time_unmutated(room):
    """Seconds that a folder's tests take; exits if they fail, because a mutant could then not be distinguished."""
    start = time.monotonic()
    outcome, output = run_tests(test_command(room), timeout=None)
    if outcome != TestOutcome.SURVIVED:
        sys.exit(f"{output}\n{room}: the tests must pass on the code as it is: {test_command(room)}")
    return time.monotonic() - start


def outcome_of(result):
    """One of OUTCOMES; cosmic-ray counts a timed-out test as killed."""
    if result.test_outcome == TestOutcome.SURVIVED:
        return "survived"
    if result.test_outcome == TestOutcome.KILLED:
        return "timeout" if result.output == "timeout" else "killed"
    return "not run"


def run(session, room_of, seconds):
    """Tests the mutants without a result; each may take three times as long as the unmutated code plus 30 s."""
    for item in session.pending_work_items:
        (mutation,) = item.mutations
        room = room_of[mutation.module_path]
        start = time.monotonic()
        result = mutate_and_test(item.mutations, test_command(room), timeout=3 * seconds[room] + 30)
        session.set_result(item.job_id, result)
        print(
            f"{session.num_results}/{session.num_work_items} {outcome_of(result):8} "
            f"{mutation.module_path}:{mutation.start_pos[0]} {mutation.operator_name.removeprefix('core/')} "
            f"({time.monotonic() - start:.0f} s)",
            flush=True,
        )


def summarise(session, room_of, out):
    """Prints the table and writes the diffs of the surviving mutants."""
    counts, survivors = Counter(), []
    for item, result in session.completed_work_items:
        counts[room_of[item.mutations[0].module_path], outcome_of(result)] += 1
        if outcome_of(result) == "survived":
            survivors.append(result.diff.removeprefix("--- mutation diff ---\n"))
    print("\n" + "".join(f"{heading:>10}" for heading in OUTCOMES) + "  room")
    for room in ROOMS:
        if any(counts[room, outcome] for outcome in OUTCOMES):
            print("".join(f"{counts[room, outcome]:10}" for outcome in OUTCOMES) + f"  {room}")
    diffs = out / "survivors.diff"
    diffs.write_text("\n".join(sorted(survivors)))
    print(f"\n{diffs}: {len(survivors)} that no test noticed")


def main():
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutants", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", nargs="*", metavar="PATH", help="files or folders to mutate (default: all rooms)")
    parser.add_argument("--count", type=int, default=200, help="number of mutants (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the sample (default: 0)")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "mutants", metavar="FOLDER")
    options = parser.parse_args()
    out = options.out.resolve()
    paths = [os.path.relpath(path, ROOT) for path in options.paths]
    asked = {"count": options.count, "seed": options.seed, "paths": paths}
    # Written last, when the copy, the sample and the times are complete.
    begun = out / "sample.json"
    original, tree = out / "original", out / "tree"
    if not begun.exists():
        shutil.rmtree(original, ignore_errors=True)
        for name in COPIED:
            source, target = ROOT / name, original / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    # Anew at each start: an interruption leaves a mutant in it.
    shutil.rmtree(tree, ignore_errors=True)
    shutil.copytree(original, tree)
    with (tree / "tests" / "conftest.py").open("a") as conftest:
        conftest.write(WITHOUT_SHRINKING)
    os.chdir(tree)
    os.environ["OMP_NUM_THREADS"] = "1"
    room_of = modules()
    with use_db(out / "session.sqlite") as session:
        if not begun.exists():
            chosen = [path for path in room_of if not paths or any(path.is_relative_to(p) for p in paths)]
            if not chosen:
                parser.error(f"{' '.join(options.paths)}: no module of {', '.join(ROOMS)}")
            session.clear()
            sample = draw_sample(chosen, options.count, options.seed)
            session.add_work_items(sample)
            rooms = {room_of[item.mutations[0].module_path] for item in sample}
            seconds = {room: time_unmutated(room) for room in ROOMS if room in rooms}
            begun.write_text(json.dumps({"asked": asked, "seconds": seconds}))
        state = json.loads(begun.read_text())
        if state["asked"] != asked:
            parser.error(f"{out} holds the sample {state['asked']}, not {asked}: name another --out")
        run(session, room_of, state["seconds"])
        summarise(session, room_of, out)


if __name__ == "__main__":
    main()
