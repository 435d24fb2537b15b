"""The BiGAN baseline (Donahue et al. 2016): an encoder learned only by matching what a generator does."""

from dataclasses import dataclass

from torch import Tensor, nn

from accel.common.describing import ShowsShapes
from accel.ops import Noise, appearance_noise

from .autoencoder import VectorAutoencoder


@dataclass(frozen=True, repr=False)
class BiganCode(ShowsShapes):
    """What a Bigan says of B images."""

    code: Tensor  # (B, Z), E(x)


@dataclass(frozen=True, repr=False)
class BiganOutput(BiganCode):
    """The two pairs that the joint discriminator tells apart: (x, E(x)) and (G(z), z)."""

    prior: Tensor  # (B, Z), z ~ N(0, 1)
    generated: Tensor  # (B, channels, H, W) in [−1, 1], G(z)


class Bigan(VectorAutoencoder):
    """β-VAE's encoder and decoder with codes of its size, z = E(x) without a variance, trained adversarially.

    image_size: an integer or (H, W), the only size taken. channels: of the images.
    encoder: "paper", "release" or "small" (scale 8), or "resnet18" (scale 32).

    Raises ValueError for any other value.
    """

    def __init__(
        self,
        *,
        image_size: int | tuple[int, int] = 32,
        channels: int = 3,
        latent_dim: int = 96,
        encoder: str = "paper",
    ):
        super().__init__(image_size, channels, encoder, latent_dim)
        self.code = nn.Linear(self.coarse_features, latent_dim)

    def forward(self, images: Tensor, noise: Noise) -> BiganOutput:
        """Images (B, channels, H, W), uint8 or float in [−1, 1] → their codes, and as many images of drawn codes.

        Raises ValueError for images of another size or kind.
        """
        code = self.code(self.pool(images))
        prior = appearance_noise(noise, len(images), 1, self.latent_dim, device=code.device).flatten(1)
        return BiganOutput(code, prior, self.decode(prior.to(self.expand.weight.dtype)))

    def encode(self, images: Tensor) -> BiganCode:
        """E(x) of images (B, channels, H, W), (B, latent_dim). Raises ValueError as `forward` does."""
        return BiganCode(self.code(self.pool(images)))
