"""Reconstructions, weights of the reconstruction loss, and samples."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from accel.evaluation import psnr
from accel.figures.canvas import enlarge, heat, mosaic
from accel.models.autoencoder import scaled_pixels
from accel.ops import Noise, appearance_noise, gradient_energy_weights
from accel.training.held_out import evaluating, in_order

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def as_images(output: Tensor) -> np.ndarray:
    """A decoder's output (B, C, H, W) in [−1, 1] → uint8 (B, H, W, C)."""
    return ((output.float() + 1) * 127.5).clamp(0, 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def reconstructions(model: nn.Module, images: np.ndarray) -> "Figure":
    """A Figure with a column for each image: input, deterministic reconstruction and their difference.

    images: uint8 (n, H, W, C), one per column. The difference is the mean over channels, with the same scale in all
    columns. Raises ImportError if matplotlib is missing.
    """
    with evaluating(model) as device:
        (batch,) = in_order(images, len(images), device)
        original = scaled_pixels(batch, torch.float32)
        output = model.reconstruct(batch)
        quality = psnr(output, original).mean().item()
        difference = (output - original).abs().mean(1).cpu().numpy() / 2
    largest = max(difference.max(), 1e-6)
    labels = [
        "input",
        f"reconstruction\nmean PSNR {quality:.1f} dB",
        f"difference\nwhite: {largest:.2f} of range",
    ]
    rows = [images, as_images(output), heat(difference / largest)]
    return mosaic(
        [[enlarge(image) for image in row] for row in rows],
        labels,
        title="Reconstructions",
        text="Held-out images, their reconstructions from the mean of the code, and the difference between the two.",
    )


def weight_masks(images: np.ndarray) -> "Figure":
    """A Figure with a column for each image: the image, and the weights of its pixels in the weighted loss.

    images: uint8 (n, H, W, C). It shows the mean over channels of the gradient-energy weights (paper, section 3.4),
    which would be 1 in the unweighted loss, with the same scale in all columns. It does not depend on a model.
    Raises ImportError if matplotlib is missing.
    """
    (batch,) = in_order(images, len(images), torch.device("cpu"))
    weights = gradient_energy_weights(scaled_pixels(batch, torch.float32)).mean(1).numpy()
    patch = images.shape[1] // weights.shape[1]
    weights = weights.repeat(patch, axis=1).repeat(patch, axis=2)
    root = np.sqrt(weights / weights.max())
    weighted = (images * (0.3 + 0.7 * root[..., None])).astype(np.uint8)
    rows = [images, heat(root), weighted]
    return mosaic(
        [[enlarge(image) for image in row] for row in rows],
        ["image", f"weight\nblack 0, white {weights.max():.1f}", "image with its weights\nas brightness"],
        title="Weights of the reconstruction loss",
        text="How strongly each patch of 8 × 8 pixels is weighted in the loss, in proportion to its gradient energy: "
        "textured foreground more than smooth background. Without weighting, every pixel has weight 1. Colour and "
        "brightness follow the square root of the weight, so that one large weight does not hide the others.",
    )


@torch.no_grad()
def aggregated_samples(model: nn.Module, images: Tensor, seed: int = 0) -> Tensor:
    """Images (B, C, H, W) from samples of the aggregated posterior, the mean of the posteriors of all images.

    Takes one sample for each of uint8 `images` (B, C, H, W), a random subset of a data set. Occurrences are discrete,
    not relaxed. For encoders without a variance, like Bigan's, the code itself is decoded.
    """
    posterior, noise, count = model.encode(images), Noise(seed), len(images)
    if model.has_parts:
        mean, variance, p = posterior.appearance_mean, posterior.appearance_variance, posterior.occurrence
        epsilon = appearance_noise(noise, count, *mean.shape[1:], device=images.device)
        occurrence = model.distribution
        normalised = occurrence.normalise(occurrence.logits(p.flatten(2)))
        present = occurrence.decide(occurrence.argument(normalised, noise))
        code = code_of(mean + variance.sqrt() * epsilon, present.view_as(p))
        return model.decode(code.to(posterior.code.dtype), **model.setting(posterior))
    if not model.has_variance:
        return model.decode(posterior.code)
    epsilon = appearance_noise(noise, count, 1, posterior.mean.shape[1], device=images.device).flatten(1)
    return model.decode((posterior.mean + posterior.variance.sqrt() * epsilon).to(posterior.code.dtype))


def code_of(appearance: Tensor, occurrence: Tensor) -> Tensor:
    """The patch latent code of appearances (B, N, D) at occurrences (B, N, h, w): (B, N·D, h, w)."""
    return (appearance[..., None, None] * occurrence[:, :, None]).flatten(1, 2)


def samples(model: nn.Module, images: np.ndarray, *, seed: int = 0, rows: int = 3) -> "Figure":
    """A Figure of samples from the prior, and from the aggregated posterior of uint8 images (n, H, W, C).

    It shows n samples of each kind, in `rows` rows. In samples from the prior of a PatchVAE, each part occurs in each
    cell with the prior's probability. Raises ImportError if matplotlib is missing.
    """
    with evaluating(model) as device:
        (batch,) = in_order(images, len(images), device)
        drawn = {
            "prior": model.sample(len(images), seed=seed),
            "aggregated\nposterior": aggregated_samples(model, batch, seed),
        }
    tiles, labels = [], []
    for name, kind in drawn.items():
        tiles += [[enlarge(image) for image in row] for row in np.array_split(as_images(kind), rows)]
        labels += [name] + [""] * (rows - 1)
    return mosaic(
        tiles,
        labels,
        title="Samples",
        text="Images decoded from codes that are sampled from the prior, and from the posteriors of random images."
        + (
            " Under the prior, parts occur at random places; under the posteriors, as they do in images."
            if model.has_parts
            else ""
        ),
    )
