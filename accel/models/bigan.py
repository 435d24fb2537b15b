"""The BiGAN baseline (Donahue et al. 2016): an encoder trained adversarially to invert a generator."""

from dataclasses import dataclass

from torch import Tensor, nn

from accel.common.describing import ShowsShapes
from accel.ops import Noise, appearance_noise

from .autoencoder import VectorAutoencoder


@dataclass(frozen=True, repr=False)
class BiganCode(ShowsShapes):
    """The codes of B images."""

    code: Tensor  # (B, Z), E(x)


@dataclass(frozen=True, repr=False)
class BiganOutput(BiganCode):
    """The pairs that the joint discriminator learns to distinguish: (x, E(x)) and (G(z), z)."""

    prior: Tensor  # (B, Z), z ~ N(0, 1)
    generated: Tensor  # (B, channels, H, W) in [−1, 1], G(z)


class Bigan(VectorAutoencoder):
    """The encoder and decoder of BetaVAE with a code z = E(x) that has no variance, trained adversarially.

    image_size: an integer or (H, W), the only size that is accepted. channels: number of channels of the images.
    encoder: "paper", "release" or "small" (scale 8), "fine" (scale 2), or "resnet18" (scale 32).

    Raises ValueError for a value out of range.
    """

    heads = ("code",)
    code: nn.Linear

    def forward(self, images: Tensor, noise: Noise) -> BiganOutput:
        """Images (B, channels, H, W), uint8 or float in [−1, 1] → codes, and as many images from sampled codes.

        Raises ValueError for images of wrong size or dtype, or without noise.
        """
        if not isinstance(noise, Noise):
            raise ValueError(f"noise must be a Noise, got {type(noise).__name__}")
        code = self.code(self.pool(images))
        prior = appearance_noise(noise, len(images), 1, self.latent_dim, device=code.device).flatten(1)
        return BiganOutput(code, prior, self.decode(prior.to(self.expand.weight.dtype)))

    def encode(self, images: Tensor) -> BiganCode:
        """Images (B, channels, H, W) → codes E(x), (B, latent_dim). Raises ValueError as `forward` does."""
        return BiganCode(self.code(self.pool(images)))
