"""Images from PyTorch data sets and data loaders."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sized
from itertools import chain, pairwise
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, IterableDataset
from torch.utils.data import Dataset as TorchDataset

from accel.data.images import Dataset, ImageSet
from accel.data.listing import problem, upright_rgb

BATCH = 256  # default number of items per batch
IMAGE_KEYS = ("image", "images", "data", "pixel_values")  # in items that are dictionaries
LABEL_KEYS = ("label", "labels", "target")
LIMITS = ((0.0, 1.0), (-1.0, 1.0))

Source = TorchDataset[Any] | DataLoader[Any]


def from_torch(
    train: Source,
    test: Source | None = None,
    *,
    name: str = "images",
    class_names: tuple[str, ...] | None = None,
    value_range: tuple[float, float] = (0.0, 1.0),
    flip: bool = True,
) -> Dataset:
    """Reads PyTorch data sets or DataLoaders into a data set for `accel.training.train`.

        dataset = from_torch(train_set, test_set, name="photographs")
        train(config_for(dataset), dataset)

    Items are (image, label), (image, label, …), an image alone, or a dictionary of "image" and "label" ("data",
    "images", "pixel_values"; "labels", "target"). Images are tensors (C, H, W) with C = 1 or 3, all of one size, uint8
    or floating point in value_range, as from torchvision's ToTensor; or NumPy arrays (H, W) or (H, W, C) of uint8; or
    PIL images, which are converted to RGB as those in a folder are (`folders.list_folder`). Where some are grey and
    some RGB, grey is repeated. Every item, or every one that the loader's sampler chooses, is read once, in the order
    of the data set even if the loader shuffles, and kept in memory as uint8. So random transformations are applied only
    once; the only augmentation in every epoch is `flip`.

    Args:
        train, test: data sets or loaders; without `test`, a tenth of `train` is held out.
        name: name of the data set in the log. class_names: one name per label.
        value_range: range of floating-point images, (0, 1) or (−1, 1).
        flip: whether training may mirror images.

    Raises ValueError for items of other types, images of different sizes, values outside of value_range, or a sampler
    that repeats images.
    """
    if tuple(map(float, value_range)) not in LIMITS:
        raise ValueError(f"value_range must be (0, 1) or (-1, 1), got {value_range}")
    learned = _read(train, "train", value_range)
    held_out = learned.chosen(np.arange(0)) if test is None else _read(test, "test", value_range)
    channels = max(part.images.shape[3] for part in (learned, held_out))
    learned, held_out = (
        dataclasses.replace(part, images=_with_channels(part.images, channels)) for part in (learned, held_out)
    )
    if learned.images.shape[1:] != held_out.images.shape[1:]:
        sizes = [f"{'×'.join(map(str, part.images.shape[1:]))}" for part in (learned, held_out)]
        raise ValueError(f"images of train are {sizes[0]}, but those of test {sizes[1]}")
    return Dataset(name, learned, held_out, class_names, flip=flip).with_test()


def _with_channels(images: np.ndarray, channels: int) -> np.ndarray:
    """Images (B, H, W, C) with grey repeated to so many channels."""
    return images if images.shape[3] == channels else np.repeat(images, channels, axis=3)


def _read(source: Source, which: str, value_range: tuple[float, float]) -> ImageSet:
    """All items of a data set or a loader, in order."""
    images, labels = [], []
    for item in _items(source, which):
        image, label = _taken_apart(item, which)
        images.append(_bytes(image, which, value_range))
        if images[-1].shape[1:3] != images[0].shape[1:3]:
            raise ValueError(f"images of {which} differ in size: let its transform resize or crop them to one size")
        if label is not None:
            labels.append(np.asarray(label).reshape(-1))
    if not images:
        raise ValueError(f"{which} holds no images")
    channels = max(image.shape[3] for image in images)
    pixels = np.concatenate([_with_channels(image, channels) for image in images])
    if not labels:
        return ImageSet(pixels)
    classes = np.concatenate(labels)
    if len(classes) != len(pixels) or not np.issubdtype(classes.dtype, np.integer) or classes.min() < 0:
        raise ValueError(
            f"labels of {which} must be whole numbers from 0, one per image, got {len(classes)} of {classes.dtype} for "
            f"{len(pixels)} images"
        )
    return ImageSet(pixels, classes.astype(np.int64))


def _items(source: Source, which: str) -> Iterator[Any]:
    """Items of a data set, or batches that a loader collates, in the order of the data set."""
    if not isinstance(source, TorchDataset | DataLoader):
        raise ValueError(f"{which} must be a torch Dataset or DataLoader, got {type(source).__name__}")
    if isinstance(source, IterableDataset) or isinstance(getattr(source, "dataset", None), IterableDataset):
        yield from cast(Iterable[Any], source)
    elif isinstance(source, DataLoader):
        one_by_one = source.batch_sampler is None
        yield from DataLoader(
            source.dataset,
            batch_size=None if one_by_one else source.batch_size or BATCH,
            sampler=_chosen(source, which),
            num_workers=source.num_workers,
            collate_fn=source.collate_fn,
        )
    else:
        for index in range(len(cast(Sized, source))):
            yield source[index]


def _chosen(loader: DataLoader[Any], which: str) -> list[Any]:
    """The indices that a loader would read, sorted: in its own order, every run of a loader that shuffles would differ.

    An incomplete last batch is included, which the loader might drop.
    """
    batches: Any = loader.batch_sampler
    if batches is None:
        indices = sorted(loader.sampler)
    elif type(batches) is BatchSampler:
        indices = sorted(batches.sampler)
    else:
        indices = sorted(chain.from_iterable(batches))
    repeated = next((one for one, other in pairwise(indices) if one == other), None)
    if repeated is not None:
        raise ValueError(
            f"the sampler of {which} chooses image {repeated} more than once, expected one without replacement: give "
            "the data set itself to read all of its images"
        )
    return indices


def _taken_apart(item: Any, which: str) -> tuple[Any, Any]:
    """(image or images, label or labels or None) of an item or a batch."""
    if isinstance(item, Mapping):
        images, labels = ([item[key] for key in keys if key in item] for keys in (IMAGE_KEYS, LABEL_KEYS))
        if not images:
            raise ValueError(
                f"items of {which} hold {', '.join(map(str, item))}, expected one of {', '.join(IMAGE_KEYS)}"
            )
        return images[0], labels[0] if labels else None
    if isinstance(item, tuple | list):
        return item[0], item[1] if len(item) > 1 else None
    return item, None


def _bytes(image: Any, which: str, value_range: tuple[float, float]) -> np.ndarray:
    """One image or a batch of them as uint8 (B, H, W, C)."""
    if hasattr(image, "getexif"):  # a PIL image; Pillow may not be installed
        try:
            image = upright_rgb(image)
        except Exception as error:  # as for files
            raise ValueError(f"a picture of {which} {problem(error)}") from error
    channels_first = isinstance(image, torch.Tensor)
    array = image.detach().cpu().numpy() if channels_first else np.asarray(image)
    given = f"{array.dtype} {array.shape}"
    if array.ndim == 2:
        array = array[None] if channels_first else array[..., None]
    if array.ndim == 3:
        array = array[None]
    if channels_first and array.ndim == 4 and array.shape[1] not in (1, 3):
        channels_first = False  # arrays (H, W, C), which a loader has made tensors
    if array.ndim == 4 and channels_first:
        array = array.transpose(0, 2, 3, 1)
    if array.ndim != 4 or array.shape[3] not in (1, 3) or array.size == 0:
        raise ValueError(
            f"images of {which} must be tensors (C, H, W), or pictures or arrays (H, W, C), C = 1 or 3, got {given}"
        )
    if array.dtype == np.uint8:
        return array
    low, high = value_range
    if not np.issubdtype(array.dtype, np.floating) or not (array.min() >= low and array.max() <= high):
        found = f"values from {array.min():.3g} to {array.max():.3g}" if array.size else "none"
        raise ValueError(
            f"images of {which} must be uint8 or floating in [{low:g}, {high:g}], got {array.dtype} with {found}: "
            "leave Normalize out of its transform, or give value_range=(-1, 1)"
        )
    return np.rint((array - low) * (255 / (high - low))).astype(np.uint8)
