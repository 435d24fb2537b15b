"""The images of a data set for the training, epoch selection and test of a transfer."""

import dataclasses
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from accel.data import Dataset, ImageSet
from accel.data.images import held_out

BATCH = 500  # batch size of evaluation

Examples = Iterator[tuple[Tensor, Tensor]]  # (inputs, labels) of each batch


@dataclasses.dataclass(frozen=True)
class Subset:
    """A subset of the images of a set, without copies."""

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


def split(dataset: Dataset) -> dict[str, Subset]:
    """Training images, a tenth of them for validation, both together, and test images."""
    train, test = dataset.train, dataset.test
    labelled = np.arange(len(train)) if dataset.supervised is None else np.flatnonzero(dataset.supervised)
    most, tenth = held_out(dataset.name, len(labelled))
    indices = {"train": labelled[most], "validation": labelled[tenth], "both": labelled}
    return {name: Subset(train, some) for name, some in indices.items()} | {"test": Subset(test, np.arange(len(test)))}
