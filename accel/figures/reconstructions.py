"""What a model makes of images, and where the weighted loss looks."""

import numpy as np
import torch
from torch import nn

from accel.evaluation import psnr
from accel.figures.canvas import image_grid, label_row, show
from accel.models.autoencoder import pixels
from accel.ops import gradient_energy_weights
from accel.training.held_out import evaluating, in_order


def reconstructions(model: nn.Module, images: np.ndarray):
    """A Figure with a column for each image: input, deterministic reconstruction and weight mask.

    images: uint8 (n, H, W, C), as many as there shall be columns. The mask is the mean over channels of the
    gradient-energy weights (paper, section 3.4), where 1 is what every pixel has in the unweighted loss.
    """
    figure, axes = image_grid(3, len(images), left=1.15, right=0.55)
    with evaluating(model) as device:
        (batch,) = in_order(images, len(images), device)
        original = pixels(batch, torch.float32)
        output = model.reconstruct(batch)
        quality = psnr(output, original).tolist()
        restored = ((output + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        weights = gradient_energy_weights(original).mean(1).cpu().numpy()
    height, width = images.shape[1:3]
    for column, (image, result, weight) in enumerate(zip(images, restored, weights, strict=True)):
        show(axes[0, column], image)
        show(axes[1, column], result)
        show(
            axes[2, column],
            weight,
            cmap="magma",
            vmin=0,
            vmax=weights.max(),
            extent=(0, width, height, 0),
        )
    mean = f"mean PSNR\n{np.mean(quality):.1f} dB"
    for axis, text in zip(axes[:, 0], ("input", f"reconstruction\n{mean}", "weight mask"), strict=True):
        label_row(axis, text)
    box = axes[2, -1].get_position()
    bar = figure.colorbar(axes[2, -1].images[0], cax=figure.add_axes((box.x1 + 0.01, box.y0, 0.01, box.height)))
    bar.ax.tick_params(labelsize=6)
    bar.outline.set_visible(False)
    return figure
