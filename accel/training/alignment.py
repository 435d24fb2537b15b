"""Convolutions from and to pixels, zero-padded in compiled code, since tensor cores do not support three channels.

cuDNN pads them too, with additional copies before and after; in compiled code, the kernel that writes the pixels also
writes the zeros. The result is the same, since only products with zero are added.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

CHANNELS = 8  # 16 bytes of bfloat16, the smallest load of a tensor core


def widened(tensor: Tensor) -> Tensor:
    """The tensor with its second axis padded with zeros to CHANNELS."""
    return functional.pad(tensor, (0, 0, 0, 0, 0, CHANNELS - tensor.shape[1]))


class AlignedConv2d(nn.Conv2d):
    """The same convolution, with more input channels in compiled code."""

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) → features (B, channels, H', W')."""
        if not torch.compiler.is_compiling():
            return super().forward(images)
        return self._conv_forward(widened(images), widened(self.weight), self.bias)


class AlignedConvTranspose2d(nn.ConvTranspose2d):
    """The same transposed convolution, with additional output channels in compiled code, which are dropped."""

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, channels, h, w) → pixels (B, C, H, W)."""
        if not torch.compiler.is_compiling():
            return super().forward(features)
        weight = widened(self.weight)
        wide = functional.conv_transpose2d(features, weight, None, self.stride, self.padding, dilation=self.dilation)
        return wide[:, : self.out_channels]


def align_channels(networks: nn.Module) -> None:
    """Pads every plain convolution with fewer input or output channels; parameters and names do not change."""
    for module in networks.modules():
        if type(module) is nn.Conv2d and module.in_channels < CHANNELS and module.groups == 1:
            module.__class__ = AlignedConv2d  # a subclass without additional state
        ends = type(module) is nn.ConvTranspose2d and module.bias is None and module.groups == 1
        if ends and module.out_channels < CHANNELS:
            module.__class__ = AlignedConvTranspose2d
