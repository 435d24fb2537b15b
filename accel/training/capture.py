"""Captures a function of tensors as one CUDA graph, which the host launches with one call instead of hundreds."""

from collections.abc import Callable

import torch
from torch import Tensor

from accel.common.progress import say

WARM_UP = 3  # calls before the capture, which compile and choose kernels and create the state of optimisers


class Captured:
    """Calls `function(*tensors)`; after WARM_UP calls, captures a graph and replays it.

    The function must return nothing, access only its arguments and tensors at fixed addresses on the device, and not
    synchronise with the device. Every call has its effect exactly once, including the first ones. Arguments with shapes
    that differ from those of the first call are computed without the graph.

    A failed capture is reported in one line on standard error, and calls continue without a graph.
    """

    def __init__(self, function: Callable[..., None], device: torch.device):
        self.function, self.device = function, device
        self.stream = torch.cuda.Stream(device)
        self.begin_again()

    def begin_again(self) -> None:
        """Discards the graph, after tensors that it uses were replaced."""
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
        cause = None
        try:
            # Only calls of this thread are checked: threads that prefetch images may allocate meanwhile.
            with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
                try:
                    self.function(*self.inputs)
                except RuntimeError as error:
                    cause = error  # after it the capture cannot end, which is an error, too, and says less
                    raise
        except RuntimeError as error:
            self.failed = True
            torch.cuda.set_stream(current)  # a failed capture leaves its own stream active
            reason = str(cause or error).partition("\n")[0]
            say(f"patchvae: warning: training continues without a CUDA graph: {reason}", error=True)
        else:
            self.graph = graph
