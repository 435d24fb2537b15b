"""Convolutions from and to pixels, whose three channels no tensor core takes, widened with zeros in compiled code.

cuDNN widens them too, by copies of its own before and after; in compiled code the zeros are written by the kernel that
writes the pixels anyway. What is computed is the same, for products with zero are added.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

CHANNELS = 8  # 16 bytes of bfloat16, the least that a tensor core's loads take


def widened(tensor: Tensor) -> Tensor:
    """Zeros added to the second axis, up to CHANNELS."""
    return functional.pad(tensor, (0, 0, 0, 0, 0, CHANNELS - tensor.shape[1]))


class AlignedConv2d(nn.Conv2d):
    """The same convolution, with more input channels in compiled code."""

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) → features (B, channels, H', W')."""
        if not torch.compiler.is_compiling():
            return super().forward(images)
        return self._conv_forward(widened(images), widened(self.weight), self.bias)


class AlignedConvTranspose2d(nn.ConvTranspose2d):
    """The same transposed convolution, with more output channels in compiled code, of which the first are given."""

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, channels, h, w) → pixels (B, C, H, W)."""
        if not torch.compiler.is_compiling():
            return super().forward(features)
        weight = widened(self.weight)
        wide = functional.conv_transpose2d(features, weight, None, self.stride, self.padding, dilation=self.dilation)
        return wide[:, : self.out_channels]


def align_channels(networks: nn.Module) -> None:
    """Does so for every plain convolution that begins or ends with fewer channels; parameters and names stay."""
    for module in networks.modules():
        if type(module) is nn.Conv2d and module.in_channels < CHANNELS and module.groups == 1:
            module.__class__ = AlignedConv2d  # a subclass without state of its own
        ends = type(module) is nn.ConvTranspose2d and module.bias is None and module.groups == 1
        if ends and module.out_channels < CHANNELS:
            module.__class__ = AlignedConvTranspose2d
