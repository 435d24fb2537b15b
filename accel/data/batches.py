"""Batches of arrays on a device. Order and flips are functions of (seed, epoch), so every batch is reproducible."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from accel.data.images import ImageSet
from accel.data.words import FLIP_STREAM, ORDER_STREAM, random_order, random_words

SHARE = 0.25  # of a GPU's free memory may hold images
READERS = 4  # threads that gather batches from memory or disk
AHEAD = 8  # batches gathered before they are asked for


def epoch_order(count: int, *, seed: int, epoch: int) -> np.ndarray:
    """The order of `count` images in an epoch: a permutation, int64 (count,)."""
    return random_order(ORDER_STREAM, seed, epoch, count)


def epoch_flips(count: int, *, seed: int, epoch: int) -> np.ndarray:
    """Which images are mirrored in an epoch, with probability ½ each: bool (count,), by the image's index."""
    return random_words(FLIP_STREAM, seed, epoch << 64, count) >> np.uint64(63) == 1


class Batch(NamedTuple):
    """Images uint8 (B, C, H, W), channels last in memory, and labels int64 (B,) or None, on one device.

    In runs that renew parts, labels are the parts that are known to occur, int16 (B, h, w), mirrored with the image.
    """

    images: Tensor
    labels: Tensor | None


def steps_an_epoch(images: int, batch_size: int) -> int:
    """Number of complete batches; 1 if there are fewer images than batch_size."""
    return images // min(batch_size, images)


class Batches:
    """The batches of every epoch.

    A data set that fits is copied to the GPU once, and batches are gathered there. A larger one stays in memory or on
    disk, and threads gather its batches some steps ahead and copy them during the computation. Both give the same
    batches.

    Args:
        image_set: the images, n ≥ 1; they may be read-only or memory-mapped.
        batch_size: number of images per batch, over all processes. An incomplete last batch is dropped, unless it is
            the only one.
        seed: random seed of order and flips, 0 ≤ seed < 2⁶⁴.
        flip: whether to mirror images horizontally, each with probability ½ in each epoch.
        device: the device of the batches.
        rank, world_size: this process gets images [r·B/W, (r + 1)·B/W) of each batch of B.
        indices: the images of the set to use, all by default.
        resident: whether to keep the data set on the GPU; by default if it needs at most a quarter of its free memory.

    Raises ValueError for an empty set, a batch size below 1, or one that world_size does not divide.
    """

    def __init__(
        self,
        image_set: ImageSet,
        batch_size: int,
        seed: int,
        flip: bool,
        device: torch.device | str,
        *,
        rank: int = 0,
        world_size: int = 1,
        indices: np.ndarray | None = None,
        resident: bool | None = None,
    ):
        self.indices = np.arange(len(image_set)) if indices is None else indices
        if len(self.indices) == 0:
            raise ValueError("batches need at least one image, got none")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.batch_size = min(batch_size, len(self.indices))
        if self.batch_size % world_size:
            raise ValueError(f"batch_size {self.batch_size} must be a multiple of the {world_size} processes")
        self.images, self.labels = image_set.images, image_set.labels
        if not self.images.flags.c_contiguous:
            self.images = np.ascontiguousarray(self.images)  # or every batch would copy all of them
        self.seed, self.flip, self.device = seed, flip, torch.device(device)
        own = self.batch_size // world_size
        self.own = slice(rank * own, (rank + 1) * own)

        on_gpu = self.device.type == "cuda"
        self.copies = torch.cuda.Stream(self.device) if on_gpu else None
        if resident is None:
            resident = on_gpu and self.images.nbytes <= SHARE * torch.cuda.mem_get_info(self.device)[0]
        self.resident = torch.tensor(self.images, device=self.device) if resident else None

    def __len__(self) -> int:
        """Number of batches per epoch."""
        return steps_an_epoch(len(self.indices), self.batch_size)

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, beginning with number `start_batch`."""
        count = len(self.indices)
        order = epoch_order(count, seed=self.seed, epoch=epoch)[: len(self) * self.batch_size]
        places = order.reshape(len(self), self.batch_size)[start_batch:, self.own]
        chosen = self.indices[places]
        # One copy an epoch: a copy for each batch would make the host wait for the device.
        indices = self._uploaded(chosen)
        labels = None if self.labels is None else self._uploaded(self.labels[chosen])
        mirrored = None
        if self.flip:
            mirrored = self._uploaded(epoch_flips(count, seed=self.seed, epoch=epoch)[places])

        gathered = self._streamed(chosen) if self.resident is None else map(self._gathered, indices)
        for number, images in enumerate(gathered):
            own = None if labels is None else labels[number]
            if mirrored is not None:
                images = torch.where(mirrored[number, :, None, None, None], images.flip(2), images)
                if own is not None and own.ndim == 3:
                    own = torch.where(mirrored[number, :, None, None], own.flip(2), own)
            yield Batch(images.permute(0, 3, 1, 2), own)

    def _uploaded(self, numbers: np.ndarray) -> Tensor:
        return torch.tensor(numbers, device=self.device)

    def _gathered(self, indices: Tensor) -> Tensor:
        assert self.resident is not None  # or batches would be streamed
        return self.resident.index_select(0, indices)

    def _streamed(self, chosen: np.ndarray) -> Iterator[Tensor]:
        """The images of each row of indices, uint8 (B, H, W, C), read ahead by threads."""
        ahead: deque[Future[tuple[Tensor, torch.cuda.Event | None]]] = deque()
        with ThreadPoolExecutor(READERS, thread_name_prefix="batches") as readers:
            try:
                for indices in chosen:
                    ahead.append(readers.submit(self._read, indices))
                    if len(ahead) > AHEAD:
                        yield self._arrived(*ahead.popleft().result())
                while ahead:
                    yield self._arrived(*ahead.popleft().result())
            finally:
                readers.shutdown(wait=False, cancel_futures=True)

    def _read(self, indices: np.ndarray) -> tuple[Tensor, torch.cuda.Event | None]:
        """One batch that is being copied to the device, and an event for the end of the copy."""
        shape = (len(indices), *self.images.shape[1:])
        with torch.cuda.stream(self.copies):  # and its device, on which the thread would else not be; nothing on a CPU
            host = torch.empty(shape, dtype=torch.uint8, pin_memory=self.copies is not None)
            # Unlike indexing, this needs neither a second copy nor, with "clip", a buffer.
            np.take(self.images, indices, axis=0, out=host.numpy(), mode="clip")
            images = host.to(self.device, non_blocking=True)
            return images, None if self.copies is None else self.copies.record_event()

    def _arrived(self, images: Tensor, copied: torch.cuda.Event | None) -> Tensor:
        if copied is not None:
            stream = torch.cuda.current_stream(self.device)
            stream.wait_event(copied)
            images.record_stream(stream)  # its memory belongs to the copies' stream, which must not reuse it too soon
        return images
