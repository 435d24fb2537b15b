"""A function of tensors as one CUDA graph, which the host starts with one call instead of hundreds."""

import sys
from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP = 3  # calls before the capture: kernels are compiled and chosen, and the optimisers' state is made


class Captured:
    """Calls `function(*tensors)`, after WARM_UP calls as a captured graph that is replayed.

    The function must give nothing back, read and change nothing but its arguments and tensors on the device that
    stay where they are, and not wait for the device. Every call does its work exactly once, so the first ones are
    no less steps than the others. Arguments of other shapes than the first call's run without the graph.

    A capture that fails is reported in one line on standard error, and everything goes on without a graph.
    """

    def __init__(self, function: Callable[..., None], device: torch.device):
        self.function, self.device = function, device
        self.stream = torch.cuda.Stream(device)
        self.begin_again()

    def begin_again(self) -> None:
        """Forgets the graph, where tensors that it uses were replaced."""
        self.graph, self.inputs, self.calls, self.failed = None, None, 0, False

    def __call__(self, *arguments: Tensor | None) -> None:
        if self.inputs is None:
            self.inputs = [None if x is None else torch.empty_like(x) for x in arguments]
        shapes = [None if x is None else x.shape for x in arguments]
        if self.failed or shapes != [None if x is None else x.shape for x in self.inputs]:
            self.function(*arguments)
            return
        for fixed, new in zip(self.inputs, arguments, strict=True):
            if fixed is not None:
                fixed.copy_(new)
        if self.calls >= WARM_UP and self.graph is None:
            self._capture()
        if self.graph is not None:
            self.graph.replay()
            return
        # On the stream of the capture, whose memory the optimisers' state and the gradients then come from.
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            self.function(*self.inputs)
        current.wait_stream(self.stream)
        self.calls += 1

    def _capture(self) -> None:
        graph = torch.cuda.CUDAGraph()
        current = torch.cuda.current_stream(self.device)
        try:
            # Only this thread's calls count: those that read images ahead may allocate meanwhile.
            with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
                self.function(*self.inputs)
        except RuntimeError as error:
            self.failed = True
            torch.cuda.set_stream(current)  # a capture that cannot end leaves its own stream behind
            reason = str(error).partition("\n")[0]
            print(f"patchvae: warning: training continues without a CUDA graph: {reason}", file=sys.stderr, flush=True)
        else:
            self.graph = graph
