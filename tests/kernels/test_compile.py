"""Every kernel compiles for every supported architecture, without spilling registers.

By default each case compiles for one of them, with `-m "long or not long"` for all.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

compiled = pytest.importorskip("tests.kernels.compiled")
ROOT = Path(__file__).parents[2]
SHARES = 4  # of the cases, which may be compiled on as many cores
TURNS = range(len(compiled.TARGETS))


def run(*arguments):
    """What a Python process prints in which the kernels are not the interpreter's, as they may be here."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout


@pytest.mark.skipif(not compiled.CUOBJDUMP.exists(), reason="this Triton carries no tools for NVIDIA GPUs")
@pytest.mark.parametrize("turn", [TURNS[0], *(pytest.param(turn, marks=pytest.mark.long) for turn in TURNS[1:])])
@pytest.mark.parametrize("share", range(SHARES))
def test_no_kernel_spills_registers_to_local_memory(share, turn):
    rows = json.loads(run("-m", "tests.kernels.compiled", "--json", "--share", share, SHARES, "--turn", turn))
    print("\n" + compiled.table(rows))
    assert {row["target"] for row in rows} == {f"sm_{target}" for target in compiled.TARGETS}
    spilling = [row for row in rows if row["stack"] or row["local"]]
    assert not spilling, compiled.table(spilling)


def test_all_turns_together_compile_every_case_for_every_target():
    names = [name for name, _ in compiled.cases()]
    assert {*compiled.SCARCE} < {*names}
    turns = [
        {(name, target) for number, name in enumerate(names) for target in compiled.targets_of(number, name, turn)}
        for turn in TURNS
    ]
    assert set.union(*turns) == {(name, target) for name in names for target in compiled.TARGETS}
    for turn in turns:  # each alone covers every pair of a target and a shape, layout, dtype or head
        words = {(word, target) for name, target in turn if "bottleneck" in name for word in name.split(", ")[1:5]}
        assert words == {(word, target) for word, _ in words for target in compiled.TARGETS}


WHERE_NUMBERS_LIE = """
from bench import compile
compile.prepare_here()
import torch
from accel import ops
from accel.kernels import bottleneck
from bench.common.compilations import counting
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
    first, *others = map(int, run("-c", WHERE_NUMBERS_LIE).split())
    assert first == 4  # statistics of cells, forward, backward, coupling
    assert others == [0, 0]
