"""Everything that needs a GPU, in one go: a plan of stages, the most telling first.

    python bench/all.py [--quick] [--only STAGE …] [--output FOLDER]

First all kernels that are timed are compiled, on all cores; then come the tests that need a GPU, training beside what
others would write, the operators, a trace, other sizes of training, more tests, a whole run, and the same bits twice.
Each stage has its own limit of time and writes its results as they come, so a stage that runs out of time, or fails,
leaves what it had, and the others still run. --quick ends within eight minutes, with short timings and few shapes.
Without it come wider sweeps, part times, other tiles, some tests under compute-sanitizer's memcheck and racecheck
(every tensor in an allocation of its own: in PyTorch's cache, past the end of one lies another), and at last, where
CIFAR-10 lies in data/, the paper's first table. What a stage lacks (a GPU, pytest, compute-sanitizer) is said, and
the stage skipped.

At the end: a table of all stages, and exit status 1 if any failed.
"""

import argparse
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench import steps
from bench.stages import GPU, ROOT, Stage, lacking, run, table
from bench.timing import CUDA

QUICK = 8 * 60  # seconds
MINUTE = 60.0
TESTING = "pytest", "hypothesis"
FAST = "tests/training/test_fast.py"
ODD_SHAPES = ["tests/kernels", "-k", "limits or strides or rounding"]
TINY_RUN = ["--images", "64", "--image-size", "16", "--epochs", "2", "--encoder", "small"]  # for a CPU


def script(name, *arguments):
    return [sys.executable, f"bench/{name}.py", *map(str, arguments)]


def plan(folder, quick):
    """The stages, in order."""

    def stage(name, file, arguments, minutes, needs=(), hurry=True, kind="json"):
        output = folder / f"{name.replace(' ', '-')}.{kind}"
        quickly = ["--quick"] if quick and hurry else []
        command = script(file, *quickly, "--output", output, *arguments)
        return Stage(name, command, minutes * MINUTE * (1 if quick else 5), output, needs)

    def tests(name, minutes, *arguments):
        return stage(name, "gpu_tests", arguments, minutes, (*TESTING, GPU), hurry=False, kind="jsonl")

    def training(configuration, minutes):
        return stage(f"training {configuration.short}", "training", ["--only", configuration.short], minutes)

    def kernels(name):
        extra = [] if quick else ["--sweep"]
        extra += [] if lacking("matplotlib") else ["--plot", folder / f"{name}.png"]
        return stage(name.replace("_", " "), name, extra, 0.75)

    yield stage("compile", "compile", [], 1, ("triton",))
    yield tests("graphs", 1, FAST, "-m", "gpu", "-k", "not compiled")
    others = ["tests/kernels", "tests/ops", "tests/training", "-m", "gpu", "--ignore", FAST]
    yield tests("gpu tests", 0.75, *others)
    main, *more = steps.configurations()
    yield training(main, 2)
    yield kernels("bottleneck")
    yield kernels("weighted_loss")
    traced = ["--only", main.short] if quick else []
    yield stage("trace", "tracing", [*traced, "--folder", folder / "traces"], 0.75, hurry=False)
    for configuration in reversed(more):
        yield training(configuration, 1.25)
    yield tests("compiled graphs", 1.5, FAST, "-m", "gpu", "-k", "compiled")
    few = ["--examples", 4] if quick else []  # each of other shapes, and so compiled anew
    yield tests("kernel tests", 1, *few, "tests/kernels", "-m", "not gpu", "--ignore", "tests/kernels/test_compile.py")
    if not quick:
        yield from sanitized(folder)
    yield stage("whole run", "whole_run", [] if CUDA else TINY_RUN, 1.5, hurry=False)
    yield stage("determinism", "determinism", [], 0.75)
    yield stage("parts", "parts", [], 1)
    if not quick:
        for name in ("overhead", "blocks"):
            yield Stage(name, script(name), 10 * MINUTE, folder / f"{name}.txt", (GPU, "triton"))
        words = [sys.executable, "-m", "accel", "reproduce", "table1", "--data", "cifar10"]
        runs = folder / "table1"
        yield Stage(
            "table 1", [*words, "--out", str(runs)], 600 * MINUTE, runs / "table1.json", (GPU, str(ROOT / "data"))
        )


def sanitized(folder):
    """Odd shapes under compute-sanitizer."""
    watched = ["env", "PYTORCH_NO_CUDA_MEMORY_CACHING=1", "compute-sanitizer", "--error-exitcode", "1", "--tool"]
    for tool in ("memcheck", "racecheck"):
        command = [*watched, tool, sys.executable, "-m", "pytest", *ODD_SHAPES]
        yield Stage(tool, command, 15 * MINUTE, folder / f"{tool}.txt", (*TESTING, GPU, "compute-sanitizer"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "bench" / "results", metavar="FOLDER")
    parser.add_argument("--quick", action="store_true", help="at most eight minutes in all")
    parser.add_argument("--only", nargs="+", metavar="STAGE", help="these stages alone, in the plan's order")
    options = parser.parse_args()
    # Where Inductor's processes then look as well, for our kernels in a compiled step.
    os.environ.setdefault("TRITON_CACHE_DIR", str(Path.home() / ".triton" / "cache"))
    folder = options.output.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    stages = list(plan(folder, options.quick))
    names = [stage.name for stage in stages]
    if unknown := [name for name in options.only or () if name not in names]:
        parser.error(f"--only: no such stage: {unknown[0]} (there are {', '.join(names)})")
    if lacking("matplotlib"):
        print("matplotlib is not installed: no plots")
    chosen = [stage for stage in stages if not options.only or stage.name in options.only]
    rows = run(chosen, folder, QUICK if options.quick else float("inf"))
    print(table(rows))
    if any(row["status"] == "failed" for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the stage that runs is ended with it
    main()
