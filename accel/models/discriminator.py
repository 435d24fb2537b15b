"""What adversarial training compares images by: a network of the encoder's size that ends in one number."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from .autoencoder import check_positive
from .encoder import Encoder, coarse_grid, coarse_vector, scale_of

GROUP = 16  # channels that are normalised together


def group_norm(channels: int) -> nn.GroupNorm:
    """Normalises each image by itself.

    Batch norm would let real and generated images see each other, or tell them apart by the statistics of their
    batch, and would keep running averages that neither of the two describes. This has no state, so judging images
    moves nothing, and autocast keeps it in float32.
    """
    return nn.GroupNorm(channels // GROUP, channels)


class Discriminator(nn.Module):
    """The encoder's layout with group norm, its features on at most 4 × 4 cells, and linear maps to one logit.

    image_size (H, W), channels, encoder: as in the model whose images are judged. latent_dim: of the code z that is
    judged together with the image, as in a BiGAN (Donahue et al. 2016); without it images are judged alone.
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
            # A hidden layer over both: the sum of a judgement of x and one of z would not see whether they match.
            self.joint, inputs = nn.Linear(inputs + latent_dim, width), width
        self.output = nn.Linear(inputs, 1)

    def forward(self, images: Tensor, code: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Images (B, channels, H, W) in [−1, 1], and codes (B, latent_dim) if it is a joint one.

        → (logit (B,) of being real, in float32 or wider; features (B, C, h, w) of the last residual block).
        Raises ValueError where a joint one gets no code.
        """
        features = self.encoder(images.to(self.output.weight.dtype))
        hidden = coarse_vector(features)
        if self.joint is not None:
            if code is None:
                raise ValueError("a joint discriminator judges images and codes together, got no code")
            hidden = functional.leaky_relu(self.joint(torch.cat([hidden, code.to(hidden.dtype)], 1)), 0.2)
        logit = self.output(hidden)[:, 0]
        return logit.float() if logit.dtype != torch.float64 else logit, features
