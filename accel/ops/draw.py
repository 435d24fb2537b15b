"""How a draw is made: what travels beside the bottleneck's options."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .noise import Noise


class Draw(NamedTuple):
    """temperature: τ > 0, a number or a 0-d tensor. noise: the draws' address. sample: False for the posterior's mean,
    and then the other two have no meaning.
    """

    temperature: float | Tensor = 1.0
    noise: Noise | None = None
    sample: bool = True


def check_draw(function: str, draw: Draw) -> None:
    """Raises ValueError where sampling cannot go on."""
    temperature = draw.temperature
    if draw.sample and draw.noise is None:
        raise ValueError(f"{function}: sample=True needs noise=Noise(seed, step, first_image)")
    if isinstance(temperature, Tensor):
        if temperature.ndim:
            raise ValueError(
                f"{function}: temperature must be a number or a 0-d tensor, got shape {tuple(temperature.shape)}"
            )
        if temperature.requires_grad:
            raise ValueError(f"{function}: temperature must not require a gradient, pass temperature.detach()")
        # A GPU would have to be waited for, and in compiled code and for a shape's sake there is no number to look at.
        if type(temperature) is Tensor and temperature.device.type == "cpu" and not torch.compiler.is_compiling():
            check_draw(function, draw._replace(temperature=temperature.item()))
    elif not 0.0 < temperature < math.inf:
        raise ValueError(f"{function}: temperature must be positive and finite, got {temperature}")
