"""A training step compiled by torch.compile, which goes on without the compiler where that fails."""

import logging
import sys
from collections.abc import Callable

import torch
import torch._functorch.config as functorch_config
import torch._inductor.config as inductor_config
from torch import Tensor

# An optimiser's step names itself to the profiler, and that the compiler leaves this out concerns nobody.
logging.getLogger("torch._dynamo.variables.ctx_manager").addFilter(lambda record: "Profiler" not in record.getMessage())

GENERATED = {"combo_kernels": True}  # of Inductor's options: kernels that do not wait for each other become one


class Compiled:
    """Calls `function(*tensors)` as torch.compile makes it.

    A compilation that fails is reported in one line on standard error, and from then on the function is called as it
    is. save() keeps all that the function changes and restore(saved) brings it back, so that a step that failed half
    way is taken once all the same.
    """

    def __init__(self, function: Callable[..., None], save: Callable[[], object], restore: Callable[[object], None]):
        torch.compiler.reset()  # it gives up on a method of which several runs in one process have left variants
        self.function, self.save, self.restore = function, save, restore
        self.compiled = torch.compile(function, dynamic=False)
        self.proven: set[tuple] = set()  # shapes that have run: others are compiled anew, and may fail
        self.failed = False

    def __call__(self, *arguments: Tensor | None) -> None:
        if self.failed:
            self.function(*arguments)
            return
        # What is computed in float32 under autocast gets gradients in float32: by default a compiled backward pass
        # would follow the autocast of the call, and round them.
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
            except (
                Exception
            ) as error:  # compilers fail in too many ways to list; what is no failure of theirs comes again
                self.failed = True
                reason = str(error).strip().partition("\n")[0]
                warning = f"patchvae: warning: training continues uncompiled: {type(error).__name__}: {reason}"
                print(warning, file=sys.stderr, flush=True)
                self.restore(saved)
                self.function(*arguments)
            else:
                self.proven.add(shapes)
