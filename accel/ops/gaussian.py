"""Diagonal Gaussians, on tensors; the equations are in reference/divergence.py."""

import torch
from torch import Tensor


def sample_gaussian(mean: Tensor, log_variance: Tensor, epsilon: Tensor) -> Tensor:
    """m + √v · ε, all of one shape."""
    return mean + torch.exp(0.5 * log_variance) * epsilon


def gaussian_divergence(distance: Tensor, log_variance: Tensor) -> Tensor:
    """½ (d² + v − 1 − log v), the divergence of each element from N(c, 1) in nats, d = m − c."""
    return 0.5 * (distance.square() + log_variance.exp() - 1.0 - log_variance)
