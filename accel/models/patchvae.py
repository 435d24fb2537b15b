"""PatchVAE (Gupta, Singh and Shrivastava, CVPR 2020): a VAE whose code consists of parts and appearances."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from accel.common.bottleneck import declare, takes_bottleneck_options
from accel.common.describing import ShowsShapes, described
from accel.ops import Noise, appearance_noise, patch_bottleneck, pooled_patch_bottleneck
from accel.ops.backend import BACKENDS, accumulation_dtype
from accel.ops.gaussian import gaussian_divergence, sample_gaussian
from accel.ops.layers import compose, ground_pixels
from accel.ops.noise import ground_noise
from accel.ops.occurrence import DISTRIBUTIONS, Distribution
from accel.ops.placement import (
    map_of_places,
    place,
    place_divergence,
    places_of_cells,
    sample_place,
    split_places,
)

from .autoencoder import Autoencoder, check_positive, in_evaluation
from .decoder import Decoder, Templates
from .encoder import coarse_grid, coarse_vector, layout_of
from .release import read_release

DECODERS = ("pyramid", "templates")
TEMPLATE_REACH = 1.5  # side of a template, in cells: parts are about a cell wide, and may be rotated
GROUND_SEEN = -2.0  # initial logit of the templates' opacity over the background


@dataclass(frozen=True, repr=False, kw_only=True)
class PatchPosterior(ShowsShapes):
    """The posterior of B images: N parts with D appearance dimensions on a grid of h × w cells.

    All tensors except the code are float32, under lower precision too (float64 in a float64 model). The last three
    are None for models without places or a ground.
    """

    occurrence_logits: Tensor  # (B, N, h, w), log p − log(1 − p); equal to a for Bernoulli occurrences
    occurrence: Tensor  # (B, N, h, w), p in [0, 1]
    code: Tensor  # (B, N·D, h, w), the input of the decoder: the posterior's mean, or a sample
    appearance_mean: Tensor  # (B, N, D), m
    appearance_variance: Tensor  # (B, N, D), v > 0
    kl_appearance: Tensor  # (B,), nats
    kl_occurrence: Tensor  # (B,), nats, including the divergence of places within cells
    places: Tensor | None = None  # (B, N, h·k, w·k), s: a part's place within its cell; sums to 1 over a cell
    ground: Tensor | None = None  # (B, channels, points, points), colours of the background, before tanh
    kl_ground: Tensor | None = None  # (B,), nats


@dataclass(frozen=True, repr=False, kw_only=True)
class PatchVAEOutput(PatchPosterior):
    """The posterior, with a sampled code if sampling was requested, and the reconstruction from that code."""

    reconstruction: Tensor  # (B, channels, H, W) in [−1, 1]


class PatchVAE(Autoencoder):
    """Encoder, three heads, the part bottleneck and the decoder (paper, sections 3.2 and 3.3).

    image_size: an integer or (H, W). The model is convolutional, so it accepts images of any size that is divisible by
        its scale; image_size only determines the size of the images that `sample` generates.
    channels: number of channels of the images. num_parts: N. part_dim: D.
    encoder: "paper", "release" or "small" (cells of 8 pixels), "resnet18" (cells of 32 pixels) or "fine".
    places: k. A cell consists of k × k cells of the encoder, and an occurrence lies at one of them
        (reference/placement.py). By default 4 for the encoder "fine", whose cells thus also have 8 pixels, otherwise 1.
    decoder: "pyramid", as in the paper, or "templates", a sum of pictures, one per dimension of the code.
    ground: points per side of the background's grid of colours, 0 for no background model (reference/layers.py).
    head_kernel_size: k of the heads' k×k convolutions, odd.
    head: how the heads are evaluated, with the same parameters and the same result.
        "pooled" (default for the geometric rule): pools features, then projects one vector per part;
        "separate": one convolution for each head;
        "fused" (default for the arithmetic rule): one convolution for all three heads.
    backend: the backend of accel.ops. It does not change the result, so it is not part of `config`.
    options: options of the bottleneck, documented in accel.BottleneckOptions.

    Raises ValueError for a value out of range.
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
        places: int | None = None,
        decoder: str = "pyramid",
        ground: int = 0,
        backend: str | None = None,
        **options: Any,
    ):
        if places is None:
            places = layout_of(encoder).places
        check_positive(num_parts=num_parts, part_dim=part_dim, head_kernel_size=head_kernel_size, places=places)
        if decoder not in DECODERS:
            raise ValueError(f"decoder must be 'pyramid' or 'templates', got {decoder!r}")
        if type(ground) is not int or ground < 0 or ground == 1:
            raise ValueError(f"ground must be 0 or an integer of at least 2, got {ground!r}")
        bottleneck = declare("PatchVAE", num_parts, options)
        head = _choose_head(head, bottleneck.variance)
        if backend not in (None, *BACKENDS):
            raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
        if head_kernel_size % 2 == 0:
            raise ValueError(f"head_kernel_size must be odd, got {head_kernel_size}")
        layers = channels + 1 if ground else channels
        super().__init__(image_size, channels, encoder, places)
        if decoder == "pyramid":
            self.decoder = Decoder(num_parts * part_dim, layers, self.encoder.scale, layout_of(encoder).width)
        else:
            # As wide as `TEMPLATE_REACH` says, and an even number wider than the encoder's cell.
            margin = round((TEMPLATE_REACH * self.scale - self.encoder.scale) / 2)
            side = self.encoder.scale + 2 * margin
            self.decoder = Templates(num_parts * part_dim, layers, self.encoder.scale, side)
        self.num_parts, self.part_dim, self.head = num_parts, part_dim, head
        self.places, self.ground = places, ground
        self.bottleneck, self.backend = bottleneck, backend
        self.config = {
            "image_size": self.image_size,
            "channels": channels,
            "num_parts": num_parts,
            "part_dim": part_dim,
            "encoder": encoder,
            "head": head,
            "head_kernel_size": head_kernel_size,
            "places": places,
            "decoder": decoder,
            "ground": ground,
            **dataclasses.asdict(bottleneck),
        }

        def convolution(outputs: int) -> nn.Conv2d:
            width = self.encoder.out_channels
            return nn.Conv2d(width, outputs, head_kernel_size, padding=head_kernel_size // 2)

        self.occurrence_head = convolution(num_parts)
        self.appearance_mean_head = convolution(num_parts * part_dim)
        self.appearance_log_variance_head = convolution(num_parts * part_dim)
        if ground:
            height, width = self.image_size
            self.ground_grid = coarse_grid((height // self.encoder.scale, width // self.encoder.scale))
            inputs = self.encoder.out_channels * math.prod(self.ground_grid)
            self.ground_head = nn.Linear(inputs, 2 * channels * ground**2)
        with torch.no_grad():
            # Every cell starts near the prior: at p = ½ the divergence would dominate the loss, and training would
            # first switch off every part.
            self.occurrence_head.weight.mul_(0.1)
            _bias(self.occurrence_head).copy_(self._prior_logits().flatten() - math.log(places**2))
            _bias(self.appearance_mean_head).add_(bottleneck.appearance_prior_mean)
            if ground and isinstance(self.decoder, Templates):
                _bias(self.decoder.output)[-1] = GROUND_SEEN

    @property
    def distribution(self) -> Distribution:
        """The distribution of occurrences, from accel.ops.occurrence."""
        return DISTRIBUTIONS[self.bottleneck.occurrence]

    def forward(
        self,
        images: Tensor,
        temperature: float | Tensor = 1.0,
        noise: Noise | None = None,
        sample: bool | None = None,
    ) -> PatchVAEOutput:
        """Images (B, channels, H, W), uint8 or float in [−1, 1] → posterior, code and reconstruction.

        The code is sampled if `noise` is given, unless sample=False; otherwise it is the posterior's mean.
        temperature: τ > 0 of the relaxed occurrences, a number or a 0-d tensor. Raises ValueError for images of
        unsupported size or dtype, for a temperature that is not positive, and for sample=True without noise.
        """
        sample = noise is not None if sample is None else sample
        posterior = PatchPosterior(**self._posterior(images, temperature, noise, sample))
        reconstruction = self.decode(posterior.code, **self.setting(posterior))
        return PatchVAEOutput(**_fields(posterior), reconstruction=reconstruction)

    def encode(self, images: Tensor) -> PatchPosterior:
        """The posterior of images (B, channels, H, W) and its mean code. Raises ValueError as `forward`."""
        return PatchPosterior(**self._posterior(images, temperature=1.0, noise=None, sample=False))

    def decode(self, code: Tensor, places: Tensor | None = None, ground: Tensor | None = None) -> Tensor:
        """A patch latent code (B, N·D, h, w) → images (B, channels, h · scale, w · scale) in [−1, 1].

        places, ground: those of a posterior, for models that have them. By default the means of the prior: all places
        equally likely, and a grey background. Raises ValueError for a code of wrong shape.
        """
        channels = self.num_parts * self.part_dim
        if not isinstance(code, Tensor) or code.ndim != 4 or code.shape[1] != channels:
            raise ValueError(f"code must be a tensor (B, {channels}, h, w), got {described(code)}")
        batch, _, *grid = code.shape
        if self.places > 1:
            if places is None:
                finer = (side * self.places for side in grid)
                places = code.new_full((batch, self.num_parts, *finer), 1 / self.places**2)
            code = place(code, places)
        if not self.ground:
            return self.decoder(code)
        layers = self.decoder.unbounded(code)
        if ground is None:
            ground = layers.new_zeros(batch, layers.shape[1] - 1, self.ground, self.ground)
        return compose(layers, ground_pixels(ground.to(layers.dtype), *layers.shape[2:]))

    def setting(self, posterior: PatchPosterior) -> dict[str, Tensor]:
        """The arguments of `decode` in addition to the code, from a posterior: places (B, N, h·k, w·k) and ground
        (B, channels, points, points), each only if the model has it.
        """
        had = {"places": self.places > 1, "ground": self.ground > 0}
        return {name: getattr(posterior, name) for name, has in had.items() if has}

    @torch.no_grad()
    def sample(self, count: int, seed: int = 0) -> Tensor:
        """`count` images from the prior: each part occurs in each cell with probability π, appearances are N(c, 1).

        Returns (count, channels, H, W) in [−1, 1]. The same seed draws the same codes. Always computes in evaluation
        mode, so images do not depend on each other, and no statistic of batch norm changes. Raises ValueError unless
        count is a positive integer.
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
        code = (appearance[..., None] * occurrence[:, :, None]).reshape(count, -1, height, width)
        setting = {}
        if self.places > 1:
            even = torch.zeros(count, self.num_parts, height * width, self.places**2, device=weight.device)
            drawn = sample_place(even, 1.0, noise, straight_through=True)
            setting["places"] = map_of_places(drawn, self.places, self.grid)
        if self.ground:
            channels = self.encoder.conv1.in_channels
            numbers = ground_noise(noise, count, channels * self.ground**2, device=weight.device)
            setting["ground"] = numbers.unflatten(1, (channels, self.ground, self.ground))
        with in_evaluation(self):
            return self.decode(code.to(weight.dtype), **setting)

    @classmethod
    def from_release(cls, path: str | Path) -> Self:
        """The model in a checkpoint of the authors' code (arch 'patchy', encoder 'resnet', scale 8).

        No code in the file is executed. Raises FileNotFoundError, or ValueError if the file is not such a checkpoint.
        """
        path = Path(path)
        arguments, weights = read_release(path)
        return cls._restore(arguments, path, weights, path)

    def _posterior(
        self, images: Tensor, temperature: float | Tensor, noise: Noise | None, sample: bool
    ) -> dict[str, Tensor]:
        features = self.features(images)
        draw: dict[str, Any] = {"temperature": temperature, "noise": noise, "sample": sample, "backend": self.backend}
        draw |= dataclasses.asdict(self.bottleneck)
        noise = noise if sample else None
        ground, kl_ground = self._ground(features, noise) if self.ground else (None, None)
        heads, log_q = [self.appearance_mean_head, self.appearance_log_variance_head], None
        if self.places > 1:
            features, logits, log_q = self._split(features, self.occurrence_head(features))
        elif self.head == "pooled":
            logits = self.occurrence_head(features)
        else:
            logits, mean, log_variance = self._maps(features, self.occurrence_head, *heads)
        if self.head == "pooled":
            weight, bias = _joined(*heads)
            result = pooled_patch_bottleneck(features, logits, weight, bias, **draw)
        else:
            if log_q is not None:
                mean, log_variance = self._maps(features, *heads)
            result = patch_bottleneck(logits, mean, log_variance, **draw)
        normalised = self.distribution.normalise(logits.to(accumulation_dtype(logits)))
        log_odds = self.distribution.log_odds(normalised)
        posterior = {"occurrence_logits": log_odds, "occurrence": log_odds.sigmoid(), **_fields(result)}
        posterior |= {"ground": ground, "kl_ground": kl_ground}
        if log_q is not None:
            s = sample_place(log_q, temperature, noise, self.bottleneck.straight_through)
            posterior["places"] = map_of_places(s, self.places, (logits.shape[2], logits.shape[3]))
            divergence = place_divergence(posterior["occurrence"].flatten(2), log_q)
            posterior["kl_occurrence"] = posterior["kl_occurrence"] + divergence
        return posterior

    def _split(self, features: Tensor, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features and logits on the encoder's grid → both on the grid of cells, and log q of the places in cells."""
        height, width = (side // self.places for side in logits.shape[2:])
        cells = places_of_cells(logits.to(accumulation_dtype(logits)), self.places)
        logits, log_q = split_places(cells)
        return functional.avg_pool2d(features, self.places), logits.unflatten(2, (height, width)), log_q

    def _ground(self, features: Tensor, noise: Noise | None) -> tuple[Tensor, Tensor]:
        """The background (B, channels, points, points), sampled if there is noise, and its divergence (B,)."""
        numbers = self.ground_head(coarse_vector(features, self.ground_grid))
        mean, log_variance = numbers.to(accumulation_dtype(numbers)).chunk(2, 1)
        ground = mean
        if noise is not None:
            epsilon = ground_noise(noise, *mean.shape, device=mean.device, dtype=mean.dtype)
            ground = sample_gaussian(mean, log_variance, epsilon)
        divergence = gaussian_divergence(mean, log_variance).sum(1)
        return ground.unflatten(1, (-1, self.ground, self.ground)), divergence

    def _prior_logits(self) -> Tensor:
        """(1, N, 1) float64: the logits at which each part has the prior's probability."""
        prior = self.bottleneck.occurrence_prior
        assert prior is not None  # `declare` has filled it in
        return self.distribution.logits(torch.full((1, self.num_parts, 1), prior, dtype=torch.float64, device="cpu"))

    def _maps(self, features: Tensor, *heads: nn.Conv2d) -> tuple[Tensor, ...]:
        if self.head == "separate":
            return tuple(head(features) for head in heads)
        maps = functional.conv2d(features, *_joined(*heads), padding=heads[0].padding)
        return maps.split([head.out_channels for head in heads], dim=1)


def _choose_head(head: str | None, variance: str) -> str:
    """The requested head, or the default for the variance rule."""
    if head is None:
        return "pooled" if variance == "geometric" else "fused"
    if head not in ("pooled", "separate", "fused"):
        raise ValueError(f"head must be 'pooled', 'separate' or 'fused', got {head!r}")
    if head == "pooled" and variance == "arithmetic":
        raise ValueError("head='pooled' needs variance='geometric', the arithmetic rule is not linear")
    return head


def _bias(head: nn.Conv2d | nn.ConvTranspose2d) -> Tensor:
    assert head.bias is not None  # every head is made with one
    return head.bias


def _fields(result: Any) -> dict[str, Any]:
    """{name: value} of the fields of a dataclass, without copies."""
    return {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}


def _joined(*heads: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of the one convolution whose outputs are the heads' outputs, one after another."""
    return torch.cat([head.weight for head in heads]), torch.cat([_bias(head) for head in heads])
