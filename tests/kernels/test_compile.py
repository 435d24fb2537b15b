"""Every kernel compiles for every supported architecture, and keeps to its registers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

compiled = pytest.importorskip("tests.kernels.compiled")
ROOT = Path(__file__).parents[2]
PROCESSES = 2


@pytest.mark.skipif(not compiled.CUOBJDUMP.exists(), reason="this Triton carries no tools for NVIDIA GPUs")
def test_no_kernel_spills_registers_to_local_memory():
    # In processes of their own: here the kernels may have been made the interpreter's.
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.kernels.compiled", "--json", "--share"]
    processes = [
        subprocess.Popen(
            [*command, str(i), str(PROCESSES)], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
        )
        for i in range(PROCESSES)
    ]
    rows = []
    for process in processes:
        output, _ = process.communicate()
        assert process.returncode == 0
        rows += json.loads(output)
    print("\n" + compiled.table(rows))
    assert {row["target"] for row in rows} == {f"sm_{target}" for target in compiled.TARGETS}
    spilling = [row for row in rows if row["stack"] or row["local"]]
    assert not spilling, compiled.table(spilling)
