"""What changes from step to step: the temperature of the relaxed Bernoulli variables, and both β while they rise."""

import math

import torch
from torch import Tensor

from accel.training.config import TrainingConfig

OCCURRENCE_START = 0.2  # of β_occ: with none, every part would occur everywhere


def temperature(step: int | Tensor, start: float = 1.0, rate: float = 3e-5, floor: float = 0.1) -> float | Tensor:
    """τ(t) = max(τ_min, τ_0 · exp(−rate · t)), t counted in steps from 0 (paper, section 4.1).

    A number for a number. For a 0-d tensor a float32 one on the same device, the number's value rounded, without
    waiting for the device.
    """
    if isinstance(step, Tensor):
        return (start * torch.exp(-rate * step.double())).clamp_min(floor).float()
    return max(floor, start * math.exp(-rate * step))


def warm_up(step: int | Tensor, steps: int, start: float = 0.0) -> float | Tensor:
    """The share of a β that is in force: it rises evenly from `start` at step 0 to 1 at step `steps`.

    A number for a number, and for a 0-d tensor a float32 one on the same device.
    """
    if steps == 0:
        return 1.0
    if isinstance(step, Tensor):
        return (start + (1 - start) / steps * step.double()).clamp_max(1.0).float()
    return min(1.0, start + (1 - start) / steps * step)


def temperature_at(step: int | Tensor, config: TrainingConfig) -> float | Tensor:
    """τ at a step of a run."""
    return temperature(step, config.temperature, config.temperature_rate, config.temperature_floor)


def betas_at(step: int | Tensor, config: TrainingConfig) -> tuple[float | Tensor, float | Tensor]:
    """β_app and β_occ at a step of a run. While looks cost little and occurrences something, all parts are tried."""
    beta_app = config.beta_app * warm_up(step, config.warm_up)
    return beta_app, config.beta_occ * warm_up(step, config.warm_up, OCCURRENCE_START)
