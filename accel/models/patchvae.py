"""PatchVAE (Gupta, Singh and Shrivastava, CVPR 2020): parts that occur in places and look like something."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from accel.ops import (
    Noise,
    PatchBottleneck,
    appearance_noise,
    occurrence_noise,
    patch_bottleneck,
    pooled_patch_bottleneck,
)
from accel.ops.backend import accumulation_dtype
from accel.ops.bottleneck import OCCURRENCES, default_prior, log_occurrence

from .autoencoder import Autoencoder, check_positive
from .release import read_release


@dataclass(frozen=True)
class PatchPosterior:
    """What PatchVAE says of B images: N parts of D numbers on a grid of h × w cells.

    Everything but the code is float32 under lower precision too (float64 in a float64 model).
    """

    occurrence_logits: Tensor  # (B, N, h, w), a, in the head's dtype (of a categorical one: the logit of p, float32)
    occurrence: Tensor  # (B, N, h, w), p = σ(a) in [0, 1]
    code: Tensor  # (B, N·D, h, w), what the decoder reads: the posterior's mean, or a sample of it
    appearance_mean: Tensor  # (B, N, D), m
    appearance_variance: Tensor  # (B, N, D), v > 0
    kl_appearance: Tensor  # (B,), nats
    kl_occurrence: Tensor  # (B,), nats


@dataclass(frozen=True)
class PatchVAEOutput(PatchPosterior):
    """The posterior, its code sampled if sampling was asked for, and what the decoder makes of that code."""

    reconstruction: Tensor  # (B, channels, H, W) in [−1, 1]


class PatchVAE(Autoencoder):
    """Encoder, three heads, the part bottleneck and the decoder (paper, sections 3.2 and 3.3).

    image_size: an integer or (H, W); images of any other size that `scale` divides are taken as well, since
    everything is convolutional, and `image_size` only fixes what `sample` draws. channels: of the images.
    num_parts N, part_dim D. encoder: "paper", "release" or "small" (scale 8), or "resnet18" (scale 32).
    head_kernel_size: k of the heads' k×k convolutions, odd.
    head: how the heads are evaluated; parameters and function are the same.
        "pooled" (default under the geometric rule): pools features, then projects one vector a part;
        "separate": one convolution each;
        "fused" (default under the arithmetic rule): one convolution for all three.
    variance: "geometric" or "arithmetic", how log-variances are pooled over cells.
    occurrence_prior: π in (0, 1), 1/N if not given (½ for a single part). straight_through: hard occurrence
    samples with the relaxed ones' gradient. occurrence: "bernoulli", or "categorical": one part a cell at most, π being
    1/(N + 1) if not given. appearance_prior_mean: c of the prior N(c, 1) of each number of an appearance; with c ≠ 0
    a part of no particular look is still seen by the decoder. detach_weights: no gradient through the pooling weights.
    backend: of accel.ops; it says how to compute rather than what, so it is not part of `config`.

    Raises ValueError for any other value.
    """

    has_parts = True
    has_variance = True

    def __init__(
        self,
        *,
        image_size: int | tuple[int, int] = 32,
        channels: int = 3,
        num_parts: int = 16,
        part_dim: int = 6,
        encoder: str = "paper",
        head: str | None = None,
        head_kernel_size: int = 3,
        variance: str = "geometric",
        occurrence_prior: float | None = None,
        appearance_prior_mean: float = 0.0,
        straight_through: bool = False,
        occurrence: str = "bernoulli",
        detach_weights: bool = True,
        backend: str | None = None,
    ):
        check_positive(num_parts=num_parts, part_dim=part_dim, head_kernel_size=head_kernel_size)
        if variance not in ("geometric", "arithmetic"):
            raise ValueError(f"variance must be 'geometric' or 'arithmetic', got {variance!r}")
        if head is None:
            head = "pooled" if variance == "geometric" else "fused"
        if head not in ("pooled", "separate", "fused"):
            raise ValueError(f"head must be 'pooled', 'separate' or 'fused', got {head!r}")
        if head == "pooled" and variance == "arithmetic":
            raise ValueError("head='pooled' needs variance='geometric', the arithmetic rule is not linear")
        if head_kernel_size % 2 == 0:
            raise ValueError(f"head_kernel_size must be odd, got {head_kernel_size}")
        if occurrence not in OCCURRENCES:
            raise ValueError(f"occurrence must be 'bernoulli' or 'categorical', got {occurrence!r}")
        if occurrence_prior is None:
            occurrence_prior = default_prior(num_parts, occurrence)
        most = 1 if occurrence == "bernoulli" else 1 / num_parts
        if not isinstance(occurrence_prior, float) or not 0 < occurrence_prior < most:
            limit = "1" if most == 1 else f"1/num_parts = {most:g} where occurrence is categorical"
            raise ValueError(f"occurrence_prior must be a number between 0 and {limit}, got {occurrence_prior!r}")
        if not isinstance(appearance_prior_mean, (int, float)) or not math.isfinite(appearance_prior_mean):
            raise ValueError(f"appearance_prior_mean must be a finite number, got {appearance_prior_mean!r}")
        super().__init__(image_size, channels, encoder, num_parts * part_dim)
        self.config = {
            "image_size": self.image_size,
            "channels": channels,
            "num_parts": num_parts,
            "part_dim": part_dim,
            "encoder": encoder,
            "head": head,
            "head_kernel_size": head_kernel_size,
            "variance": variance,
            "occurrence_prior": occurrence_prior,
            "appearance_prior_mean": appearance_prior_mean,
            "straight_through": straight_through,
            "occurrence": occurrence,
            "detach_weights": detach_weights,
        }
        self.num_parts, self.part_dim, self.head = num_parts, part_dim, head
        self.variance, self.occurrence_prior = variance, occurrence_prior
        self.appearance_prior_mean = appearance_prior_mean
        self.straight_through, self.detach_weights, self.backend = straight_through, detach_weights, backend
        self.kind = occurrence

        def convolution(outputs: int) -> nn.Conv2d:
            width = self.encoder.out_channels
            return nn.Conv2d(width, outputs, head_kernel_size, padding=head_kernel_size // 2)

        self.occurrence = convolution(num_parts)
        self.appearance_mean = convolution(num_parts * part_dim)
        self.appearance_log_variance = convolution(num_parts * part_dim)
        with torch.no_grad():
            # Every cell starts near the prior: at p = ½ its divergence would outweigh all else, and the first
            # thing learned would be to switch off every part.
            self.occurrence.weight.mul_(0.1)
            absent = 1 - occurrence_prior * (num_parts if occurrence == "categorical" else 1)
            self.occurrence.bias.fill_(math.log(occurrence_prior / absent))
            self.appearance_mean.bias.add_(appearance_prior_mean)

    def forward(
        self,
        images: Tensor,
        temperature: float | Tensor = 1.0,
        noise: Noise | None = None,
        sample: bool | None = None,
    ) -> PatchVAEOutput:
        """Images (B, channels, H, W), uint8 or float in [−1, 1] → posterior, code and reconstruction.

        The code is sampled where `noise` is given (or sample=True, which then needs it), else the mean.
        temperature: τ > 0 of the relaxed Bernoulli, a number or a 0-d tensor.
        """
        sample = noise is not None if sample is None else sample
        posterior = self._posterior(images, temperature, noise, sample)
        return PatchVAEOutput(**posterior, reconstruction=self.decode(posterior["code"]))

    def encode(self, images: Tensor) -> PatchPosterior:
        """The posterior of images (B, channels, H, W) and its mean code; nothing is drawn."""
        return PatchPosterior(**self._posterior(images, temperature=1.0, noise=None, sample=False))

    def decode(self, code: Tensor) -> Tensor:
        """A patch latent code (B, N·D, h, w) → images (B, channels, h · scale, w · scale) in [−1, 1]."""
        channels = self.num_parts * self.part_dim
        if code.ndim != 4 or code.shape[1] != channels:
            raise ValueError(f"code must be (B, {channels}, h, w), got {tuple(code.shape)}")
        return self.decoder(code)

    @torch.no_grad()
    def sample(self, count: int, seed: int = 0) -> Tensor:
        """`count` images from the prior: each cell holds each part with probability π, appearances N(c, 1).

        The same seed draws the same codes. Batch norm does as the module's mode says: after `eval()` images
        do not depend on each other; in training mode its running statistics move as in any forward pass.
        """
        check_positive(count=count)
        noise = Noise(seed=seed)
        height, width = self.grid
        weight = self.occurrence.weight
        uniform = occurrence_noise(noise, count, self.num_parts, height * width, device=weight.device)
        appearance = appearance_noise(noise, count, self.num_parts, self.part_dim, device=weight.device)
        appearance = appearance + self.appearance_prior_mean
        occurrence = occurs(torch.full_like(uniform, self.occurrence_prior), uniform, self.kind)
        code = appearance[..., None] * occurrence[:, :, None]
        return self.decode(code.reshape(count, -1, height, width).to(weight.dtype))

    @classmethod
    def from_release(cls, path: str | Path) -> Self:
        """The model in a checkpoint of the authors' code (arch 'patchy', encoder 'resnet', scale 8).

        Nothing in the file is executed. Raises FileNotFoundError, or ValueError for anything else than such a
        checkpoint.
        """
        path = Path(path)
        arguments, weights = read_release(path)
        return cls._restore(arguments, path, weights, path)

    def _posterior(self, images, temperature, noise, sample) -> dict[str, Tensor]:
        features = self.features(images)
        options = {
            "temperature": temperature,
            "noise": noise,
            "occurrence_prior": self.occurrence_prior,
            "appearance_prior_mean": self.appearance_prior_mean,
            "straight_through": self.straight_through,
            "occurrence": self.kind,
            "detach_weights": self.detach_weights,
            "sample": sample,
            "backend": self.backend,
        }
        if self.head == "pooled":
            logits = self.occurrence(features)
            weight, bias = _joined(self.appearance_mean, self.appearance_log_variance)
            pooled = pooled_patch_bottleneck(features, logits, weight, bias, **options)
        else:
            logits, mean, log_variance = self._maps(features)
            pooled = patch_bottleneck(logits, mean, log_variance, variance=self.variance, **options)
        return _fields(logits, pooled, self.kind)

    def _maps(self, features: Tensor) -> tuple[Tensor, ...]:
        heads = (self.occurrence, self.appearance_mean, self.appearance_log_variance)
        if self.head == "separate":
            return tuple(head(features) for head in heads)
        maps = functional.conv2d(features, *_joined(*heads), padding=self.occurrence.padding)
        return maps.split([head.out_channels for head in heads], dim=1)


def occurs(probability: Tensor, uniform: Tensor, occurrence: str) -> Tensor:
    """Draws, bool, of parts whose p and u in (0, 1) are (B, N, …); in a categorical cell only part 0's u counts."""
    if occurrence == "bernoulli":
        return uniform > 1 - probability  # the sampler's rule a + log u − log(1 − u) > 0
    # Each part's share of [0, 1) is as wide as its p; what is left over is no part's.
    chosen = (uniform[:, :1] >= probability.cumsum(1)).sum(1, keepdim=True)
    parts = torch.arange(probability.shape[1], device=probability.device)
    return chosen == parts.view(-1, *[1] * (probability.ndim - 2))


def _joined(*heads: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of the one convolution whose outputs are the heads' outputs, one after another."""
    return torch.cat([head.weight for head in heads]), torch.cat([head.bias for head in heads])


def _fields(logits: Tensor, pooled: PatchBottleneck, occurrence: str) -> dict[str, Tensor]:
    if occurrence == "categorical":
        # The logit of each part's p, so that p = σ(a) for every reader; p = 1 has none, and gets a large one.
        log_p = log_occurrence(logits.to(accumulation_dtype(logits)), occurrence)
        log_p = log_p.clamp(max=-torch.finfo(log_p.dtype).tiny)
        logits = log_p - torch.log(-torch.expm1(log_p))
    return {
        "occurrence_logits": logits,
        "occurrence": logits.to(accumulation_dtype(logits)).sigmoid(),
        "code": pooled.code,
        "appearance_mean": pooled.appearance_mean,
        "appearance_variance": pooled.appearance_variance,
        "kl_appearance": pooled.kl_appearance,
        "kl_occurrence": pooled.kl_occurrence,
    }
