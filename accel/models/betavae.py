"""The β-VAE baseline (Higgins et al. 2017; paper, section 3.1), with one Gaussian vector per image."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from accel.common.describing import ShowsShapes
from accel.ops import Noise, appearance_noise
from accel.ops.backend import accumulation_dtype
from accel.ops.gaussian import gaussian_divergence, sample_gaussian

from .autoencoder import VectorAutoencoder


@dataclass(frozen=True, repr=False)
class GaussianPosterior(ShowsShapes):
    """The posterior of B images: N(mean, variance) in Z dimensions.

    All tensors except the code are float32, under lower precision too (float64 in a float64 model).
    """

    code: Tensor  # (B, Z), the input of the decoder: the mean, or a sample
    mean: Tensor  # (B, Z), m
    variance: Tensor  # (B, Z), v > 0
    kl_appearance: Tensor  # (B,), the divergence from N(0, 1), nats
    kl_occurrence: Tensor  # (B,), zero, so that the same loss and log serve PatchVAE and BetaVAE


@dataclass(frozen=True, repr=False)
class BetaVAEOutput(GaussianPosterior):
    """The posterior, with a sampled code if sampling was requested, and the reconstruction from that code."""

    reconstruction: Tensor  # (B, channels, H, W) in [−1, 1]


class BetaVAE(VectorAutoencoder):
    """The encoder and decoder of PatchVAE with a code z ~ N(m, v), one vector of latent_dim dimensions per image.

    image_size: an integer or (H, W), the only size that is accepted. channels: number of channels of the images.
    encoder: "paper", "release" or "small" (scale 8), "fine" (scale 2), or "resnet18" (scale 32).

    Raises ValueError for a value out of range.
    """

    has_variance = True

    heads = ("mean", "log_variance")
    mean: nn.Linear
    log_variance: nn.Linear

    def forward(
        self,
        images: Tensor,
        temperature: float | Tensor = 1.0,
        noise: Noise | None = None,
        sample: bool | None = None,
    ) -> BetaVAEOutput:
        """Images (B, channels, H, W), uint8 or float in [−1, 1] → posterior, code and reconstruction.

        The code is m + √v · ε if `noise` is given, unless sample=False; otherwise it is m. temperature is unused: the
        argument exists so that the same training step serves PatchVAE. Raises ValueError for images of wrong size or
        dtype, and for sample=True without noise.
        """
        sample = noise is not None if sample is None else sample
        posterior = self._posterior(images, noise, sample)
        return BetaVAEOutput(**posterior, reconstruction=self.decode(posterior["code"]))

    def encode(self, images: Tensor) -> GaussianPosterior:
        """The posterior of images (B, channels, H, W), with the mean as its code. Raises ValueError as `forward`."""
        return GaussianPosterior(**self._posterior(images, noise=None, sample=False))

    def _posterior(self, images: Tensor, noise: Noise | None, sample: bool) -> dict[str, Tensor]:
        if sample and noise is None:
            raise ValueError("sample=True needs noise=Noise(seed, step, first_image)")
        features = self.pool(images)
        mean, log_variance = self.mean(features), self.log_variance(features)
        code_dtype, dtype = mean.dtype, accumulation_dtype(mean)
        mean, log_variance = mean.to(dtype), log_variance.to(dtype)
        code = mean
        if noise is not None and sample:
            epsilon = appearance_noise(noise, len(mean), 1, self.latent_dim, device=mean.device, dtype=dtype)
            code = sample_gaussian(mean, log_variance, epsilon.flatten(1))
        divergence = gaussian_divergence(mean, log_variance).sum(1)
        return {
            "code": code.to(code_dtype),
            "mean": mean,
            "variance": log_variance.exp(),
            "kl_appearance": divergence,
            "kl_occurrence": torch.zeros_like(divergence),
        }
