"""Which implementation runs, and the argument checks that the operators share."""

import os
from importlib.util import find_spec

import torch
from torch import Tensor

BACKENDS = ("triton", "torch")
HAS_TRITON = find_spec("triton") is not None
OLDEST_CAPABILITY = (8, 0)  # of the GPUs whose instructions the kernels use


@torch.compiler.assume_constant_result
def _runs_kernels(index: int) -> bool:
    """Is Triton installed, and the GPU of this index new enough?"""
    return default_backend(torch.device("cuda", index))[0] == "triton"


def default_backend(device: torch.device) -> tuple[str, str]:
    """The backend that runs on a device unless told otherwise, and why, for people."""
    if device.type != "cuda":
        return "torch", "the fused kernels need a GPU"
    if not HAS_TRITON:
        return "torch", "the fused kernels need Triton, which is not installed"
    if torch.cuda.get_device_capability(device) < OLDEST_CAPABILITY:
        return "torch", "the fused kernels need a GPU of compute capability 8.0 or newer"
    return "triton", "the GPU runs them"


def choose_backend(function: str, backend: str | None, *tensors: Tensor) -> str:
    """Triton for CUDA tensors on a GPU that it supports unless told otherwise; float64 exists in PyTorch only.

    Raises ValueError for an unknown backend, and for "triton" where its kernels cannot run.
    """
    if backend is None:
        cuda = tensors[0].is_cuda and all(t.dtype != torch.float64 for t in tensors)
        return "triton" if cuda and _runs_kernels(tensors[0].device.index) else "torch"
    if backend not in BACKENDS:
        raise ValueError(f"{function}: backend must be 'triton' or 'torch', got {backend!r}")
    if backend == "triton":
        if not HAS_TRITON:
            raise ValueError(f"{function}: backend='triton' needs Triton: pip install triton")
        if not tensors[0].is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
            raise ValueError(
                f"{function}: backend='triton' needs CUDA tensors (or TRITON_INTERPRET=1 in the environment), "
                f"got {tensors[0].device}"
            )
        if tensors[0].is_cuda and not _runs_kernels(tensors[0].device.index):
            raise ValueError(f"{function}: backend='triton' needs a GPU of compute capability 8.0 or newer")
        if any(t.dtype == torch.float64 for t in tensors):
            raise ValueError(f"{function}: backend='triton' computes in float32; float64 needs backend='torch'")
    return backend


def check_tensors(function: str, **tensors: Tensor) -> None:
    """Floating point, all on one device."""
    device = None
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise ValueError(f"{function}: {name} must be a floating-point tensor, got {kind}")
        device = tensor.device if device is None else device
        if tensor.device != device:
            raise ValueError(f"{function}: {name} is on {tensor.device}, the others are on {device}")


def check_shape(function: str, name: str, tensor: Tensor, axes: str, expected: tuple[int, ...]) -> None:
    """The tensor's shape is the expected one; axes says what the sizes mean."""
    if tuple(tensor.shape) != expected:
        raise ValueError(f"{function}: {name} must be {axes} = {expected}, got {tuple(tensor.shape)}")


def accumulation_dtype(*tensors: Tensor) -> torch.dtype:
    """float32 inside, whatever comes in; float64 where any input is float64."""
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32
