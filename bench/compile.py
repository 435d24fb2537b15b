"""Compiles what the benchmarks launch in parallel, so that nothing large is compiled between timings.

    python bench/compile.py [--quick] [--output FILE.json]

Processes that cannot see the GPU launch the same kernels on CPU tensors of two images, and stop at the driver. Compiled
kernels are in Triton's disk cache, where the benchmarks find them. The key of a kernel consists of its source, the
types and alignment of its arguments, the constants, and the GPU's compute capability, but not of the device of a tensor
or the number of images. Without a GPU, it compiles small shapes for compute capability 9.0.

On a GPU, meanwhile, each training step that is compiled and will be timed is taken twice in its own process, so that
bench/training.py finds its compiled graphs in the cache.
"""

import argparse
import functools
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from unittest import mock

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from accel.common.workers import end_with_parent
from bench import bottleneck, weighted_loss
from bench.common import steps
from bench.common.compilations import counting
from bench.common.harness import both
from bench.common.isolated import isolated
from bench.common.records import write
from bench.common.timing import CUDA, first_line

IMAGES = 2
PRETENDED = 9, 0  # the capability of a GPU that is not there
OPERATORS = {"bottleneck": bottleneck, "weighted_loss": weighted_loss}
STEPS_AT_ONCE, STEPS_SECONDS = 8, 150.0  # processes that compile training steps, and the time limit of each


def stand_in_for_a_gpu(capability=PRETENDED):
    """From now on, launches in this process stop at the driver."""
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    from tests.kernels.compiled import Driver

    pretended = Driver()
    pretended.target = 10 * capability[0] + capability[1]
    driver.set_active(pretended)
    launch = JITFunction.run
    JITFunction.run = lambda self, *args, warmup, **kwargs: launch(self, *args, warmup=True, **kwargs)


def launch_fused_operators():
    """Uses the fused operators on any device from now on."""
    from accel.ops import bottleneck as of_bottleneck
    from accel.ops import weighted_loss as of_loss

    of_bottleneck.choose_backend = of_loss.choose_backend = lambda *_: "triton"


def prepare_here(capability=PRETENDED):
    """From now on this process only compiles the kernels that it launches."""
    torch.set_num_threads(1)
    stand_in_for_a_gpu(capability)
    launch_fused_operators()


def prepare(capability):
    """A process of the pool."""
    end_with_parent()
    prepare_here(capability)


def pool_of(workers, capability):
    """A pool of processes that only compile kernels; to be given its jobs under hidden_gpu."""
    return ProcessPoolExecutor(workers, get_context("spawn"), prepare, (capability,))


def hidden_gpu():
    """A context in which processes start that cannot see the GPU."""
    return mock.patch.dict(os.environ, CUDA_VISIBLE_DEVICES="")


def launch_operator(name, shape, *arguments, images=IMAGES):
    """Every launch of a benchmark's check and timings."""
    case = OPERATORS[name].make_case((images, *shape[1:]), *arguments)
    provider = next(OPERATORS[name].make_providers(case, False, False))
    leaves = case.inputs(0)
    both(provider, leaves, case.incoming(provider.run(leaves)))


def launch_step(configuration, precision):
    """Those of one of our training steps."""
    step = steps.our_step(configuration, precision=precision, compile=False)
    step(configuration.images(configuration.batch))


def launches(cuda, quick):
    """Functions to call in prepared processes, the longest first."""
    precisions = ["bfloat16"] if quick else ["bfloat16", "float32"]
    for configuration in reversed(steps.configurations(cuda)):
        for precision in precisions:
            yield functools.partial(launch_step, configuration.with_batch(IMAGES), precision)
    for name, benchmark in OPERATORS.items():
        for arguments in benchmark.grid(cuda, quick, not quick):
            yield functools.partial(launch_operator, name, *arguments)


def perform(launch):
    """A row: what was launched, how many kernels were compiled for it, and how many there were already."""
    words = [launch.func.__name__, *map(str, launch.args)]
    row, began = {"launch": " ".join(words)}, time.perf_counter()
    with counting() as kernels:
        try:
            launch()
        except Exception as error:
            row["failure"] = first_line(error)
    seconds = time.perf_counter() - began
    return row | {"compiled": kernels.compiled, "found": kernels.found, "seconds": seconds}


def take_steps(configuration, name):
    """Compiles a contender of bench/training.py."""
    end_with_parent()
    contender = steps.CONTENDERS[name]
    step = contender.make(configuration)
    images = configuration.images(configuration.batch)
    labels = torch.arange(configuration.batch, device=images.device) % steps.CLASSES
    contender.check(step, images, labels)  # whose kernels are compiled, too
    for _ in range(2):
        step(images, labels)


def compile_step(configuration, name):
    """A row like those of `perform`."""
    row = {"launch": f"take_steps {configuration.name} {name}", "compiled": 0, "found": 0}
    began = time.perf_counter()
    try:
        isolated(take_steps, configuration, name, seconds=STEPS_SECONDS)
    except (RuntimeError, TimeoutError) as error:
        row["failure"] = str(error)
    return row | {"seconds": time.perf_counter() - began}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="only kernels that the benchmarks launch with --quick")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="write the compiled kernels, with versions")
    options = parser.parse_args()
    capability = torch.cuda.get_device_capability() if CUDA else PRETENDED
    workers = os.cpu_count()
    # By contender: by configuration, all steps of the largest one would need memory at the same time.
    compiled_steps = sorted(steps.compiled_contenders(options.quick), key=lambda which: which[1]) if CUDA else []
    # Of Inductor in each process.
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = str(max(1, workers // STEPS_AT_ONCE))
    began, rows = time.perf_counter(), []
    with pool_of(workers, capability) as pool, ThreadPoolExecutor(STEPS_AT_ONCE) as threads:
        with hidden_gpu():
            jobs = [pool.submit(perform, launch) for launch in launches(CUDA, options.quick)]
        jobs += [threads.submit(compile_step, *which) for which in compiled_steps]
        for job in as_completed(jobs):
            rows.append(job.result())
            if options.output:
                write(options.output, "Compiled in advance", rows, capability=capability, processes=workers)
    failures = [row for row in rows if "failure" in row]
    for row in failures:
        print(f"{row['launch']}: FAIL {row['failure']}")
    compiled, found = (sum(row[column] for row in rows) for column in ("compiled", "found"))
    print(
        f"{compiled} kernels compiled and {found} found in the cache, for capability {capability[0]}.{capability[1]}, "
        f"and {len(compiled_steps)} training steps, in {time.perf_counter() - began:.0f} s by {workers} processes"
    )
    if failures:
        sys.exit(f"{len(failures)} of {len(rows)} launches failed")


if __name__ == "__main__":
    main()
