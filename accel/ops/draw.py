"""The arguments of sampling, which are passed along with the bottleneck's options."""

import math
import numbers
from typing import NamedTuple

import torch
from torch import Tensor

from accel.common.describing import described

from .noise import Noise


class Draw(NamedTuple):
    """temperature: τ > 0, a number or a 0-d tensor. noise: determines the random numbers. sample: False for the
    posterior's mean, without effect of the other two.
    """

    temperature: float | Tensor = 1.0
    noise: Noise | None = None
    sample: bool = True


def check_draw(function: str, draw: Draw) -> None:
    """Raises ValueError for invalid arguments of sampling."""
    temperature = draw.temperature
    if draw.sample and draw.noise is None:
        raise ValueError(f"{function}: sample=True needs noise=Noise(seed, step, first_image)")
    if not isinstance(draw.noise, Noise | None):
        raise ValueError(f"{function}: noise must be a Noise, got {type(draw.noise).__name__}")
    if isinstance(temperature, Tensor):
        if temperature.ndim:
            raise ValueError(
                f"{function}: temperature must be a number or a 0-d tensor, got shape {tuple(temperature.shape)}"
            )
        if temperature.requires_grad:
            raise ValueError(f"{function}: temperature must not require a gradient, pass temperature.detach()")
        # Reading the value would synchronise with a GPU; in compiled code and fake tensors there is no value.
        if type(temperature) is Tensor and temperature.device.type == "cpu" and not torch.compiler.is_compiling():
            check_draw(function, draw._replace(temperature=temperature.item()))
    elif not isinstance(temperature, numbers.Real):
        raise ValueError(f"{function}: temperature must be a number or a 0-d tensor, got {described(temperature)}")
    elif not 0.0 < temperature < math.inf:
        raise ValueError(f"{function}: temperature must be positive and finite, got {temperature}")
