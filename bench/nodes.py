"""Counts, without a GPU, the kernels that one compiled training step would launch on a GPU.

    python bench/nodes.py [--only NAME] [--batch 8]

The step is traced on the CPU in bfloat16, its graphs are moved to the device 'cuda', and Inductor generates code for an
H100, which is not executed. It counts the Triton kernels in this code, calls of libraries (the backward pass of a
convolution is one call and several kernels), and launches of our own kernels. It does not count the optimiser, which is
not compiled, and copies; autocast on the CPU casts at some other places than on CUDA. bench/tracing.py counts the
actual nodes of a captured step on a GPU.

It uses PyTorch's internals, of torch 2.13.
"""

import argparse
import contextlib
import re
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from accel.training.compilation import GENERATED
from bench.common import steps
from bench.common.timing import CUDA
from bench.compile import PRETENDED, launch_fused_operators, stand_in_for_a_gpu

DEVICE = torch.device("cuda", 0)
H100 = SimpleNamespace(
    type="cuda",
    index=0,
    name="H100",
    gcnArchName="",
    major=PRETENDED[0],
    minor=PRETENDED[1],
    cc=10 * PRETENDED[0] + PRETENDED[1],
    multi_processor_count=132,
    regs_per_multiprocessor=2**16,
    max_threads_per_multi_processor=2048,
    max_threads_per_block=1024,
    warp_size=32,
    total_memory=80 * 2**30,
    L2_cache_size=50 * 2**20,
    shared_memory_per_block_optin=227 * 2**10,
)


class Generated(Exception):
    """Code is there, and is not to be run."""


def traced(configuration):
    """([(graph, its inputs, is it a backward one?)] of one compiled step, launches of our own kernels by name)"""
    import torch._inductor.lowering  # which a decomposition looks for
    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd
    from torch._inductor.decomposition import select_decomp_table
    from triton.runtime.jit import JITFunction

    graphs, launches = [], Counter()
    compile = torch.compile

    def keep(backward):
        def compiler(graph, inputs):
            graphs.append((graph, inputs, backward))
            return make_boxed_func(graph)

        return compiler

    backend = aot_autograd(fw_compiler=keep(False), bw_compiler=keep(True), decompositions=select_decomp_table())

    def counted(self, *args, **kwargs):  # and not even compiled
        launches[self.fn.__name__] += 1

    with mock.patch.object(torch, "compile", lambda function, **_: compile(function, backend=backend, dynamic=False)):
        step = steps.our_step(configuration, precision="bfloat16", compile=True)
    with mock.patch.object(JITFunction, "run", counted):
        step(configuration.images(configuration.batch))
    return graphs, launches


@contextlib.contextmanager
def pretended_cuda():
    """torch.cuda answers as if there were one H100, as far as Inductor asks before anything runs."""
    from torch._dynamo.device_interface import CudaInterface
    from torch._inductor import scheduler

    properties = staticmethod(lambda device=None: H100)
    answers = [
        (CudaInterface, "get_device_properties", properties),
        (CudaInterface.Worker, "get_device_properties", properties),
        (CudaInterface, "get_compute_capability", staticmethod(lambda device=None: PRETENDED)),
        (torch.cuda, "get_device_capability", lambda device=None: PRETENDED),
        (torch.cuda, "get_device_properties", lambda device=None: H100),
        (torch.cuda, "is_available", lambda: True),
        (torch.cuda, "current_device", lambda: 0),
        (torch.cuda, "device_count", lambda: 1),
        (torch.cuda, "_exchange_device", lambda index: 0),
        (torch.cuda, "_maybe_exchange_device", lambda index: 0),
        (torch.cuda, "get_rng_state", lambda *_: torch.zeros(16, dtype=torch.uint8)),
        (torch.cuda, "set_rng_state", lambda *_: None),
        (scheduler, "has_triton", lambda: True),
    ]
    with contextlib.ExitStack() as stack:
        for owner, name, answer in answers:
            stack.enter_context(mock.patch.object(owner, name, answer))
        yield


def on_the_gpu(graph):
    """Moves what a graph makes to DEVICE."""

    def moved(x):
        return DEVICE if isinstance(x, torch.device) else x

    for node in graph.graph.nodes:
        node.args, node.kwargs = (torch.fx.node.map_aggregate(x, moved) for x in (node.args, node.kwargs))
    graph.recompile()


def generated(graph, inputs, backward):
    """The code that Inductor writes for a graph on DEVICE."""
    from torch._inductor import compile_fx, config
    from torch._inductor.graph import GraphLowering
    from torch._inductor.virtualized import V
    from torch._subclasses.fake_tensor import FakeTensorMode

    on_the_gpu(graph)
    codes = []

    def stop(self):
        codes.append(self.codegen()[0].value)
        raise Generated

    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake:
        inputs = [
            torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=DEVICE) if torch.is_tensor(x) else x
            for x in inputs
        ]
    with (
        pretended_cuda(),
        mock.patch.object(GraphLowering, "compile_to_module", stop),
        config.patch(fx_graph_cache=False, compile_threads=1, **GENERATED),
        torch._guards.tracing(torch._guards.TracingContext(fake)),
        V.set_fake_mode(fake),
    ):
        try:
            compile_fx.compile_fx_inner(graph, inputs, is_backward=backward)
        except Exception:  # Inductor wraps what is raised inside
            if not codes:
                raise
    return codes[0]


def launches_of(code):
    """Counter of what the generated code calls: 'Triton', and libraries by their names; our operators are left out."""
    body = code[code.index("def call(") :]
    counts = Counter({"Triton": len(re.findall(r"^\s+triton_\w+\.run\(", body, re.M))})
    counts.update(re.findall(r"(?:extern_kernels|torch\.ops\.aten)\.(\w+)[.\w]*\(", body))
    return counts


def count(configuration):
    """(counts of the generated code, launches of our own kernels) of one step; its process can do nothing else then."""
    launch_fused_operators()
    stand_in_for_a_gpu()
    graphs, ours = traced(configuration)
    total = Counter()
    for graph in graphs:
        total += launches_of(generated(*graph))
    return total, ours


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    everything = {c.short: c for c in [*steps.TABLE, *steps.SMALL]}
    parser.add_argument("--only", default="32px-b128", metavar="NAME", choices=everything)
    parser.add_argument(
        "--batch", type=int, default=8, metavar="N", help="number of images; the step also runs on the CPU"
    )
    options = parser.parse_args()
    if CUDA:
        sys.exit("bench/nodes.py is for a machine without a GPU; here bench/tracing.py counts what really runs")
    configuration = everything[options.only].with_batch(options.batch)
    total, ours = count(configuration)
    print(f"{configuration.name}, code generated for a GPU of capability {PRETENDED[0]}.{PRETENDED[1]}, not run:")
    print(f"{total.pop('Triton'):5} kernels that Inductor wrote")
    for name, number in total.most_common():
        print(f"{number:5} calls of {name}")
    print(f"{sum(ours.values()):5} launches of our kernels: {', '.join(f'{n} {name}' for name, n in ours.items())}")


if __name__ == "__main__":
    main()
