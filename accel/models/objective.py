"""The training loss: the negative evidence lower bound with its two β (paper, equations 9 and 11)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from accel.common.describing import ShowsShapes
from accel.ops import weighted_squared_error
from accel.ops.backend import accumulation_dtype

from .autoencoder import scaled_pixels
from .betavae import BetaVAEOutput
from .patchvae import PatchVAEOutput


@dataclass(frozen=True, repr=False)
class Elbo(ShowsShapes):
    """The loss and its terms as 0-d tensors: means over images, in nats per image. The terms do not include β.

    kl_ground: None for a model without a background model.
    """

    total: Tensor
    reconstruction: Tensor
    kl_appearance: Tensor
    kl_occurrence: Tensor
    kl_ground: Tensor | None = None


def elbo(
    out: PatchVAEOutput | BetaVAEOutput,
    images: Tensor,
    beta_app: float | Tensor = 1.0,
    beta_occ: float | Tensor = 1.0,
    weighted: bool = True,
) -> Elbo:
    """The loss to minimise: the mean over images of R + β_app · KL_app + β_occ · KL_occ (+ KL_ground if present).

    out: a model's output for `images` (B, channels, H, W), uint8 or float in [−1, 1]. R = Σ ω (x − x̂)² over
    channels and pixels, ω the gradient-energy weights (paper, section 3.4), or 1 unless `weighted`. Sums are
    computed in float32 for any dtype of the reconstruction (float64 for float64).

    Raises ValueError for a β that is not finite, for different shapes, or for integer images other than uint8.
    """
    for name, beta in (("beta_app", beta_app), ("beta_occ", beta_occ)):
        # A GPU would have to be waited for, and in compiled code there is no number to look at.
        if type(beta) is Tensor and beta.device.type == "cpu" and not torch.compiler.is_compiling():
            beta = beta.item()
        if not isinstance(beta, Tensor) and not math.isfinite(beta):
            raise ValueError(f"elbo: {name} must be finite, got {beta}")
    if out.reconstruction.shape != images.shape:
        shapes = f"{tuple(images.shape)}, the reconstruction {tuple(out.reconstruction.shape)}"
        raise ValueError(f"elbo: images are {shapes}")
    images = scaled_pixels(images, accumulation_dtype(out.reconstruction))
    if weighted:
        error = weighted_squared_error(out.reconstruction, images)
    else:
        error = (images - out.reconstruction).square().sum((1, 2, 3))
    reconstruction, kl_appearance, kl_occurrence = error.mean(), out.kl_appearance.mean(), out.kl_occurrence.mean()
    total = reconstruction + beta_app * kl_appearance + beta_occ * kl_occurrence
    kl_ground = getattr(out, "kl_ground", None)
    if kl_ground is not None:
        kl_ground = kl_ground.mean()
        total = total + kl_ground
    return Elbo(total, reconstruction, kl_appearance, kl_occurrence, kl_ground)
