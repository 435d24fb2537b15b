"""The paper's larger data sets in their published form: downloads, locations, and checks of completeness.

A data set NAME is in DATA_DIR/NAME, as unpacked from its archives, or packed in DATA_DIR/NAME.npy.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from accel.common.files import read_text
from accel.data.folders import list_folder
from accel.data.listing import Listing

SHOWN = 3  # number of missing files that an error names

INDOOR_LISTS = ("TrainImages.txt", "TestImages.txt")
PLACES_IMAGES = "data/vision/torralba/deeplearning/images256"
PLACES_LISTS = tuple(f"trainvalsplit_places205/{split}_places205.csv" for split in ("train", "val"))


@dataclass(frozen=True)
class Published:
    """A published data set.

    Attributes:
        name: its name here.
        needed: required files and folders in its folder.
        download: instructions for downloading them.
        classes, train, test: numbers of classes, training images (with or without labels) and test images.
        fits: whether its decoded images fit into the memory of a usual machine.
        read: a function from its folder to its files; raises ValueError if files in its lists are missing.
    """

    name: str
    needed: tuple[str, ...]
    download: str
    classes: int
    train: int
    test: int
    fits: bool
    read: Callable[[Path], Listing]

    def listing(self, data_dir: Path) -> Listing:
        """The files of the data set, after a check that it is complete.

        Raises FileNotFoundError with instructions for downloading it, or ValueError, which names missing parts.
        """
        folder = data_dir / self.name
        if missing := [name for name in self.needed if not (folder / name).exists()]:
            raise FileNotFoundError(
                f"{folder} lacks {' and '.join(missing)}: {self.download}, and put them into {folder}"
            )
        listing = self.read(folder)
        self._check(folder, listing)
        return listing

    def _check(self, folder: Path, listing: Listing) -> None:
        assert listing.labels is not None  # every published set has classes
        assert listing.class_names is not None
        splits = (
            ("training", self.train, listing.labels[: listing.num_train]),
            ("test", self.test, listing.labels[listing.num_train :]),
        )
        for split, images, labels in splits:
            count = Counter(labels.tolist())
            if len(count) != self.classes:
                raise ValueError(f"{folder} has {split} images of {len(count):,} classes, expected {self.classes:,}")
            if len(labels) < images:
                fewest, few = min(count.items(), key=lambda item: item[::-1])
                raise ValueError(
                    f"{folder} has {len(labels):,} {split} images, expected {images:,}: {images - len(labels):,} are "
                    f"missing (the class with fewest, {listing.class_names[fewest]}, has {few:,})"
                )


def _refuse_missing(folder: Path, files: Iterable[str], listed_in: str) -> None:
    """Raises ValueError, with the first missing files and the number of all missing files."""
    present: dict[str, set[str]] = {}
    missing = []
    files = list(files)
    for file in files:
        parent, _, name = file.rpartition("/")
        if parent not in present:
            present[parent] = set(os.listdir(folder / parent)) if (folder / parent).is_dir() else set()
        if name not in present[parent]:
            missing.append(file)
    if missing:
        more = ", …" if len(missing) > SHOWN else ""
        raise ValueError(
            f"{folder} lacks {len(missing):,} of the {len(files):,} files that {listed_in} name: "
            f"{', '.join(missing[:SHOWN])}{more}"
        )


def _indoor67(folder: Path) -> Listing:
    """Training uses all images that are not in the test list; classifiers only those of the training list."""
    images = folder / "Images"
    train, test = (
        [line.strip() for line in read_text(folder / name).splitlines() if line.strip()] for name in INDOOR_LISTS
    )
    _refuse_missing(images, [*train, *test], " and ".join(INDOOR_LISTS))
    found = list_folder(images)
    tested, supervised = set(test), set(train)
    is_test = np.array([file in tested for file in found.files])
    order = np.argsort(is_test, kind="stable")
    assert found.labels is not None  # the lists name files in class folders, which are there
    files = [found.files[i] for i in order]
    num_train = int((~is_test).sum())
    return Listing(
        "indoor67",
        images,
        files,
        num_train,
        found.labels[order],
        found.class_names,
        supervised=np.array([file in supervised for file in files[:num_train]]),
        skipped=found.skipped,
    )


def _places205(folder: Path) -> Listing:
    """Each line of a list is a file name and its label; files are in LETTER/CLASS/."""
    images = folder / PLACES_IMAGES
    splits = []
    for name in PLACES_LISTS:
        try:
            rows = [line.split() for line in read_text(folder / name).splitlines() if line.strip()]
            splits.append(([file for file, _ in rows], [int(label) for _, label in rows]))
        except ValueError:
            raise ValueError(f"{folder / name} must consist of lines that hold a file name and its label") from None
    files, labels = ([*train, *test] for train, test in zip(*splits, strict=True))
    _refuse_missing(images, files, " and ".join(PLACES_LISTS))
    names = {label: file.split("/", 1)[-1].rpartition("/")[0] for file, label in zip(files, labels, strict=True)}
    if sorted(names) != list(range(len(names))):
        raise ValueError(f"{folder / PLACES_LISTS[0]} must number its classes from 0 without gaps")
    return Listing(
        "places205",
        images,
        files,
        len(splits[0][0]),
        np.array(labels, np.int64),
        tuple(names[label] for label in range(len(names))),
    )


def _imagenet(folder: Path) -> Listing:
    found = list_folder(folder)
    if found.class_names is None:
        raise ValueError(f"{folder} must have one folder a class (n01440764, …) in train/ and in val/")
    return Listing(
        "imagenet", folder, found.files, found.num_train, found.labels, found.class_names, skipped=found.skipped
    )


PUBLISHED = {
    published.name: published
    for published in (
        Published(
            name="indoor67",
            needed=("Images", *INDOOR_LISTS),
            download="unpack indoorCVPR_09.tar and get both lists from https://web.mit.edu/torralba/www/indoor.html",
            classes=67,
            train=15620 - 67 * 20,
            test=67 * 20,
            fits=True,
            read=_indoor67,
        ),
        Published(
            name="places205",
            needed=(PLACES_IMAGES, *PLACES_LISTS),
            download="unpack the resized images and the lists of Places205 from http://places.csail.mit.edu",
            classes=205,
            train=2_448_873,
            test=205 * 100,
            fits=False,
            read=_places205,
        ),
        Published(
            name="imagenet",
            needed=("train", "val"),
            download="unpack the training and validation images of ILSVRC 2012 from https://image-net.org, "
            "both as one folder a class",
            classes=1000,
            train=1_281_167,
            test=50_000,
            fits=False,
            read=_imagenet,
        ),
    )
}
