"""What a model makes of images, and where the weighted loss looks."""

import numpy as np
import torch
from torch import nn

from accel.evaluation import psnr
from accel.figures.canvas import enlarge, mosaic
from accel.models.autoencoder import pixels
from accel.ops import gradient_energy_weights
from accel.training.held_out import evaluating, in_order


def reconstructions(model: nn.Module, images: np.ndarray):
    """A Figure with a column for each image: input, deterministic reconstruction and weight mask.

    images: uint8 (n, H, W, C), as many as there shall be columns. The mask is the mean over channels of the
    gradient-energy weights (paper, section 3.4), where 1 is what every pixel has in the unweighted loss; all
    columns share its scale. Raises ImportError if matplotlib is missing.
    """
    with evaluating(model) as device:
        (batch,) = in_order(images, len(images), device)
        original = pixels(batch, torch.float32)
        output = model.reconstruct(batch)
        quality = psnr(output, original).mean().item()
        restored = ((output + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        weights = gradient_energy_weights(original).mean(1).cpu().numpy()
    patch = images.shape[1] // weights.shape[1]
    masks = heat(weights / weights.max()).repeat(patch, axis=1).repeat(patch, axis=2)
    labels = ["input", f"reconstruction\nmean PSNR {quality:.1f} dB", f"weight mask\ndark 0, light {weights.max():.1f}"]
    return mosaic([[enlarge(image) for image in row] for row in (images, restored, masks)], labels)


def heat(values: np.ndarray) -> np.ndarray:
    """Numbers in [0, 1], of any shape, as colours from black over red to near white: uint8 (…, 3)."""
    red, green, blue = 3 * values, 3 * values - 1, 3 * values - 2
    return (np.stack([red, green, blue], axis=-1).clip(0, 1) * 255).astype(np.uint8)
