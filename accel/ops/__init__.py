"""Differentiable functions on tensors: argument checks, gradients and the choice of backend.

Each has a fused implementation in Triton and a plain one in PyTorch. The same tests compare both with reference/.
"""

from .bottleneck import PatchBottleneck, patch_bottleneck, pooled_patch_bottleneck
from .noise import Noise, appearance_noise, dropout_noise, occurrence_noise
from .weighted_loss import gradient_energy_weights, weighted_squared_error

__all__ = [
    "Noise",
    "PatchBottleneck",
    "appearance_noise",
    "dropout_noise",
    "gradient_energy_weights",
    "occurrence_noise",
    "patch_bottleneck",
    "pooled_patch_bottleneck",
    "weighted_squared_error",
]
