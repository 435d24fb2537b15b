"""Choice of the backend, and argument checks that the operators share."""

import os
from importlib.util import find_spec

import torch
from torch import Tensor

BACKENDS = ("triton", "torch")
HAS_TRITON = find_spec("triton") is not None
OLDEST_CAPABILITY = (8, 0)  # compute capability that the kernels need


@torch.compiler.assume_constant_result
def _runs_kernels(index: int) -> bool:
    """Whether Triton is installed, and the GPU with this index is new enough."""
    return default_backend(torch.device("cuda", index))[0] == "triton"


def default_backend(device: torch.device) -> tuple[str, str]:
    """(default backend of a device, reason as text)."""
    if device.type != "cuda":
        return "torch", "the fused kernels need a GPU"
    if not HAS_TRITON:
        return "torch", "the fused kernels need Triton, which is not installed"
    if torch.cuda.get_device_capability(device) < OLDEST_CAPABILITY:
        return "torch", "the fused kernels need a GPU of compute capability 8.0 or newer"
    return "triton", "the GPU runs them"


def choose_backend(function: str, backend: str | None, *tensors: Tensor) -> str:
    """The given backend; by default Triton for CUDA tensors on a supported GPU, except for float64.

    Raises ValueError for an unknown backend, and for "triton" if its kernels cannot run.
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
    """Raises ValueError unless tensors are floating point and on one device."""
    device = None
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise ValueError(f"{function}: {name} must be a floating-point tensor, got {kind}")
        device = tensor.device if device is None else device
        if tensor.device != device:
            raise ValueError(f"{function}: {name} is on {tensor.device}, the others are on {device}")


def check_shape(function: str, name: str, tensor: Tensor, axes: str, expected: tuple[int, ...]) -> None:
    """Raises ValueError unless the tensor has the expected shape; axes: names of its axes, for the message."""
    if tuple(tensor.shape) != expected:
        raise ValueError(f"{function}: {name} must be {axes} = {expected}, got {tuple(tensor.shape)}")


def accumulation_dtype(*tensors: Tensor) -> torch.dtype:
    """The dtype of computations: float32, or float64 if any input is float64."""
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32
