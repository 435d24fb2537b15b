"""What changes from step to step: the temperature of the relaxed Bernoulli variables."""

import math


def temperature(step: int, start: float = 1.0, rate: float = 3e-5, floor: float = 0.1) -> float:
    """τ(t) = max(τ_min, τ_0 · exp(−rate · t)), t counted in steps from 0 (paper, section 4.1)."""
    return max(floor, start * math.exp(-rate * step))
