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
