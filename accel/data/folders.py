"""Lists of the image files in a folder, with their classes."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from accel.data.listing import Listing

TRAIN, HELD_OUT = "train", ("test", "val")  # folders of splits, in any case
DEPOSITS = ("thumbs.db", "desktop.ini", "__macosx")  # created by file managers and archivers, ignored like hidden files


def list_folder(folder: Path) -> Listing:
    """The images of a folder; nothing is held out if the folder has no test images.

    The folder contains either images (without labels), or one folder per class with images at any depth, or `train/`
    with `test/` or `val/` (upper or lower case), each laid out in one of these ways. Files and classes are in natural
    order (img2 before img10); labels are indices of the classes of the training images. Decoded images are RGB: rotated
    by EXIF, grey repeated, transparency over white, 16 bits reduced to 8, the first of several frames. Hidden files
    and folders (.DS_Store), __MACOSX, Thumbs.db and desktop.ini are ignored.

    Raises ValueError, which names a file or folder that does not fit this layout.
    """
    names, files = _entries(folder)
    splits = {name.lower(): name for name in names}
    train: str = "."
    test: str | None = None
    if names and len(splits) == len(names) and {*splits} <= {TRAIN, *HELD_OUT}:
        if TRAIN not in splits or len(splits) > 2 or files:
            found = ", ".join([f"{name}/" for name in names] + files[:1])
            raise ValueError(f"{folder} holds {found}, expected train/ and one of test/ and val/, and nothing else")
        train, test = splits[TRAIN], next((splits[name] for name in HELD_OUT if name in splits), None)

    train_files, train_classes = _listing(folder, train)
    test_files, test_classes = _listing(folder, test) if test else ([], train_classes and [])
    places = folder / train, folder / (test or train)
    if (train_classes is None) != (test_classes is None):
        raise ValueError(f"one of {places[0]} and {places[1]} has class folders, expected both or neither")
    class_names = None if train_classes is None else tuple(dict.fromkeys(train_classes))
    unknown = set(test_classes or ()) - set(class_names or ())
    if unknown:
        raise ValueError(f"{places[1]} has the class folder {min(unknown)}, which {places[0]} does not have")

    return Listing(
        str(folder),
        folder,
        [*train_files, *test_files],
        num_train=len(train_files),
        labels=None if class_names is None else _labels([*(train_classes or ()), *(test_classes or ())], class_names),
        class_names=class_names,
    )


def _natural(name: str) -> tuple[list[int | str], str]:
    runs = re.split(r"([0-9]+)", name)
    return [int(run) if i % 2 else run for i, run in enumerate(runs)], name


def _entries(folder: Path) -> tuple[list[str], list[str]]:
    """The names of folders and of files in a folder, in natural order, without those that are ignored."""
    folders: list[str] = []
    files: list[str] = []
    with os.scandir(folder) as entries:  # which knows the type of most files without reading the disk
        for entry in entries:
            if not entry.name.startswith(".") and entry.name.lower() not in DEPOSITS:
                (folders if entry.is_dir() else files).append(entry.name)
    return sorted(folders, key=_natural), sorted(files, key=_natural)


def _descend(folder: Path) -> Iterator[str]:
    """The files of a folder and of all folders in it, by their paths from it, those of the folder itself first."""
    folders, files = _entries(folder)
    yield from files
    for name in folders:
        yield from (f"{name}/{file}" for file in _descend(folder / name))


def _listing(root: Path, split: str) -> tuple[list[str], list[str] | None]:
    """The files of one split, by their paths from the root, and the class of each; None without class folders."""
    folder, prefix = root / split, "" if split == "." else f"{split}/"
    folders, files = _entries(folder)
    if folders and files:
        raise ValueError(
            f"{folder} holds both files ({files[0]}) and folders ({folders[0]}), "
            "expected either images only, or one folder per class"
        )
    if not folders and not files:
        raise ValueError(f"{folder} holds no images")
    if not folders:
        return [prefix + name for name in files], None
    files, classes = [], []
    for name in folders:
        inside = list(_descend(folder / name))
        if not inside:
            raise ValueError(f"{folder / name} holds no images, expected those of its class")
        files += [f"{prefix}{name}/{file}" for file in inside]
        classes += [name] * len(inside)
    return files, classes


def _labels(classes: list[str], class_names: tuple[str, ...]) -> np.ndarray:
    number = {name: label for label, name in enumerate(class_names)}
    return np.array([number[name] for name in classes], dtype=np.int64)
