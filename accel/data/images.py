"""What every source of images gives: arrays of uint8 with, where they are known, labels and the truth about parts."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ImageSet:
    """Images as they are stored. Nothing here is changed after it was made; arrays may be read-only or memory-mapped.

    Attributes:
        images: uint8 (n, H, W, C), C = 1 or 3, values 0 to 255.
        labels: int64 (n,), classes counted from 0, or None. Never used in training without labels.
        truth: bool (n, T, h, w), or None: whether part type t has its centre in a cell of the model's grid.
    """

    images: np.ndarray
    labels: np.ndarray | None = None
    truth: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Dataset:
    """A training and a held-out set of images of one size.

    Attributes:
        name: the name or path that it was loaded by.
        train, test: disjoint `ImageSet`s.
        class_names: one name a label, or None.
        part_names: one name a true part type (axis 1 of `truth`), or None.
        flip: whether a mirrored image is as likely as the image itself, so that training may flip at random.
    """

    name: str
    train: ImageSet
    test: ImageSet
    class_names: tuple[str, ...] | None = None
    part_names: tuple[str, ...] | None = None
    flip: bool = True
