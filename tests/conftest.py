"""Without a CUDA device the Triton kernels run in Triton's interpreter, on CPU tensors.

`pytest tests/ -n auto` runs the tests in one process a core (pytest-xdist).
"""

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # one process a core, in which more threads would only compete
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # PyTorch reads it when it is imported
    os.environ.pop("PYTEST_ADDOPTS", None)  # a pytest that a test starts has its own options

import torch
from hypothesis import HealthCheck, settings

if not torch.cuda.is_available():
    # Must be set before any module with Triton kernels is imported.
    os.environ.setdefault("TRITON_INTERPRET", "1")

settings.register_profile(
    "patchvae", deadline=None, derandomize=True, max_examples=30, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("patchvae")


def pytest_collection_modifyitems(items):
    """The longest tests run first, so that no process is left with them when the others have none."""
    items.sort(key=lambda item: item.path.name != "test_compile.py")
