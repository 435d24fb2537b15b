"""Data sets in memory: arrays of uint8 images, with labels and the ground truth of parts if they are known."""

from dataclasses import dataclass, replace

import numpy as np

from accel.common.describing import ShowsShapes
from accel.data.words import HELD_OUT_STREAM, random_order

MOST_CLASSES = 1 << 16  # more labels than this are probably not classes


@dataclass(frozen=True, repr=False)
class ImageSet(ShowsShapes):
    """Immutable images with labels and ground truth; the arrays may be read-only or memory-mapped.

    Attributes:
        images: uint8 (n, H, W, C), C = 1 or 3, values 0 to 255.
        labels: int64 (n,), classes counted from 0, or None. Unsupervised training never uses them.
        truth: bool (n, T, h, w), or None: whether a cell of the model's grid holds the centre of an instance of type t.
    """

    images: np.ndarray
    labels: np.ndarray | None = None
    truth: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.images)

    def chosen(self, indices: np.ndarray) -> "ImageSet":
        """The images with these indices, as a copy in memory."""
        labels, truth = (None if part is None else part[indices] for part in (self.labels, self.truth))
        return ImageSet(self.images[indices], labels, truth)


@dataclass(frozen=True, repr=False)
class Dataset(ShowsShapes):
    """A training and a held-out set of images of one size.

    Attributes:
        name: the name or path that it was loaded by.
        train, test: disjoint `ImageSet`s.
        class_names: one name per label, or None.
        part_names: one name per true part type (axis 1 of `truth`), or None.
        supervised: bool (n,), the training images on which the data set's protocol trains classifiers; None for all.
        flip: whether mirrored images are as likely as the originals, so that training may mirror at random.
        left_out: one sentence for each file of the source that could not be read or is not used.
        packed: digests of the images of `train` and `test` when they were packed, or None.

    Raises ValueError for labels that are negative, beyond class_names, or at least MOST_CLASSES.
    """

    name: str
    train: ImageSet
    test: ImageSet
    class_names: tuple[str, ...] | None = None
    part_names: tuple[str, ...] | None = None
    supervised: np.ndarray | None = None
    flip: bool = True
    left_out: tuple[str, ...] = ()
    packed: dict[str, str] | None = None

    def __post_init__(self) -> None:
        classes = MOST_CLASSES if self.class_names is None else len(self.class_names)
        if classes > MOST_CLASSES:
            raise ValueError(f"{self.name} has {classes:,} classes, at most {MOST_CLASSES:,} are supported")
        for split, labels in (("training", self.train.labels), ("test", self.test.labels)):
            if labels is not None and len(labels) and not (labels.min() >= 0 and labels.max() < classes):
                wrong = labels.min() if labels.min() < 0 else labels.max()
                known = "" if self.class_names is None else f", since there are {classes:,} class names"
                raise ValueError(f"{self.name}: {split} labels must be from 0 to {classes - 1:,}, got {wrong}{known}")

    @property
    def num_classes(self) -> int | None:
        """Number of classes of training and test labels; None if training images have no labels."""
        if self.train.labels is None:
            return None
        if self.class_names is not None:
            return len(self.class_names)
        known = (part.labels.max() for part in (self.train, self.test) if part.labels is not None and len(part))
        return int(max(known)) + 1

    def with_test(self) -> "Dataset":
        """This data set if it has test images; else one with a tenth of the training images, at least one, held out."""
        if len(self.test):
            return self
        train, test = held_out(self.name, len(self.train))
        return replace(self, train=self.train.chosen(train), test=self.train.chosen(test))

    def labelled_train(self) -> ImageSet:
        """The training images that classifiers are to be trained on."""
        if self.supervised is None or self.supervised.all():
            return self.train
        return self.train.chosen(np.flatnonzero(self.supervised))


def held_out(name: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(training indices, held-out indices) of a data set without test images; a tenth, at least one, is held out.

    The split depends only on `count`. Raises ValueError, which names the set, for fewer than two images.
    """
    if count < 2:
        raise ValueError(f"{name} holds one image, expected at least two: one to train on and one to hold out")
    order = random_order(HELD_OUT_STREAM, 0, 0, count)
    tenth = max(1, count // 10)
    return np.sort(order[tenth:]), np.sort(order[:tenth])
