"""Everything that needs a GPU, in one go: its tests, all benchmarks with their sweeps, files and plots.

    python bench/all.py [--quick] [--output FOLDER]

--quick stays under ten minutes: short timings, few shapes. Otherwise, and where compute-sanitizer is installed, some of
the tests run under its memcheck and racecheck as well, every tensor in an allocation of its own (in PyTorch's cache,
past the end of one lies another). What fails is named at the end, with exit status 1; the rest still runs.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "bench" / "results", metavar="FOLDER")
    parser.add_argument("--quick", action="store_true", help="under ten minutes")
    options = parser.parse_args()
    output, quick = options.output, options.quick
    output.mkdir(parents=True, exist_ok=True)
    tests = [sys.executable, "-m", "pytest"]
    commands = [[*tests, "tests/kernels", "tests/ops", "tests/training", "-s"]]
    if (sanitizer := shutil.which("compute-sanitizer")) and not quick:
        odd_shapes = [*tests, "tests/kernels", "-k", "limits or strides or rounding"]
        watched = ["env", "PYTORCH_NO_CUDA_MEMORY_CACHING=1", sanitizer, "--error-exitcode", "1", "--tool"]
        commands += [[*watched, tool, *odd_shapes] for tool in ("memcheck", "racecheck")]
    for name in ("bottleneck", "weighted_loss"):
        files = ["--output", str(output / f"{name}.json"), "--plot", str(output / f"{name}.png")]
        commands.append([sys.executable, f"bench/{name}.py", "--quick" if quick else "--sweep", *files])
    training = [sys.executable, "bench/training.py", "--output", str(output / "training.json")]
    commands.append([*training, "--quick"] if quick else [*training, "--profile", str(output)])
    commands.append([sys.executable, "bench/overhead.py"])
    if not quick:
        commands.append([sys.executable, "bench/blocks.py"])
    failed = []
    for command in commands:
        line = " ".join(map(str, command))
        print(f"$ {line}", flush=True)
        if subprocess.run(command, cwd=ROOT, check=False).returncode:
            failed.append(line)
    if failed:
        sys.exit("failed:\n" + "\n".join(failed))


if __name__ == "__main__":
    main()
