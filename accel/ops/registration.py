"""Registration of the fused operators with torch.library: one definition gives kernel, fake kernel and gradient.

The gradient is an autograd.Function that is registered for the Autograd key directly. A forward and a backward call
take 1.4 to 1.6 times the host time of the bare Function without kernel launches, and 1.25 to 1.35 times with them
(bench/overhead.py), because of two more passes through the dispatcher and the device guard. custom_op and
register_autograd take 2.4 and 1.9 times; triton_op does not support the kernels of the interpreter, with which tests
run without a GPU.
"""

import torch

library = torch.library.Library("patchvae", "DEF")


def define(schema, implementation, fake):
    """Defines an operator with the given schema for every device, and its fake kernel.

    The first tensor argument determines the device, since Triton launches on the current device.
    """
    name = schema.partition("(")[0]

    def on_its_device(*arguments):
        with torch.cuda.device_of(next(x for x in arguments if isinstance(x, torch.Tensor))):
            return implementation(*arguments)

    library.define(schema)
    library.impl(name, on_its_device, "CompositeExplicitAutograd")
    torch.library.register_fake(f"patchvae::{name}", fake, lib=library)
    return getattr(torch.ops.patchvae, name).default


def define_launch(schema, allocate, launch):
    """Defines an operator that allocates outputs by allocate(*arguments) and fills them by launch(*arguments, outputs).

    The fake kernel only allocates, so that both have the same shapes, strides and dtypes.
    """

    def implementation(*arguments):
        outputs = allocate(*arguments)
        launch(*arguments, outputs)
        return outputs

    return define(schema, implementation, allocate)


def differentiate(operator, save, backward):
    """Registers a gradient of the operator; a second derivative raises an error.

    save(ctx, inputs, outputs) saves tensors for backward(ctx, *gradients); missing gradients are None.
    """
    name = operator.name().partition("::")[2]

    class Refuse(torch.autograd.Function):
        """Returns the first `count` inputs unchanged; their derivative raises an error."""

        @staticmethod
        def forward(ctx, count, *tensors):
            return tensors[:count]

        @staticmethod
        def backward(ctx, *_):
            raise RuntimeError(f"{name}: the fused kernels have no second derivative; use backend='torch'")

    class Differentiable(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *inputs):
            with torch._C._AutoDispatchBelowAutograd():
                outputs = operator(*inputs)
            ctx.set_materialize_grads(False)
            save(ctx, inputs, outputs)
            return outputs

        @staticmethod
        def backward(ctx, *gradients):
            if not torch.is_grad_enabled():
                return backward(ctx, *gradients)
            with torch.no_grad():
                results = backward(ctx, *gradients)
            return Refuse.apply(len(results), *results, *ctx.saved_tensors, *gradients)

    library.impl(name, lambda *inputs: Differentiable.apply(*inputs), "Autograd")
