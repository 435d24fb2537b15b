"""The discriminator of adversarial training: a network of the encoder's size with one output."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from .autoencoder import check_positive
from .encoder import Encoder, coarse_grid, coarse_vector, scale_of

GROUP = 16  # channels per group of group norm


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm, which normalises each image separately.

    Batch norm would mix the statistics of real and generated images, or distinguish them by the statistics of their
    batch, and its running averages would describe neither. Group norm has no state, so a forward pass changes nothing,
    and autocast keeps it in float32.
    """
    return nn.GroupNorm(channels // GROUP, channels)


class Discriminator(nn.Module):
    """An encoder with group norm, its features on at most 4 × 4 cells, and linear layers to one logit.

    image_size (H, W), channels, encoder: as in the model whose images are discriminated. latent_dim: dimension of the
    code z of a joint discriminator of images and codes, as in a BiGAN (Donahue et al. 2016); None for images alone.
    """

    def __init__(self, *, image_size: tuple[int, int], channels: int, encoder: str, latent_dim: int | None = None):
        super().__init__()
        self.encoder = Encoder(encoder, channels, norm=group_norm)
        width = self.encoder.out_channels
        scale = scale_of(encoder)
        height_cells, width_cells = coarse_grid((image_size[0] // scale, image_size[1] // scale))
        inputs = width * height_cells * width_cells
        self.joint = None
        if latent_dim is not None:
            check_positive(latent_dim=latent_dim)
            # A hidden layer over both: a sum of a logit of x and a logit of z could not detect whether they match.
            self.joint, inputs = nn.Linear(inputs + latent_dim, width), width
        self.output = nn.Linear(inputs, 1)

    def forward(self, images: Tensor, code: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Images (B, channels, H, W) in [−1, 1], and codes (B, latent_dim) for a joint discriminator.

        Returns (logit (B,) of being real, in float32 or wider; features (B, C, h, w) of the last residual block).
        Raises ValueError if a joint discriminator gets no code.
        """
        features = self.encoder(images.to(self.output.weight.dtype))
        hidden = coarse_vector(features)
        if self.joint is not None:
            if code is None:
                raise ValueError("a joint discriminator needs images and codes, got no code")
            hidden = functional.leaky_relu(self.joint(torch.cat([hidden, code.to(hidden.dtype)], 1)), 0.2)
        logit = self.output(hidden)[:, 0]
        return logit.float() if logit.dtype != torch.float64 else logit, features
