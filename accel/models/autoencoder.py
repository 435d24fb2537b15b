"""What every autoencoder here shares: the backbone, the grid, and the checks of what goes in."""

import torch
from torch import Tensor

from .decoder import Decoder
from .encoder import PRESETS, Encoder
from .pretrained import Pretrained


def pixels(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Images in [−1, 1] as `dtype`: uint8 values x become x / 127.5 − 1, floating ones stay what they are.

    Raises ValueError for any other dtype.
    """
    if images.dtype == torch.uint8:
        return images.to(dtype) / 127.5 - 1
    if not images.is_floating_point():
        raise ValueError(f"images must be uint8, or floating point in [-1, 1], got {images.dtype}")
    return images.to(dtype)


def check_positive(**arguments: object) -> None:
    """Raises ValueError unless every argument is an integer of at least 1."""
    for name, value in arguments.items():
        if type(value) is not int or value < 1:
            raise ValueError(f"{name} must be a positive integer, got {value!r}")


class Autoencoder(Pretrained):
    """An encoder φ and a decoder G around a bottleneck, which a subclass adds as `encode` and `decode`.

    `image_size`: an integer, or (H, W), each divisible by `scale`. `grid` (h, w) is image_size / scale.
    """

    def __init__(self, image_size: int | tuple[int, int], channels: int, encoder: str, code_channels: int):
        super().__init__()
        sizes = tuple(image_size) if isinstance(image_size, (tuple, list)) else (image_size, image_size)
        if len(sizes) != 2:
            raise ValueError(f"image_size must be an integer or (height, width), got {image_size!r}")
        for size in sizes:
            check_positive(image_size=size)
        check_positive(channels=channels)
        self.image_size = sizes
        self.encoder = Encoder(encoder, channels)
        self.scale = self.encoder.scale
        if sizes[0] % self.scale or sizes[1] % self.scale:
            raise ValueError(f"image_size {image_size!r} is not divisible by {self.scale}, the scale of {encoder!r}")
        self.grid = (sizes[0] // self.scale, sizes[1] // self.scale)
        self.decoder = Decoder(code_channels, channels, self.scale, PRESETS[encoder].width)

    def features(self, images: Tensor) -> Tensor:
        """φ(x): images (B, channels, H, W), uint8 or float in [−1, 1] → (B, C, H/scale, W/scale).

        Raises ValueError for another rank, number of channels or dtype, or a size that scale does not divide.
        """
        stem = self.encoder.conv1.weight
        if images.ndim != 4 or images.shape[1] != stem.shape[1]:
            raise ValueError(f"images must be (B, {stem.shape[1]}, H, W), got {tuple(images.shape)}")
        height, width = images.shape[2:]
        if min(height, width) < self.scale or height % self.scale or width % self.scale:
            raise ValueError(f"image height and width must be multiples of {self.scale}, got {height} and {width}")
        return self.encoder(pixels(images, stem.dtype))

    def reconstruct(self, images: Tensor) -> Tensor:
        """x̂ of the posterior's mean code, (B, channels, H, W) in [−1, 1]; nothing is drawn."""
        return self.decode(self.encode(images).code)
