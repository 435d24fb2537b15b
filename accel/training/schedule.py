"""Schedules: temperature and β_occ by step, the learning rate by epoch."""

import math

import torch
from torch import Tensor

from accel.training.config import TrainingConfig

OCCURRENCE_START = 0.2  # initial share of β_occ: with 0, every part would occur everywhere


def temperature(step: int | Tensor, start: float = 1.0, rate: float = 3e-5, floor: float = 0.1) -> float | Tensor:
    """τ(t) = max(τ_min, τ_0 · exp(−rate · t)), t counted in steps from 0 (paper, section 4.1).

    Returns a number for a number. For a 0-d tensor, returns a 0-d float32 tensor on the same device with the rounded
    value, without synchronising with the device.
    """
    if isinstance(step, Tensor):
        return (start * torch.exp(-rate * step.double())).clamp_min(floor).float()
    return max(floor, start * math.exp(-rate * step))


def beta_occ(step: int | Tensor, value: float, steps: int) -> float | Tensor:
    """β_occ: increases linearly from a fifth of `value` at step 0 to `value` at step `steps`, so all parts are tried.

    Returns a number for a number, and a 0-d float32 tensor on the same device for a 0-d tensor; `value` if steps is 0.
    """
    if steps == 0:
        return value
    first, slope = OCCURRENCE_START * value, (1 - OCCURRENCE_START) * value / steps
    if isinstance(step, Tensor):
        return (first + slope * step.double()).clamp_max(value).float()
    return min(value, first + slope * step)


def learning_rate(epoch: int, epochs: int, value: float, decay: float) -> float:
    """`value`, decreasing linearly towards 0 over the last fraction `decay` of the epochs, without reaching 0.

    epoch: from 0 to epochs − 1.
    """
    return value * min(1.0, (epochs - epoch) / (decay * epochs + 1))


def temperature_at(step: int | Tensor, config: TrainingConfig) -> float | Tensor:
    """τ at a step of a run."""
    return temperature(step, config.temperature, config.temperature_rate, config.temperature_floor)


def beta_occ_at(step: int | Tensor, config: TrainingConfig) -> float | Tensor:
    """β_occ at a step of a run."""
    return beta_occ(step, config.beta_occ, config.warm_up)
