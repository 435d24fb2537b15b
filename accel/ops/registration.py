"""How the fused operators meet torch.library: one definition gives the kernel, its fake and its gradient.

The gradient is an autograd.Function put under the Autograd key by hand. A forward and a backward call cost 1.4 to 1.6
times the host time of the bare Function before the kernels' launches are added to both, and 1.25 to 1.35 times after
(bench/overhead.py): two more passes of the dispatcher, and the guard of the device. custom_op and register_autograd
come to 2.4 and 1.9 times; triton_op cannot wrap the interpreter's kernels, which prove these without a GPU.
"""

import torch

library = torch.library.Library("patchvae", "DEF")


def define(schema, implementation, fake):
    """An operator of the given schema for every device, and its fake kernel.

    The first tensor among its arguments tells the device; Triton launches on whichever is the current one.
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
    """The operator whose outputs are allocate(*arguments), filled by launch(*arguments, outputs).

    The fake kernel allocates and does no more, so that both agree on shapes, strides and dtypes.
    """

    def implementation(*arguments):
        outputs = allocate(*arguments)
        launch(*arguments, outputs)
        return outputs

    return define(schema, implementation, allocate)


def differentiate(operator, save, backward):
    """Gives the operator a gradient, and refuses a second one.

    save(ctx, inputs, outputs) keeps what backward(ctx, *gradients) needs; absent gradients are None.
    """
    name = operator.name().partition("::")[2]

    class Refuse(torch.autograd.Function):
        """The first count of its inputs, unchanged, until someone asks for their derivative."""

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
