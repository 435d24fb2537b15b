"""PatchVAE (Gupta, Singh and Shrivastava, CVPR 2020): parts that occur in places and look like something."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from accel.common.bottleneck import declare, takes_bottleneck_options
from accel.common.describing import ShowsShapes
from accel.ops import Noise, appearance_noise, patch_bottleneck, pooled_patch_bottleneck
from accel.ops.backend import BACKENDS, accumulation_dtype
from accel.ops.occurrence import DISTRIBUTIONS, Distribution

from .autoencoder import Autoencoder, check_positive, in_evaluation
from .release import read_release


@dataclass(frozen=True, repr=False)
class PatchPosterior(ShowsShapes):
    """What PatchVAE says of B images: N parts of D numbers on a grid of h × w cells.

    Everything but the code is float32 under lower precision too (float64 in a float64 model).
    """

    occurrence_logits: Tensor  # (B, N, h, w), log p − log(1 − p): a itself where parts occur each by itself
    occurrence: Tensor  # (B, N, h, w), p in [0, 1]
    code: Tensor  # (B, N·D, h, w), what the decoder reads: the posterior's mean, or a sample of it
    appearance_mean: Tensor  # (B, N, D), m
    appearance_variance: Tensor  # (B, N, D), v > 0
    kl_appearance: Tensor  # (B,), nats
    kl_occurrence: Tensor  # (B,), nats


@dataclass(frozen=True, repr=False)
class PatchVAEOutput(PatchPosterior):
    """The posterior, its code sampled if sampling was asked for, and what the decoder makes of that code."""

    reconstruction: Tensor  # (B, channels, H, W) in [−1, 1]


class PatchVAE(Autoencoder):
    """Encoder, three heads, the part bottleneck and the decoder (paper, sections 3.2 and 3.3).

    image_size: an integer or (H, W); images of any other size that the encoder's scale divides are taken as well,
    since everything is convolutional, and image_size only fixes what `sample` draws. channels: of the images.
    num_parts N, part_dim D. encoder: "paper", "release" or "small" (scale 8), or "resnet18" (scale 32).
    head_kernel_size: k of the heads' k×k convolutions, odd.
    head: how the heads are evaluated; parameters and function are the same.
        "pooled" (default under the geometric rule): pools features, then projects one vector a part;
        "separate": one convolution each;
        "fused" (default under the arithmetic rule): one convolution for all three.
    backend: of accel.ops; it says how to compute rather than what, so it is not part of `config`.
    options: of the bottleneck, which accel.BottleneckOptions explains.

    Raises ValueError for any other value.
    """

    has_parts = True
    former_names: ClassVar = {
        "occurrence": "occurrence_head",
        "appearance_mean": "appearance_mean_head",
        "appearance_log_variance": "appearance_log_variance_head",
    }
    has_variance = True

    @takes_bottleneck_options
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
        backend: str | None = None,
        **options: Any,
    ):
        check_positive(num_parts=num_parts, part_dim=part_dim, head_kernel_size=head_kernel_size)
        bottleneck = declare("PatchVAE", num_parts, options)
        head = _choose_head(head, bottleneck.variance)
        if backend not in (None, *BACKENDS):
            raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
        if head_kernel_size % 2 == 0:
            raise ValueError(f"head_kernel_size must be odd, got {head_kernel_size}")
        super().__init__(image_size, channels, encoder, num_parts * part_dim)
        self.num_parts, self.part_dim, self.head = num_parts, part_dim, head
        self.bottleneck, self.backend = bottleneck, backend
        self.config = {
            "image_size": self.image_size,
            "channels": channels,
            "num_parts": num_parts,
            "part_dim": part_dim,
            "encoder": encoder,
            "head": head,
            "head_kernel_size": head_kernel_size,
            **dataclasses.asdict(bottleneck),
        }

        def convolution(outputs: int) -> nn.Conv2d:
            width = self.encoder.out_channels
            return nn.Conv2d(width, outputs, head_kernel_size, padding=head_kernel_size // 2)

        self.occurrence_head = convolution(num_parts)
        self.appearance_mean_head = convolution(num_parts * part_dim)
        self.appearance_log_variance_head = convolution(num_parts * part_dim)
        with torch.no_grad():
            # Every cell starts near the prior: at p = ½ its divergence would outweigh all else, and the first
            # thing learned would be to switch off every part.
            self.occurrence_head.weight.mul_(0.1)
            _bias(self.occurrence_head).copy_(self._prior_logits().flatten())
            _bias(self.appearance_mean_head).add_(bottleneck.appearance_prior_mean)

    @property
    def distribution(self) -> Distribution:
        """The distribution of occurrences: of accel.ops.occurrence."""
        return DISTRIBUTIONS[self.bottleneck.occurrence]

    def forward(
        self,
        images: Tensor,
        temperature: float | Tensor = 1.0,
        noise: Noise | None = None,
        sample: bool | None = None,
    ) -> PatchVAEOutput:
        """Images (B, channels, H, W), uint8 or float in [−1, 1] → posterior, code and reconstruction.

        The code is sampled where `noise` is given (or sample=True, which then needs it), else the mean.
        temperature: τ > 0 of the relaxed occurrences, a number or a 0-d tensor. Raises ValueError for images of a size
        or kind that is not taken, for a temperature that is not positive, and for sample=True without noise.
        """
        sample = noise is not None if sample is None else sample
        posterior = self._posterior(images, temperature, noise, sample)
        return PatchVAEOutput(**posterior, reconstruction=self.decode(posterior["code"]))

    def encode(self, images: Tensor) -> PatchPosterior:
        """The posterior of images (B, channels, H, W) and its mean code; nothing is drawn. Raises as `forward`."""
        return PatchPosterior(**self._posterior(images, temperature=1.0, noise=None, sample=False))

    def decode(self, code: Tensor) -> Tensor:
        """A patch latent code (B, N·D, h, w) → images (B, channels, h · scale, w · scale) in [−1, 1].

        Raises ValueError for a code of another shape.
        """
        channels = self.num_parts * self.part_dim
        if code.ndim != 4 or code.shape[1] != channels:
            raise ValueError(f"code must be (B, {channels}, h, w), got {tuple(code.shape)}")
        return self.decoder(code)

    @torch.no_grad()
    def sample(self, count: int, seed: int = 0) -> Tensor:
        """`count` images from the prior: each cell holds each part with probability π, appearances N(c, 1).

        Returns (count, channels, H, W) in [−1, 1]. The same seed draws the same codes. In evaluation mode whatever the
        module's: images do not depend on each other, and no statistic moves. Raises ValueError unless count is a
        positive integer.
        """
        check_positive(count=count)
        noise = Noise(seed=seed)
        height, width = self.grid
        weight, prior = self.occurrence_head.weight, self.bottleneck
        appearance = appearance_noise(noise, count, self.num_parts, self.part_dim, device=weight.device)
        appearance = appearance + prior.appearance_prior_mean
        logits = self._prior_logits().to(weight.device, accumulation_dtype(weight))
        logits = logits.expand(count, -1, height * width)
        normalised = self.distribution.normalise(logits)
        occurrence = self.distribution.decide(self.distribution.argument(normalised, noise))
        code = appearance[..., None] * occurrence[:, :, None]
        with in_evaluation(self):
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

    def _posterior(
        self, images: Tensor, temperature: float | Tensor, noise: Noise | None, sample: bool
    ) -> dict[str, Tensor]:
        features = self.features(images)
        draw: dict[str, Any] = {"temperature": temperature, "noise": noise, "sample": sample, "backend": self.backend}
        options = dataclasses.asdict(self.bottleneck)
        if self.head == "pooled":
            logits = self.occurrence_head(features)
            weight, bias = _joined(self.appearance_mean_head, self.appearance_log_variance_head)
            result = pooled_patch_bottleneck(features, logits, weight, bias, **draw, **options)
        else:
            logits, mean, log_variance = self._maps(features)
            result = patch_bottleneck(logits, mean, log_variance, **draw, **options)
        normalised = self.distribution.normalise(logits.to(accumulation_dtype(logits)))
        log_odds = self.distribution.log_odds(normalised)
        fields = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
        return {"occurrence_logits": log_odds, "occurrence": log_odds.sigmoid(), **fields}

    def _prior_logits(self) -> Tensor:
        """(1, N, 1) float64: the logits at which each part's probability is the prior's."""
        prior = self.bottleneck.occurrence_prior
        assert prior is not None  # `declare` has filled it in
        return self.distribution.logits(torch.full((1, self.num_parts, 1), prior, dtype=torch.float64, device="cpu"))

    def _maps(self, features: Tensor) -> tuple[Tensor, ...]:
        heads = (self.occurrence_head, self.appearance_mean_head, self.appearance_log_variance_head)
        if self.head == "separate":
            return tuple(head(features) for head in heads)
        maps = functional.conv2d(features, *_joined(*heads), padding=self.occurrence_head.padding)
        return maps.split([head.out_channels for head in heads], dim=1)


def _choose_head(head: str | None, variance: str) -> str:
    """The head that was asked for, or the one that suits the variance rule."""
    if head is None:
        return "pooled" if variance == "geometric" else "fused"
    if head not in ("pooled", "separate", "fused"):
        raise ValueError(f"head must be 'pooled', 'separate' or 'fused', got {head!r}")
    if head == "pooled" and variance == "arithmetic":
        raise ValueError("head='pooled' needs variance='geometric', the arithmetic rule is not linear")
    return head


def _bias(head: nn.Conv2d) -> Tensor:
    assert head.bias is not None  # every head is made with one
    return head.bias


def _joined(*heads: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of the one convolution whose outputs are the heads' outputs, one after another."""
    return torch.cat([head.weight for head in heads]), torch.cat([_bias(head) for head in heads])
