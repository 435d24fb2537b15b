"""Base classes of all models: the encoder, the grid, and checks of the input."""

import contextlib
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from accel.common.describing import described
from accel.ops import Noise, appearance_noise

from .decoder import Decoder, ImageDecoder
from .encoder import Encoder, coarse_grid, coarse_vector, layout_of
from .pretrained import Pretrained

FAR_OUTSIDE = 4.0  # of [−1, 1]; images normalised by ImageNet's statistics reach 2.7


def scaled_pixels(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Images in [−1, 1] as `dtype`: uint8 values x become x / 127.5 − 1, floating-point values are kept.

    Raises ValueError for any other dtype.
    """
    if images.dtype == torch.uint8:
        return images.to(dtype) / 127.5 - 1
    if not images.is_floating_point():
        raise ValueError(f"images must be uint8, or floating point in [-1, 1], got {images.dtype}")
    return images.to(dtype)


def refuse_no_tensor(images: object, channels: int | str) -> None:
    """Raises ValueError unless images are a tensor, with advice for arrays."""
    if not isinstance(images, Tensor):
        hint = "; of an array (n, H, W, C), torch.from_numpy(images).movedim(-1, 1) is one"
        hint = hint if hasattr(images, "shape") else ""
        raise ValueError(f"images must be a tensor (B, {channels}, H, W), got {type(images).__name__}{hint}")


@contextlib.contextmanager
def in_evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, in which batch norm uses its statistics without updating them; restores each module's mode."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def is_captured(tensor: Tensor) -> bool:
    """Whether work on a tensor is now recorded in a CUDA graph, so that no value can be read."""
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()


def refuse_far_outside(images: Tensor) -> None:
    """Raises ValueError for floating-point images far outside of [−1, 1], where values can be read."""
    if torch.compiler.is_compiling() or is_captured(images) or not images.is_floating_point() or not images.numel():
        return
    try:
        far_outside = not images.detach().abs().amax() <= FAR_OUTSIDE
    except RuntimeError as error:
        if "vmap" in str(error):  # under torch.func.vmap no value can be read
            return
        raise
    if far_outside:
        low, high = images.min().item(), images.max().item()
        raise ValueError(
            f"images must be uint8, or floating point in [-1, 1], got floats from {low:g} to {high:g}; bytes x as "
            "floats become x / 127.5 - 1"
        )


def check_positive(**arguments: object) -> None:
    """Raises ValueError unless every argument is an integer of at least 1."""
    for name, value in arguments.items():
        if type(value) is not int or value < 1:
            raise ValueError(f"{name} must be a positive integer, got {value!r}")


class Backbone(Pretrained):
    """An encoder φ for images of one size.

    `image_size`: an integer, or (H, W), each divisible by `scale`. `grid` (h, w) is image_size / scale.
    `places`: k, if a cell of `grid` consists of k × k cells of the encoder; `scale` is k times the encoder's scale.

    Attributes state what a subclass supports:
        has_decoder: `encode` returns a code, and `decode`, `reconstruct` and `sample` return images.
        has_variance: `encode` returns a variance as well as a mean.
        has_parts: `encode` returns a PatchPosterior of num_parts parts with part_dim dimensions.
    """

    has_decoder = False
    has_variance = False
    has_parts = False

    def __init__(self, image_size: int | tuple[int, int], channels: int, encoder: str, places: int = 1):
        super().__init__()
        sizes = tuple(image_size) if isinstance(image_size, (tuple, list)) else (image_size, image_size)
        if len(sizes) != 2:
            raise ValueError(f"image_size must be an integer or (height, width), got {image_size!r}")
        for size in sizes:
            check_positive(image_size=size)
        check_positive(channels=channels)
        self.image_size = sizes
        self.encoder = Encoder(encoder, channels)
        self.scale = self.encoder.scale * places
        if sizes[0] % self.scale or sizes[1] % self.scale:
            raise ValueError(f"image_size {image_size!r} is not divisible by {self.scale}, the scale of {encoder!r}")
        self.grid = (sizes[0] // self.scale, sizes[1] // self.scale)

    def features(self, images: Tensor) -> Tensor:
        """φ(x): images (B, channels, H, W), uint8 or float in [−1, 1] → (B, C, H/s, W/s), s the encoder's scale.

        Raises ValueError for a wrong rank, number of channels or dtype, a size that scale does not divide, or floats
        far outside of [−1, 1]. The last check is left out in training on a GPU, where it would stall the GPU, and
        during the capture of a CUDA graph, which it would break.
        """
        stem = self.encoder.conv1.weight
        refuse_no_tensor(images, stem.shape[1])
        if images.ndim != 4 or images.shape[1] != stem.shape[1]:
            raise ValueError(f"images must be (B, {stem.shape[1]}, H, W), got {tuple(images.shape)}")
        height, width = images.shape[2:]
        if min(height, width) < self.scale or height % self.scale or width % self.scale:
            raise ValueError(f"image height and width must be multiples of {self.scale}, got {height} and {width}")
        if not (images.is_cuda and self.training):
            refuse_far_outside(images)
        return self.encoder(scaled_pixels(images, stem.dtype))


class Autoencoder(Backbone):
    """An encoder φ and a decoder G around a bottleneck; a subclass adds `decoder`, `encode`, `decode` and `sample`."""

    has_decoder = True
    decoder: ImageDecoder

    def encode(self, images: Tensor) -> Any:
        """The posterior of images (B, channels, H, W), which includes its `code`, without sampling."""
        raise NotImplementedError

    def decode(self, code: Tensor) -> Tensor:
        """A code → images (B, channels, H, W) in [−1, 1]."""
        raise NotImplementedError

    def reconstruct(self, images: Tensor) -> Tensor:
        """The reconstruction x̂ from the posterior's mean code, (B, channels, H, W) in [−1, 1], without sampling.

        images: (B, channels, H, W), uint8 or float in [−1, 1]. Always computes in evaluation mode, so images do not
        depend on each other, and no statistic of batch norm changes. Raises ValueError as `features` does.
        """
        with in_evaluation(self):
            posterior = self.encode(images)
            return self.decode(posterior.code, **self.setting(posterior))

    def setting(self, posterior: Any) -> dict[str, Tensor]:
        """{argument: tensor (B, …)} for `decode` in addition to the code, from a posterior; empty for most models."""
        return {}


class VectorAutoencoder(Autoencoder):
    """An autoencoder whose code is one vector of latent_dim dimensions per image.

    Features are averaged to at most 4 × 4 cells for the `heads` of a subclass, linear layers. For decoding, a linear
    layer gives latent_dim channels on the same cells, which are repeated to fill the grid; the decoder is that of a
    PatchVAE with N·D = latent_dim. Accepts images of image_size only.
    """

    heads: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        *,
        image_size: int | tuple[int, int] = 32,
        channels: int = 3,
        latent_dim: int = 96,
        encoder: str = "paper",
    ):
        check_positive(latent_dim=latent_dim)
        super().__init__(image_size, channels, encoder)
        self.decoder = Decoder(latent_dim, channels, self.encoder.scale, layout_of(encoder).width)
        self.config = {
            "image_size": self.image_size,
            "channels": channels,
            "latent_dim": latent_dim,
            "encoder": encoder,
        }
        self.latent_dim, self.coarse_grid = latent_dim, coarse_grid(self.grid)
        cells = self.coarse_grid[0] * self.coarse_grid[1]
        self.expand = nn.Linear(latent_dim, latent_dim * cells)
        for head in self.heads:
            self.add_module(head, nn.Linear(self.encoder.out_channels * cells, latent_dim))

    def pool(self, images: Tensor) -> Tensor:
        """Images (B, channels, *image_size) → features on `coarse_grid`, flattened (B, C · cells).

        Raises ValueError for images of another size, or as `features` does.
        """
        if isinstance(images, Tensor) and tuple(images.shape[-2:]) != self.image_size:
            raise ValueError(f"images must be (B, C, H, W) with (H, W) = {self.image_size}, got {tuple(images.shape)}")
        return coarse_vector(self.features(images))

    def decode(self, code: Tensor) -> Tensor:
        """Vectors (B, latent_dim) → images (B, channels, H, W) in [−1, 1]. Raises ValueError for another shape."""
        if not isinstance(code, Tensor) or code.ndim != 2 or code.shape[1] != self.latent_dim:
            raise ValueError(f"code must be a tensor (B, {self.latent_dim}), got {described(code)}")
        cells = self.expand(code).unflatten(1, (self.latent_dim, *self.coarse_grid))
        return self.decoder(functional.interpolate(cells, size=self.grid, mode="nearest"))

    @torch.no_grad()
    def sample(self, count: int, seed: int = 0) -> Tensor:
        """Images (count, channels, H, W) in [−1, 1] of z ~ N(0, 1); the same seed draws the same z.

        Always computes in evaluation mode. Raises ValueError unless count is a positive integer.
        """
        check_positive(count=count)
        weight = self.expand.weight
        code = appearance_noise(Noise(seed=seed), count, 1, self.latent_dim, device=weight.device)
        with in_evaluation(self):
            return self.decode(code.flatten(1).to(weight.dtype))
