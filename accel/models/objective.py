"""The training loss: the negative evidence lower bound with its two β (paper, equations 9 and 11)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from accel.common.describing import ShowsShapes
from accel.ops import weighted_squared_error
from accel.ops.backend import accumulation_dtype
from accel.ops.occurrence import identity_information

from .autoencoder import refuse_far_outside, refuse_no_tensor, scaled_pixels
from .betavae import BetaVAEOutput
from .patchvae import PatchVAEOutput

PATCH = 8  # pixels per side of the patches of gradient-energy weights


@dataclass(frozen=True, repr=False)
class Elbo(ShowsShapes):
    """The loss and its terms as 0-d tensors: means over images, in nats per image. The terms do not include β.

    kl_ground: None for a model without a background model. identity: the information about which part occurs, which is
    included in kl_occurrence; None unless it has a weight of its own.
    """

    total: Tensor
    reconstruction: Tensor
    kl_appearance: Tensor
    kl_occurrence: Tensor
    kl_ground: Tensor | None = None
    identity: Tensor | None = None


def elbo(
    out: PatchVAEOutput | BetaVAEOutput,
    images: Tensor,
    beta_app: float | Tensor = 1.0,
    beta_occ: float | Tensor = 1.0,
    weighted: bool = True,
    beta_identity: float = 1.0,
    over_processes: Callable[[Tensor], Tensor] | None = None,
) -> Elbo:
    """The loss to minimise: the mean over images of R + β_app · KL_app + β_occ · KL_occ (+ KL_ground if present).

    out: a model's output for `images` (B, channels, H, W), uint8 or float in [−1, 1]. R = Σ ω (x − x̂)² over
    channels and pixels, ω the gradient-energy weights (paper, section 3.4), or 1 unless `weighted`. Sums are
    computed in float32 for any dtype of the reconstruction (float64 for float64).

    beta_identity: weight, relative to β_occ, of the information about which part occurs, from 0 to 1; for categorical
    occurrences only, which is not checked here. With 0, parts that are similar are told apart at no cost, but unequal
    use of parts in the batch still has one. reference/divergence.py has the equations.

    over_processes: if several processes have equal shares of a batch, a function that sums a tensor over them, without
    gradient. With it, their losses and gradients average to those of the whole batch, also if beta_identity is below 1.

    Raises ValueError for a β that is not finite, for different shapes, for images that are no tensor, integers other
    than uint8, or floats that are NaN or far outside of [−1, 1] (on a CPU, since a GPU would have to be waited for),
    for beta_identity and an output without parts, or for weighted=True and a height or width that 8 does not divide.
    """
    for name, beta in (("beta_app", beta_app), ("beta_occ", beta_occ), ("beta_identity", beta_identity)):
        # A GPU would have to be waited for, and in compiled code there is no number to look at.
        if type(beta) is Tensor and beta.device.type == "cpu" and not torch.compiler.is_compiling():
            beta = beta.item()
        if not isinstance(beta, Tensor) and not math.isfinite(beta):
            raise ValueError(f"elbo: {name} must be finite, got {beta}")
    refuse_no_tensor(images, "channels")
    if not images.is_cuda:
        refuse_far_outside(images)
    if out.reconstruction.shape != images.shape:
        shapes = f"{tuple(images.shape)}, the reconstruction {tuple(out.reconstruction.shape)}"
        raise ValueError(f"elbo: images are {shapes}")
    if beta_identity != 1 and not hasattr(out, "occurrence"):
        raise ValueError(f"elbo: beta_identity {beta_identity:g} needs a model with parts, got {type(out).__name__}")
    images = scaled_pixels(images, accumulation_dtype(out.reconstruction))
    if weighted and (images.shape[2] % PATCH or images.shape[3] % PATCH):
        size = "x".join(map(str, images.shape[2:]))
        raise ValueError(f"elbo: weighted=True needs a height and width that {PATCH} divides, got {size}")
    if weighted:
        error = weighted_squared_error(out.reconstruction, images, PATCH)
    else:
        error = (images - out.reconstruction).square().sum((1, 2, 3))
    reconstruction, kl_appearance, kl_occurrence = error.mean(), out.kl_appearance.mean(), out.kl_occurrence.mean()
    total = reconstruction + beta_app * kl_appearance + beta_occ * kl_occurrence
    kl_ground = getattr(out, "kl_ground", None)
    if kl_ground is not None:
        kl_ground = kl_ground.mean()
        total = total + kl_ground
    identity = None
    if beta_identity != 1:
        identity = identity_information(cast(PatchVAEOutput, out).occurrence, over_processes) / len(images)
        total = total - beta_occ * (1 - beta_identity) * identity
    return Elbo(total, reconstruction, kl_appearance, kl_occurrence, kl_ground, identity)


def identity_cross_entropy(occurrence_logits: Tensor, identities: Tensor) -> Tensor:
    """−Σ log(pᵢ / Σⱼ pⱼ) over cells whose part i is known, divided by the number of images: 0-d, in nats.

    occurrence_logits: (B, N, h, w), log p − log(1 − p), as in a posterior. identities: i in [0, N), or −1 if none is
    known, integers (B, h, w). Defined in reference/patterns.py. Raises ValueError for other shapes.
    """
    batch, parts, *grid = occurrence_logits.shape
    if tuple(identities.shape) != (batch, *grid):
        raise ValueError(f"identities must be {(batch, *grid)}, got {tuple(identities.shape)}")
    share = functional.logsigmoid(occurrence_logits).log_softmax(1)
    # A mask and a sum have a deterministic gradient on a GPU, unlike torch's negative log-likelihood of maps.
    chosen = torch.arange(parts, device=share.device)[:, None, None] == identities[:, None]
    return -torch.where(chosen, share, 0.0).sum() / batch
