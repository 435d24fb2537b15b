"""Communication of several processes that train one model, each on its share of every batch.

`torchrun … -m accel train` starts them. All have the same weights. Statistics of batch norm, gradients and sums of the
loss are summed over processes, so that the result is that of a single process. The first process writes the files. In
a single process, all functions here do nothing.
"""

import contextlib
import datetime
import os
import re
from collections.abc import Iterator

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

SILENCE = datetime.timedelta(seconds=45)  # timeout on a CPU, after which another process counts as dead
PATIENCE = datetime.timedelta(days=7)  # timeout while the first process prepares the images


def count() -> int:
    """The number of processes."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """The index of this process, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def local_device(device: torch.device) -> torch.device:
    """The GPU of this process, if `device` is CUDA without an index; else `device`."""
    if device.type == "cuda" and device.index is None and "LOCAL_RANK" in os.environ:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return device


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """A context in which the processes that torchrun started can communicate; does nothing in a single process.

    Raises ConnectionError if another process has stopped.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or distributed.is_initialized():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
        distributed.init_process_group("nccl", device_id=device)
    else:
        distributed.init_process_group("gloo", timeout=SILENCE)
    own, others = rank(), count()
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, distributed.DistError) or "gloo" in str(error):
            other = f"process {1 - own}" if others == 2 else f"one of the other {others - 1} processes"
            place = re.search(r"\[([0-9a-fA-F.:]+)\]:\d+", str(error))
            where = f" at {place[1]}" if place else ""
            raise ConnectionError(f"{other} of this run{where} has stopped or is out of reach") from error
        raise
    distributed.destroy_process_group()  # not after an error: it might wait for a dead process


@contextlib.contextmanager
def first_goes_first() -> Iterator[None]:
    """A context that the first process passes before the others enter, for example to download files only once."""
    if count() == 1:
        yield
        return
    # A separate group on the host: packing a large data set takes longer than NCCL's timeout of ten minutes.
    group = distributed.new_group(backend="gloo", timeout=PATIENCE)
    if rank() > 0:
        distributed.barrier(group)
    yield
    if rank() == 0:
        distributed.barrier(group)
    distributed.destroy_process_group(group)


def wait_for_all() -> None:
    """A barrier for all processes."""
    if count() > 1:
        distributed.barrier()


def largest(values: Tensor) -> Tensor:
    """The maximum of each number over processes, in place."""
    if count() > 1:
        distributed.all_reduce(values, distributed.ReduceOp.MAX)
    return values


def total(values: Tensor) -> Tensor:
    """The sum of each number over processes."""
    return sum_over_processes(values) if count() > 1 else values


@torch.library.custom_op("patchvae::sum_over_processes", mutates_args=())
def sum_over_processes(values: Tensor) -> Tensor:
    """The sum of each number over processes, on all of them; differentiable, and one node to torch.compile."""
    result = values.clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(result)
    return result


@sum_over_processes.register_fake
def _(values):
    return torch.empty_like(values, memory_format=torch.contiguous_format)


# The gradient of each summand is the sum of all processes' gradients.
sum_over_processes.register_autograd(lambda ctx, gradient: sum_over_processes(gradient))


class SynchronisedBatchNorm(_BatchNorm):
    """Batch norm over the batches of all processes, also on CPUs; it has the parameters of the plain module."""

    def _check_input_dim(self, images: Tensor) -> None:
        pass  # any input: the plain module has checked it

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, …) of any floating dtype → the same; statistics are float32 (float64 for float64)."""
        if not self.training:
            return super().forward(images)
        x = images if images.dtype == torch.float64 else images.float()
        axes = [axis for axis in range(x.ndim) if axis != 1]
        own_variance, own_mean = torch.var_mean(x, axes, correction=0)
        # Each process fills its own row, so the sum is a table of all.
        row = torch.arange(count(), device=x.device)[:, None, None] == rank()
        means, variances = sum_over_processes(row * torch.stack([own_mean, own_variance])).unbind(1)
        mean = means.mean(0)
        variance = (variances + (means - mean).square()).mean(0)
        with torch.no_grad():
            number = count() * x.numel() // x.shape[1]
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (number / (number - 1)), self.momentum)
        shape = [1, -1, *[1] * (x.ndim - 2)]
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return torch.addcmul((self.bias - mean * scale).view(shape), x, scale.view(shape)).to(images.dtype)


def synchronise_batch_norm(networks: nn.Module) -> None:
    """Synchronises every batch norm over processes; parameters, buffers and names do not change."""
    if count() > 1:
        for module in networks.modules():
            if type(module) in (nn.BatchNorm1d, nn.BatchNorm2d):
                module.__class__ = SynchronisedBatchNorm  # a subclass without state of its own


def copy_from_first(networks: nn.Module, optimiser: torch.optim.Optimizer, *others: Tensor) -> None:
    """Gives every process the parameters and buffers of the first, the state of its optimiser, and other tensors."""
    if count() == 1:
        return
    moments = (tensor for state in optimiser.state.values() for tensor in state.values())
    device = next(networks.parameters()).device
    for tensor in (*networks.parameters(), *networks.buffers(), *moments, *others):
        message = tensor.detach().to(device).contiguous()
        distributed.broadcast(message, 0)
        tensor.detach().copy_(message)


def average_gradients(optimiser: torch.optim.Optimizer) -> None:
    """Replaces the gradients of an optimiser's parameters by their means over processes.

    They are sent in one message, which a CUDA graph can capture.
    """
    if count() == 1:
        return
    gradients = [p.grad for group in optimiser.param_groups for p in group["params"] if p.grad is not None]
    message = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(message)
    message /= count()
    parts = message.split([gradient.numel() for gradient in gradients])
    for gradient, mean in zip(gradients, parts, strict=True):
        gradient.copy_(mean.view(gradient.shape))
