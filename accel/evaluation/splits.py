"""Which images of a data set a transfer learns from, chooses an epoch by, and tests on."""

import dataclasses
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from accel.data import Dataset, ImageSet
from accel.data.images import held_out

BATCH = 500  # images at once where nothing is learned

Examples = Iterator[tuple[Tensor, Tensor]]  # (inputs, labels) a batch


@dataclasses.dataclass(frozen=True)
class Chosen:
    """Some images of a set, which may be too many to be copied."""

    images: ImageSet
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def labels(self) -> np.ndarray:
        """int64 (n,), of the chosen images."""
        return self.images.labels[self.indices]

    def batches(self, device: torch.device) -> Examples:
        """uint8 images (B, C, H, W), channels last in memory, and their labels, in order."""
        for start in range(0, len(self), BATCH):
            some = self.indices[start : start + BATCH]
            images = torch.tensor(self.images.images[some], device=device).permute(0, 3, 1, 2)
            yield images, torch.as_tensor(self.images.labels[some], device=device)


def split(dataset: Dataset) -> dict[str, Chosen]:
    """What to train on, a tenth of that to choose an epoch by, both of them, and what to test on."""
    train, test = dataset.train, dataset.test
    labelled = np.arange(len(train)) if dataset.supervised is None else np.flatnonzero(dataset.supervised)
    most, tenth = held_out(dataset.name, len(labelled))
    indices = {"train": labelled[most], "validation": labelled[tenth], "both": labelled}
    return {name: Chosen(train, some) for name, some in indices.items()} | {"test": Chosen(test, np.arange(len(test)))}
