"""How a model does on images that it is not trained on, measured after each epoch."""

import contextlib
import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from accel.data import ImageSet
from accel.models.autoencoder import in_evaluation, scaled_pixels
from accel.ops import Noise
from accel.training.config import TrainingConfig
from accel.training.step import LossLedger
from accel.training.systems import System

SATURATED = 0.9  # a part that occurs in a larger share of all cells says next to nothing by occurring
HELD_OUT_PIXELS = 2**20  # a batch, however few a training step takes: small images would leave a GPU idle


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[torch.device]:
    """Evaluation mode without gradients, and back to the modes before; gives the model's device."""
    with in_evaluation(model), torch.no_grad():
        yield next(model.parameters()).device


def in_order(images: np.ndarray, batch_size: int, device: torch.device) -> Iterator[Tensor]:
    """uint8 (n, H, W, C) → batches (B, C, H, W) on the device, channels last, the last one as small as it comes."""
    for start in range(0, len(images), batch_size):
        yield torch.tensor(images[start : start + batch_size], device=device).permute(0, 3, 1, 2)


def psnr(reconstruction: Tensor, images: Tensor) -> Tensor:
    """Peak signal-to-noise ratio, 10 log₁₀(1 / MSE) in decibels on pixels brought to [0, 1].

    Both (B, C, H, W) in [−1, 1] → (B,). Infinite where they are equal.
    """
    return -10.0 * (((reconstruction - images) / 2.0) ** 2).mean((1, 2, 3)).log10()


def measure_held_out(system: System, held_out: ImageSet, number: int, config: TrainingConfig) -> dict:
    """The losses at step `number` with the same draws in every epoch, and the quality of reconstructions.

    Terms of the loss are estimated as in training, with one draw an image; `psnr`, for models that reconstruct,
    is of the reconstruction from the posterior's mean, which is what `reconstruct` gives. `active_parts`, for
    PatchVAE: how many parts occur with a probability above one half somewhere, and `saturated_parts`, in nearly all
    cells.
    """
    model, quality, surest, occupied, cells = system.model, [], [], 0, 0
    with evaluating(system.networks) as device:
        ledger = LossLedger(system.terms, device)
        batch_size = max(config.batch_size, HELD_OUT_PIXELS // math.prod(held_out.images.shape[1:3]))
        for number_of_batch, images in enumerate(in_order(held_out.images, batch_size, device)):
            first, target = number_of_batch * batch_size, scaled_pixels(images, torch.float32)
            labels = None
            if held_out.labels is not None:
                labels = torch.as_tensor(held_out.labels[first : first + len(images)], device=device)
            noise = Noise(config.seed, 0, first)
            out, losses = system.losses(target, labels, number, noise)
            ledger.add(losses, len(images), number)
            if model.has_decoder:
                quality.append(psnr(model.reconstruct(images), target))
            if model.has_parts:
                surest.append(out.occurrence.amax((0, 2, 3)))
                occupied = occupied + (out.occurrence > 0.5).sum((0, 2, 3))
                cells += out.occurrence[:, 0].numel()
        result = ledger.means()
        if quality:
            result["psnr"] = torch.cat(quality).mean().item()
        if surest:
            result["active_parts"] = int((torch.stack(surest).amax(0) > 0.5).sum())
            result["saturated_parts"] = int((occupied > SATURATED * cells).sum())
        return result
