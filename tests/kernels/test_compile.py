"""Every kernel compiles for every supported architecture, and keeps to its registers."""

import atexit
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

compiled = pytest.importorskip("tests.kernels.compiled")
ROOT = Path(__file__).parents[2]
PROCESSES = 2
processes: list[subprocess.Popen] = []


def begin_early(names):
    """Starts to compile, at a low priority, where the test that asks for it is among these."""
    if test_no_kernel_spills_registers_to_local_memory.__name__ not in names or not compiled.CUOBJDUMP.exists():
        return
    # In processes of their own: here the kernels may have been made the interpreter's.
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = ["nice", sys.executable, "-m", "tests.kernels.compiled", "--json", "--share"]
    for i in range(PROCESSES):
        # A pipe would fill up, and nobody reads meanwhile.
        output = tempfile.TemporaryFile("w+")  # noqa: SIM115
        process = subprocess.Popen([*command, str(i), str(PROCESSES)], cwd=ROOT, env=environment, stdout=output)
        process.output = output
        processes.append(process)
        atexit.register(process.kill)


@pytest.mark.skipif(not compiled.CUOBJDUMP.exists(), reason="this Triton carries no tools for NVIDIA GPUs")
def test_no_kernel_spills_registers_to_local_memory():
    rows = []
    for process in processes:
        assert process.wait() == 0
        process.output.seek(0)
        rows += json.load(process.output)
    print("\n" + compiled.table(rows))
    assert {row["target"] for row in rows} == {f"sm_{target}" for target in compiled.TARGETS}
    spilling = [row for row in rows if row["stack"] or row["local"]]
    assert not spilling, compiled.table(spilling)


WHERE_NUMBERS_LIE = """
from bench import compile
compile.prepare_here()
import torch
from accel import ops
from accel.kernels import bottleneck
from bench.compilations import counting
bottleneck.number = lambda tensor, device: tensor  # as on a GPU: their addresses
integers, reals = torch.arange(5), torch.ones(5)
maps = [torch.randn(2, channels, 6, 6, requires_grad=True) for channels in (4, 12, 12)]
for place in range(3):
    noise = ops.Noise(integers[place], integers[place + 1], integers[place])
    with counting() as kernels:
        out = ops.patch_bottleneck(*maps, temperature=reals[place], noise=noise, occurrence="categorical")
        out.code.sum().backward()
    print(kernels.compiled + kernels.found)
"""


def test_numbers_of_a_draw_may_lie_anywhere_without_another_compilation():
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", WHERE_NUMBERS_LIE]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    first, *others = map(int, done.stdout.split())
    assert first == 4  # statistics of cells, forward, backward, coupling
    assert others == [0, 0]
