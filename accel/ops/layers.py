"""Images in two layers, on tensors; the equations are in reference/layers.py."""

import torch
from torch import Tensor
from torch.nn import functional


def ground_pixels(ground: Tensor, height: int, width: int) -> Tensor:
    """Interpolates a grid (B, C, points, points) bilinearly, corners on corners: (B, C, height, width)."""
    return functional.interpolate(ground, size=(height, width), mode="bilinear", align_corners=True)


def compose(layers: Tensor, ground: Tensor) -> Tensor:
    """Layers (B, C + 1, H, W), colours and, last, the logit of the opacity, over (B, C, H, W): images in [−1, 1]."""
    colours, opacity = layers[:, :-1].tanh(), layers[:, -1:].sigmoid()
    return torch.lerp(ground.tanh(), colours, opacity.expand_as(colours))
