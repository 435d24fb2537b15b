"""What changes from step to step: the temperature of the relaxed Bernoulli variables."""

import math

import torch
from torch import Tensor


def temperature(step: int | Tensor, start: float = 1.0, rate: float = 3e-5, floor: float = 0.1) -> float | Tensor:
    """τ(t) = max(τ_min, τ_0 · exp(−rate · t)), t counted in steps from 0 (paper, section 4.1).

    A number for a number. For a 0-d tensor a float32 one on the same device, the number's value rounded, without
    waiting for the device.
    """
    if isinstance(step, Tensor):
        return (start * torch.exp(-rate * step.double())).clamp_min(floor).float()
    return max(floor, start * math.exp(-rate * step))
