"""From arrays to batches on a device; order and flips are functions of (seed, epoch), so a batch can be made again."""

from collections.abc import Iterator

import numpy as np
import torch

from accel.data.words import FLIP_STREAM, ORDER_STREAM, random_order, random_words


def epoch_order(count: int, *, seed: int, epoch: int) -> np.ndarray:
    """The order in which an epoch shows `count` images: a permutation, int64 (count,)."""
    return random_order(ORDER_STREAM, seed, epoch, count)


def epoch_flips(count: int, *, seed: int, epoch: int) -> np.ndarray:
    """Which images an epoch shows mirrored, with probability ½ each: bool (count,), by the image's index."""
    return random_words(FLIP_STREAM, seed, epoch << 64, count) >> np.uint64(63) == 1


class Batches:
    """The batches of every epoch.

    Args:
        images: uint8 (n, H, W, C), n ≥ 1; may be read-only or memory-mapped.
        batch_size: images a batch. An incomplete last batch is left out, unless it is the only one.
        seed: of order and flips, 0 ≤ seed < 2⁶⁴.
        flip: whether each image is mirrored left to right in half of the epochs.
        device: where the batches go.

    Raises ValueError for an empty set or a batch size below 1.
    """

    def __init__(self, images: np.ndarray, batch_size: int, seed: int, flip: bool, device: torch.device | str):
        if len(images) == 0:
            raise ValueError("batches need at least one image, got none")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.images, self.seed, self.flip, self.device = images, seed, flip, device
        self.batch_size = min(batch_size, len(images))

    def __len__(self) -> int:
        """Batches an epoch."""
        return len(self.images) // self.batch_size

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[torch.Tensor]:
        """The batches of an epoch from number `start_batch` on, each uint8 (batch_size, C, H, W), contiguous."""
        order = epoch_order(len(self.images), seed=self.seed, epoch=epoch)
        flips = epoch_flips(len(self.images), seed=self.seed, epoch=epoch) if self.flip else None
        for number in range(start_batch, len(self)):
            chosen = order[number * self.batch_size : (number + 1) * self.batch_size]
            batch = np.asarray(self.images[chosen])  # a copy, so that flipping leaves the set alone
            if flips is not None:
                mirrored = flips[chosen]
                batch[mirrored] = batch[mirrored, :, ::-1]
            yield torch.from_numpy(batch).to(self.device).permute(0, 3, 1, 2).contiguous()
