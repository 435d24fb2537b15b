"""Runs all benchmarks and tests that need a GPU, in stages, the most important first.

    python bench/all.py [--quick] [--only STAGE …] [--output FOLDER]

First it compiles all timed kernels and steps, on all cores. Then follow training compared with other implementations,
the kernels pass by pass, the tests that need a GPU, the default run, other sizes of training, the operators compared
with other implementations, a trace, more tests, a longer run, and checks of bit-identical results. Each stage has a
time limit and writes its results as it goes: if a stage fails or times out, its results so far are kept, and the other
stages still run. --quick takes at most nine minutes, with short timings and few shapes. Without it, there are also
wider sweeps, times of the parts of a step, other tiles, some tests under compute-sanitizer's memcheck and racecheck
(with each tensor in its own allocation, since in PyTorch's cache another tensor follows it), and finally, if CIFAR-10
is in data/, the paper's first table. Stages without their requirements (a GPU, pytest, compute-sanitizer) are skipped
with a message.

At the end: a table of all stages, and exit status 1 if any failed.
"""

import argparse
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench.common import steps
from bench.common.stages import GPU, ROOT, Stage, lacking, run, table
from bench.common.timing import CUDA

QUICK = 9 * 60  # seconds
MINUTE = 60.0
TESTING = "pytest", "hypothesis"
FAST = "tests/training/test_fast.py"
ODD_SHAPES = ["tests/kernels", "-k", "limits or strides or rounding"]
TINY_RUN = ["--images", "64", "--image-size", "16", "--epochs", "2", "--encoder", "small"]  # for a CPU


def script(name, *arguments):
    return [sys.executable, f"bench/{name}.py", *map(str, arguments)]


def plan(folder, quick):
    """The stages in order."""

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

    yield stage("compile", "compile", [], 3, ("triton",))
    main, *more = steps.configurations()
    yield training(main, 3)
    yield stage("passes", "blocks", [], 2, (GPU, "triton"))
    yield tests("graphs", 1, FAST, "-m", "gpu", "-k", "not compiled")
    others = ["tests/kernels", "tests/ops", "tests/training", "-m", "gpu", "--ignore", FAST]
    yield tests("gpu tests", 1, *others)
    tiny_parts = [] if CUDA else ["--epochs", "1", "--train-images", "512"]
    yield stage("default run", "whole_run", ["--parts", *tiny_parts], 2, hurry=False)
    for configuration in reversed(more):
        yield training(configuration, 3)
    yield kernels("bottleneck")
    yield kernels("weighted_loss")
    traced = ["--only", main.short] if quick else []
    yield stage("trace", "tracing", [*traced, "--folder", folder / "traces"], 0.75, hurry=False)
    yield tests("compiled graphs", 2, FAST, "-m", "gpu", "-k", "compiled")
    few = ["--examples", 4] if quick else []  # each of other shapes, and so compiled anew
    yield tests("kernel tests", 1, *few, "tests/kernels", "-m", "not gpu", "--ignore", "tests/kernels/test_compile.py")
    if not quick:
        yield from sanitized(folder)
    yield stage("whole run", "whole_run", [] if CUDA else TINY_RUN, 4, hurry=False)
    yield stage("determinism", "determinism", [], 2)
    few_epochs = tiny_parts or ["--epochs", "3"]
    yield stage("deterministic run", "whole_run", ["--parts", "--deterministic", *few_epochs], 1, hurry=False)
    yield stage("parts", "parts", [], 1)
    if not quick:
        yield Stage("overhead", script("overhead"), 10 * MINUTE, folder / "overhead.txt", (GPU, "triton"))
        words = [sys.executable, "-m", "accel", "reproduce", "table1", "--data", "cifar10"]
        runs = folder / "table1"
        yield Stage(
            "table 1", [*words, "--out", str(runs)], 600 * MINUTE, runs / "table1.json", (GPU, str(ROOT / "data"))
        )


def sanitized(folder):
    """Two stages that run unusual shapes under compute-sanitizer, one with each of its tools."""
    watched = ["env", "PYTORCH_NO_CUDA_MEMORY_CACHING=1", "compute-sanitizer", "--error-exitcode", "1", "--tool"]
    for tool in ("memcheck", "racecheck"):
        command = [*watched, tool, sys.executable, "-m", "pytest", *ODD_SHAPES]
        yield Stage(tool, command, 15 * MINUTE, folder / f"{tool}.txt", (*TESTING, GPU, "compute-sanitizer"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "bench" / "results", metavar="FOLDER")
    parser.add_argument("--quick", action="store_true", help="take at most nine minutes in total")
    parser.add_argument("--only", nargs="+", metavar="STAGE", help="run only these stages, in the order of the plan")
    options = parser.parse_args()
    # Inductor's processes look there as well, for our kernels in a compiled step.
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
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the running stage, too
    main()
