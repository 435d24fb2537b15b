"""Without a CUDA device the Triton kernels run in Triton's interpreter, on CPU tensors."""

import os

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
    items.sort(key=lambda item: hasattr(item.module, "begin_early"))  # last, when it may be done


def pytest_collection_finish(session):
    """What takes minutes in processes of its own begins now, beside the other tests."""
    if not session.config.option.collectonly:
        for begin in {getattr(item.module, "begin_early", None) for item in session.items} - {None}:
            begin([item.originalname for item in session.items])
