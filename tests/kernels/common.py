"""Shared code of kernel tests: the device, memory that reveals unwritten elements, and rounding."""

from contextlib import ExitStack, contextmanager
from unittest import mock

import torch

from tests.support import ROUNDOFF

# Without a GPU the kernels run in Triton's interpreter, on CPU tensors.
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

# Error of storing a float32 result. The interpreter cuts the tail off where a GPU rounds to the nearest bfloat16.
STORED = ROUNDOFF | {torch.float32: 0.0, torch.bfloat16: 2 * ROUNDOFF[torch.bfloat16]}


@contextmanager
def poisoned_memory():
    """Fresh tensors are full of NaN, so that what no kernel writes is seen."""

    def poison(allocate):
        def wrapped(*args, **kwargs):
            tensor = allocate(*args, **kwargs)
            return tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor

        return wrapped

    with ExitStack() as stack:
        for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
            stack.enter_context(mock.patch.object(owner, name, poison(getattr(owner, name))))
        yield
