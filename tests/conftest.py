"""Without a CUDA device the Triton kernels run in Triton's interpreter, on CPU tensors.

`pytest tests/ -n auto` shares the tests among as many processes as there are cores.
"""

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # beside one for each other core, where more threads would wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # which PyTorch reads when it is imported
    os.environ.pop("PYTEST_ADDOPTS", None)  # of the command, not of what tests start

import torch
from hypothesis import HealthCheck, settings

if not torch.cuda.is_available():
    # Must be set before any module with Triton kernels is imported.
    os.environ.setdefault("TRITON_INTERPRET", "1")

settings.register_profile(
    "patchvae", deadline=None, derandomize=True, max_examples=30, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("patchvae")
