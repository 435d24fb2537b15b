"""The decoder G: from codes on the grid to images."""

from collections import OrderedDict
from typing import ClassVar

from torch import Tensor, nn


def _block(convolution: nn.Conv2d | nn.ConvTranspose2d) -> nn.Sequential:
    """The convolution, batch norm and LeakyReLU(0.2)."""
    layers = {"conv": convolution, "bn": nn.BatchNorm2d(convolution.out_channels), "act": nn.LeakyReLU(0.2)}
    return nn.Sequential(OrderedDict(layers))


class ImageDecoder(nn.Module):
    """Codes (B, in_channels, h, w) → images (B, channels, H, W) in [−1, 1]."""

    code_axis: ClassVar[int]  # the axis of `code_weight` that belongs to the channels of the code

    @property
    def code_weight(self) -> Tensor:
        """The weights of the layer that reads the code."""
        raise NotImplementedError

    def unbounded(self, code: Tensor) -> Tensor:
        """The output before the tanh, (B, channels, H, W)."""
        raise NotImplementedError

    def forward(self, code: Tensor) -> Tensor:
        """Codes (B, in_channels, h, w) → images (B, channels, H, W) in [−1, 1]."""
        return self.unbounded(code).tanh()


class Decoder(ImageDecoder):
    """A 1×1 convolution, then log₂(scale) transposed convolutions (4×4/2), the last to pixels.

    Each transposed convolution doubles the grid and halves the channels, so all cost the same, and the last has `width`
    input channels at every scale: 256, 128, 64, pixels for scale 8 and width 64. For scale 32 the first has 1024
    channels, which makes 11 M parameters and as many multiplications as the corresponding ResNet-18 encoder.

    Codes (B, in_channels, h, w) become images (B, channels, h · scale, w · scale) in [−1, 1] (tanh).
    `scale` is a power of two, at least 2.
    """

    code_axis = 1

    def __init__(self, in_channels: int, channels: int, scale: int, width: int):
        super().__init__()
        last, width = width, width * scale // 2
        self.input = _block(nn.Conv2d(in_channels, width, 1, bias=False))
        self.pyramid = nn.Sequential()
        while width > last:
            self.pyramid.append(_block(nn.ConvTranspose2d(width, width // 2, 4, 2, padding=1, bias=False)))
            width //= 2
        self.output = nn.ConvTranspose2d(width, channels, 4, 2, padding=1, bias=False)

    @property
    def code_weight(self) -> Tensor:
        """Of the 1×1 convolution."""
        return self.input.get_parameter("conv.weight")

    def unbounded(self, code: Tensor) -> Tensor:
        """The output before the tanh, (B, channels, h · scale, w · scale)."""
        return self.output(self.pyramid(self.input(code)))


class Templates(ImageDecoder):
    """One transposed convolution: each channel of a code draws one picture at each of its cells, and pictures add up.

    Codes (B, in_channels, h, w) become images (B, channels, h · scale, w · scale) in [−1, 1] (tanh).
    side: side of the pictures in pixels; side − scale must be even and not negative.
    """

    code_axis = 0

    def __init__(self, in_channels: int, channels: int, scale: int, side: int):
        super().__init__()
        self.output = nn.ConvTranspose2d(in_channels, channels, side, scale, padding=(side - scale) // 2)

    @property
    def code_weight(self) -> Tensor:
        """The pictures, (in_channels, channels, side, side)."""
        return self.output.weight

    def unbounded(self, code: Tensor) -> Tensor:
        """The output before the tanh, (B, channels, h · scale, w · scale)."""
        return self.output(code)
