"""An image in two layers, on tensors; the equations stand in reference/layers.py."""

import torch
from torch import Tensor
from torch.nn import functional


def ground_pixels(ground: Tensor, height: int, width: int) -> Tensor:
    """A lattice (B, C, points, points), bilinear up to the image's corners: (B, C, height, width)."""
    return functional.interpolate(ground, size=(height, width), mode="bilinear", align_corners=True)


def compose(layers: Tensor, ground: Tensor) -> Tensor:
    """Layers (B, C + 1, H, W), colours and last the opacity's logit, over a ground (B, C, H, W): in [−1, 1]."""
    colours, opacity = layers[:, :-1].tanh(), layers[:, -1:].sigmoid()
    return torch.lerp(ground.tanh(), colours, opacity.expand_as(colours))
