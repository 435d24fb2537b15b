"""Checks bit-identical results: of operators, within and between processes, which is guaranteed; and of training steps.

    python bench/determinism.py [--quick] [--output FILE.json]

Whole steps also use algorithms that cuDNN chooses by timing, which may sum in a different order in another process: a
row reports whether they agree, but a difference is not a failure.
"""

import argparse
import hashlib
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench.common import steps
from bench.common.harness import both
from bench.common.isolated import isolated
from bench.common.records import machine, write
from bench.common.timing import CUDA
from bench.compile import OPERATORS

STEPS = 10
IMAGES = 8  # of each case: the bits are compared on the host


def digest(tensors):
    """Of all bits."""
    total = hashlib.sha256()
    for tensor in tensors:
        total.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def of_operators(quick, times):
    """{case: digests of the outputs and gradients, one for each time}"""
    found = {}
    for benchmark in OPERATORS.values():
        for shape, *arguments in benchmark.grid(CUDA, quick, False):
            case = benchmark.make_case((IMAGES, *shape[1:]), *arguments)
            provider = next(benchmark.make_providers(case, False, False))
            leaves = case.inputs(0)
            incoming = case.incoming(provider.run(leaves))
            found[case.label] = []
            for _ in range(times):
                outputs, gradients = both(provider, leaves, incoming)
                found[case.label].append(digest([*outputs, *gradients]))
    return found


def of_steps(configuration):
    """(digest of the weights after some steps, how they ran)"""
    torch.manual_seed(0)
    step = steps.our_step(configuration)
    images = configuration.images(configuration.batch)
    for _ in range(STEPS):
        step(images)
    return digest(step.system.model.parameters()), steps.how_it_ran(step)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer cases")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="write the results, with device and versions")
    options = parser.parse_args()
    print(machine()["device"])
    here, there = (isolated(of_operators, options.quick, times) for times in (3, 1))
    rows = [{"case": case, "same": len({*here[case], *there[case]}) == 1, "promised": True} for case in here]
    if options.output:
        write(options.output, "The same bits twice", rows, times=4)
    configuration = steps.configurations()[0]
    (one, how), (other, _) = (isolated(of_steps, configuration) for _ in range(2))
    rows.append({"case": f"{STEPS} steps, {configuration.name}", "same": one == other, "promised": False, **how})
    for row in rows:
        print(f"{row['case']:70} {'the same bits' if row['same'] else 'other bits'}")
    if options.output:
        write(options.output, "The same bits twice", rows, times=4)
    if broken := sum(row["promised"] and not row["same"] for row in rows):
        sys.exit(f"{broken} of {len(here)} operators gave other bits for the same input")


if __name__ == "__main__":
    main()
