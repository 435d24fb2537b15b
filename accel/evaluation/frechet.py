"""The Fréchet distance of two sets of images: Gaussians of features, and networks for the features."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from accel.evaluation.inception import Inception
from accel.models import Classifier


class Moments:
    """Mean and covariance of vectors in batches, in float64 on the vectors' device.

    Moments of a batch are merged with those of all earlier ones (Chan et al. 1983), which avoids cancellation; the
    covariance divides by n − 1.
    """

    def __init__(self):
        self.count = 0
        self.mean = self.scatter = 0.0  # (M,) and (M, M), Σ (x − mean)(x − mean)ᵀ

    def add(self, vectors: Tensor) -> None:
        """Adds vectors (B, M) of any floating dtype."""
        vectors = vectors.double()
        count, mean = len(vectors), vectors.mean(0)
        centred = vectors - mean
        apart, total = mean - self.mean, self.count + count
        self.scatter = self.scatter + centred.T @ centred + torch.outer(apart, apart) * (self.count * count / total)
        self.mean = self.mean + apart * (count / total)
        self.count = total

    @property
    def covariance(self) -> Tensor:
        """(M, M); ValueError for fewer than two vectors."""
        if self.count < 2:
            raise ValueError(f"a covariance needs at least two vectors, got {self.count}")
        return self.scatter / (self.count - 1)


def frechet_distance(one: Moments, other: Moments) -> float:
    """|μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2 (Σ₁ Σ₂)^½), the squared Wasserstein-2 distance of two Gaussians, not negative.

    The trace of the root is the sum of the roots of the eigenvalues of Σ₁^½ Σ₂ Σ₁^½, which has those of Σ₁ Σ₂ and is
    symmetric. Raises ValueError for fewer than two vectors, or vectors of different lengths.
    """
    if one.covariance.shape != other.covariance.shape:
        raise ValueError(f"features must have the same dimension, got {len(one.mean)} and {len(other.mean)}")
    values, vectors = torch.linalg.eigh(one.covariance)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    trace_of_root = torch.linalg.eigvalsh(root @ other.covariance @ root).clamp(min=0).sqrt().sum()
    traces = one.covariance.trace() + other.covariance.trace()
    return max(0.0, ((one.mean - other.mean).square().sum() + traces - 2 * trace_of_root).item())


@dataclass(frozen=True)
class Features:
    """A network that maps images to vectors, and the settings to report with a distance."""

    name: str  # name of the measure: fid only for Inception
    network: str  # description of the network
    resize: str  # description of the resizing
    range: str  # range of the pixels that the network expects
    extract: Callable[[Tensor], Tensor]  # float images (B, C, H, W) in [−1, 1] → (B, M)


def inception_features(path: Path, device: torch.device) -> Features:
    """The features of the Fréchet Inception distance, with weights from the state dict that pytorch-fid distributes.

    Raises FileNotFoundError, or ValueError for any other file, including a TorchScript archive, which would execute
    code when opened.
    """
    network = Inception.from_file(path).to(device).eval()

    def extract(images: Tensor) -> Tensor:
        images = images.expand(-1, 3, -1, -1)
        size = (Inception.IMAGE_SIZE, Inception.IMAGE_SIZE)
        return network(functional.interpolate(images, size=size, mode="bilinear", align_corners=False))

    return Features(
        "fid", f"Inception, {path.name}", "bilinear to 299×299 without antialiasing, as pytorch-fid", "[-1, 1]", extract
    )


def classifier_features(folder: Path, device: torch.device) -> Features:
    """The 512 penultimate features of a classifier that `transfer` trained; `folder` is that of its model."""
    network = Classifier.from_pretrained(folder, device).eval()
    words = f"classifier {'/'.join(folder.parts[-4:])}, 512 numbers before its classes"
    return Features("frechet_classifier", words, "none", "[-1, 1]", network.penultimate)


def encoder_features(model: nn.Module) -> Features:
    """A model's own features φ(x), averaged over cells; distances cannot be compared between models."""

    def extract(images: Tensor) -> Tensor:
        return model.features(images).mean((2, 3))

    return Features(
        "frechet_encoder", "the run's own encoder, features averaged over cells", "none", "[-1, 1]", extract
    )
