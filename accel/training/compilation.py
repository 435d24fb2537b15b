"""A training step compiled by torch.compile, with a fallback to the uncompiled step."""

import logging
from collections.abc import Callable

import torch
import torch._functorch.config as functorch_config
import torch._inductor.config as inductor_config
from torch import Tensor

from accel.common.progress import say

# The compiler warns that it ignores the profiler context in an optimiser's step, which is irrelevant here.
logging.getLogger("torch._dynamo.variables.ctx_manager").addFilter(lambda record: "Profiler" not in record.getMessage())

GENERATED = {"combo_kernels": True}  # option of Inductor: independent kernels are merged


class Compiled:
    """Calls `function(*tensors)` compiled by torch.compile.

    A failed compilation is reported in one line on standard error, and from then on the function is called uncompiled.
    save() returns all state that the function changes and restore(saved) restores it, so that a step that failed half
    way still has its effect exactly once.
    """

    def __init__(self, function: Callable[..., None], save: Callable[[], object], restore: Callable[[object], None]):
        torch.compiler.reset()  # else it stops compiling a method after several runs in one process
        self.function, self.save, self.restore = function, save, restore
        self.compiled = torch.compile(function, dynamic=False)
        self.proven: set[tuple] = set()  # shapes that have run: others are compiled again, and may fail
        self.failed = False

    def __call__(self, *arguments: Tensor | None) -> None:
        if self.failed:
            self.function(*arguments)
            return
        # Values that are computed in float32 under autocast must get gradients in float32: by default, a compiled
        # backward pass would use the autocast of the call, and round them.
        with functorch_config.patch(backward_pass_autocast="off"), inductor_config.patch(GENERATED):
            shapes = tuple(None if x is None else x.shape for x in arguments)
            if shapes in self.proven:
                self.compiled(*arguments)
                return
            saved = self.save()
            try:
                self.compiled(*arguments)
            except torch.OutOfMemoryError:
                raise
            # Compilers raise errors of many types; other errors occur again without compilation.
            except Exception as error:
                self.failed = True
                reason = str(error).strip().partition("\n")[0]
                warning = f"patchvae: warning: training continues uncompiled: {type(error).__name__}: {reason}"
                say(warning, error=True)
                self.restore(saved)
                self.function(*arguments)
            else:
                self.proven.add(shapes)
