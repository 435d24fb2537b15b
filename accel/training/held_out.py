"""Evaluation on held-out images after each epoch."""

import contextlib
import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from accel.data import ImageSet
from accel.models.autoencoder import in_evaluation, scaled_pixels
from accel.ops import Noise
from accel.training.capture import Captured
from accel.training.config import TrainingConfig
from accel.training.step import LossLedger, flushed_denormals
from accel.training.systems import System

OCCURS = 0.5  # a part occurs in a cell where its probability is greater
SATURATED = 0.9  # a part that occurs in a larger share of all cells is saturated: it locates nothing
HELD_OUT_PIXELS = 2**20  # minimal pixels per batch: with small images, training batches would not fill a GPU


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[torch.device]:
    """Evaluation mode without gradients, restored afterwards; yields the model's device."""
    with in_evaluation(model), torch.no_grad():
        yield next(model.parameters()).device


def in_order(images: np.ndarray, batch_size: int, device: torch.device) -> Iterator[Tensor]:
    """uint8 (n, H, W, C) → batches (B, C, H, W) on the device, channels last; the last batch may be smaller."""
    for start in range(0, len(images), batch_size):
        yield torch.tensor(images[start : start + batch_size], device=device).permute(0, 3, 1, 2)


def psnr(reconstruction: Tensor, images: Tensor) -> Tensor:
    """Peak signal-to-noise ratio, 10 log₁₀(1 / MSE) in decibels on pixels mapped to [0, 1].

    Both (B, C, H, W) in [−1, 1] → (B,). Infinite for equal images.
    """
    return -10.0 * (((reconstruction - images) / 2.0) ** 2).mean((1, 2, 3)).log10()


class HeldOut:
    """Evaluates a system on held-out images; on a GPU, most batches replay one CUDA graph."""

    def __init__(self, system: System, held_out: ImageSet, config: TrainingConfig, device: torch.device):
        self.system, self.held_out, self.config, self.device = system, held_out, config, device
        self.ledger = LossLedger(system.terms, device)
        self.quality = torch.zeros((), dtype=torch.float64, device=device)
        parts = config.num_parts if system.model.has_parts else 0
        self.surest = torch.zeros(parts, device=device)
        self.occupied = torch.zeros(parts, dtype=torch.float64, device=device)  # share of cells, summed over images
        self.see = Captured(self._see, device) if device.type == "cuda" else self._see

    def measure(self, number: int) -> dict:
        """The loss terms at step `number`, with the same noise each time, and the quality of reconstructions.

        Loss terms are estimated as in training, with one sample per image. `psnr`, for models with a decoder, is that
        of the reconstruction from the posterior's mean, as by `reconstruct`. For PatchVAE, `active_parts` is the number
        of parts that occur somewhere with a probability above one half, and `saturated_parts` the number of those that
        occur in nearly all cells.
        """
        self.ledger.reset()
        for sums in (self.quality, self.surest, self.occupied):
            sums.zero_()
        images, labels = self.held_out.images, self.held_out.labels
        batch_size = max(self.config.batch_size, HELD_OUT_PIXELS // math.prod(images.shape[1:3]))
        step = torch.tensor(number, device=self.device)
        with evaluating(self.system.networks), flushed_denormals():
            for place, batch in enumerate(in_order(images, batch_size, self.device)):
                first = place * batch_size
                chosen = None
                if labels is not None:
                    chosen = torch.as_tensor(labels[first : first + len(batch)], device=self.device)
                self.see(batch, chosen, step, torch.tensor(first, device=self.device))
        result = self.ledger.means()
        if self.system.model.has_decoder:
            result["psnr"] = self.quality.item() / len(images)
        if self.system.model.has_parts:
            result["active_parts"] = int((self.surest > OCCURS).sum())
            result["saturated_parts"] = int((self.occupied > SATURATED * len(images)).sum())
        return result

    def _see(self, images: Tensor, labels: Tensor | None, step: Tensor, first: Tensor) -> None:
        """Adds a batch of images; `first` is the index of its first image."""
        model, target = self.system.model, scaled_pixels(images, torch.float32)
        seed, none = (torch.full_like(first, number) for number in (self.config.seed, 0))
        out, losses = self.system.losses(target, labels, step, Noise(seed, none, first))
        self.ledger.add(losses, len(images), step)
        if model.has_decoder:
            self.quality += psnr(model.reconstruct(images), target).double().sum()
        if model.has_parts:
            self.surest.copy_(torch.maximum(self.surest, out.occurrence.amax((0, 2, 3))))
            self.occupied += (out.occurrence > OCCURS).double().mean((2, 3)).sum(0)
