"""Host time of a registered operator compared with a bare autograd.Function that launches the same kernels.

    python bench/overhead.py

On a GPU both launch kernels. Without one, "launching" is everything on the host up to the driver: Triton compiles for a
GPU that is not present, and then looks up the kernel at every call.
"""

import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from accel.common.bottleneck import BottleneckOptions
from accel.kernels import bottleneck
from accel.ops import Noise, fused
from accel.ops.draw import Draw
from bench.common.timing import CUDA, DEVICE
from bench.compile import stand_in_for_a_gpu

SHAPE = 8, 16, 6, 4, 4  # B, N, D, h, w


class Bare(torch.autograd.Function):
    """What the operator does, without torch.library."""

    @staticmethod
    def forward(ctx, *inputs):
        outputs = fused._bottleneck_outputs(*inputs)
        fused._launch_bottleneck(*inputs, outputs)
        ctx.set_materialize_grads(False)
        fused._save_bottleneck(ctx, inputs, outputs)
        return outputs

    @staticmethod
    def backward(ctx, *gradients):
        *tensors, draw = *ctx.saved_tensors[:6], list(ctx.saved_tensors[6:])
        arguments = list(gradients[:5]), *tensors, draw, *ctx.options
        results = fused._bottleneck_gradients(*arguments)
        fused._launch_bottleneck_backward(*arguments, results)
        return *results, *[None] * 5


def microseconds(call, repeats=40, rounds=100):
    """Time per call of the fastest round, in CPU time of this thread, which other work disturbs least."""
    best = float("inf")
    for _ in range(rounds):
        start = time.thread_time()
        for _ in range(repeats):
            call()
        best = min(best, (time.thread_time() - start) / repeats)
    return 1e6 * best


def main():
    if not CUDA:
        stand_in_for_a_gpu()
    batch, parts, part_dim, height, width = SHAPE
    logits = torch.randn(batch, parts, height, width, device=DEVICE, requires_grad=True)
    mean, log_variance = (
        torch.randn(batch, parts * part_dim, height, width, device=DEVICE, requires_grad=True) for _ in range(2)
    )
    leaves = logits, mean, log_variance
    zeros = torch.zeros(3, dtype=torch.int64, device=DEVICE)
    draw = fused._draw_tensors(Draw(torch.tensor(0.5, device=DEVICE), Noise(*zeros)), logits.device)
    how = draw, BottleneckOptions().of_parts(parts).text, False, torch.float32, torch.contiguous_format
    incoming = torch.randn_like(mean), *(torch.ones((), device=DEVICE).expand(batch) for _ in range(2))

    def both(function):
        outputs = function(*leaves, *how)
        torch.autograd.grad([outputs[0], *outputs[3:5]], leaves, incoming)

    functions = {"bare autograd.Function": Bare.apply, "registered operator": fused._bottleneck}
    for launching in (True, False):
        if not launching:
            bottleneck.forward = bottleneck.backward = lambda *arguments: None
        times = {name: microseconds(lambda f=f: both(f)) for name, f in functions.items()}
        for name, value in times.items():
            ratio = value / times["bare autograd.Function"]
            print(f"{name:24} {'with' if launching else 'without'} launching {value:7.1f} µs  {ratio:.2f} ×")


if __name__ == "__main__":
    main()
