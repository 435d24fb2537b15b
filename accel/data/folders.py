"""Lists of the image files in a folder, with their classes."""

import itertools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from accel.data.listing import Listing
from accel.data.resize import pillow

OPENED = 100  # files without an image's name that are opened to find one in a folder, which may hold 100,000 others
NOT_DECODED = ("BUFR", "GRIB", "HDF5", "MPEG", "WMF")  # formats that Pillow knows, but does not decode on its own
RUN = ("config.json", "metrics.jsonl")  # what every run of `train` holds, whose pictures are not to be learned

# Folders of splits, in any case, and those to be held out in the order of preference.
TRAIN, HELD_OUT = ("train", "training"), ("test", "testing", "val", "valid", "validation")
DEPOSITS = ("thumbs.db", "desktop.ini", "__macosx")  # created by file managers and archivers, ignored like hidden files


def list_folder(folder: Path) -> Listing:
    """The images of a folder; nothing is held out if the folder has no test images.

    The folder contains either images (without labels), or one folder per class with images at any depth, or `train/`
    (or `training/`) with one of HELD_OUT, such as `test/` or `val/`, each laid out in one of these ways (in upper or
    lower case). Of several, the first that has only classes of the training images is held out. Files and classes are
    in natural order (img2 before img10); labels are indices of the classes of the training images. Decoded images are
    RGB: rotated by EXIF, grey repeated, transparency over white, 16 bits reduced to 8, the first of several frames.
    Hidden files and folders (.DS_Store), __MACOSX, Thumbs.db and desktop.ini are ignored. What else is not used is in
    `skipped`: folders without images, folders that are runs or hold only runs, and what lies beside folders of images.

    Images beside class folders are not used, either; if there are as many as folders or more, they may be what was
    meant, and are refused.

    Raises ValueError, which names a file or folder that does not fit this layout.
    """
    names, files = _entries(folder)
    skipped: list[str] = []
    trains, tests = ([name for name in names if name.lower() in kind] for kind in (TRAIN, HELD_OUT))
    others = [name for name in names if name not in (*trains, *tests)]

    def classes() -> bool:
        return any(_below(folder / name)[1] is None for name in others)

    if len(trains) > 1 and tests:
        raise ValueError(f"{folder} holds {', '.join(f'{name}/' for name in trains)}, expected one of them")
    if trains and (tests or (len(trains) == 1 and not classes())):
        train = _listing(folder, trains[0], skipped)
        tests.sort(key=lambda name: HELD_OUT.index(name.lower()))
        test = _held_out(folder, trains[0], train, tests, skipped)
        skipped += _beside(folder, [*others, *files])
    elif tests and not trains and not classes():
        raise ValueError(f"{folder} holds {', '.join(f'{name}/' for name in tests)}, but no train/")
    else:
        train, test = _listing(folder, ".", skipped), _Split([], [])
    class_names = None if train.classes is None else tuple(dict.fromkeys(train.classes))
    return Listing(
        str(folder),
        folder,
        [*train.files, *test.files],
        num_train=len(train.files),
        labels=None if class_names is None else _labels([*(train.classes or ()), *(test.classes or ())], class_names),
        class_names=class_names,
        skipped=tuple(skipped),
    )


class _Split(NamedTuple):
    """The files of one split, by their paths from the root, and the class of each; None without class folders."""

    files: list[str]
    classes: list[str] | None


def _held_out(folder: Path, train_name: str, train: _Split, tests: list[str], skipped: list[str]) -> _Split:
    """The first of the folders `tests` that fits the training images; the others are added to `skipped`.

    Without any such folder, nothing is held out. Raises ValueError if none of them fits.
    """
    problems: dict[str, str] = {}
    for name in tests:
        aside: list[str] = []
        try:
            split = _listing(folder, name, aside)
        except ValueError as error:
            problems[name] = str(error)
            continue
        unknown = set(split.classes or ()) - set(train.classes or ())
        otherwise = f"with --data {folder / train_name}, a tenth of its images is held out"
        if (train.classes is None) != (split.classes is None):
            labelled, other = (name, train_name) if train.classes is None else (train_name, name)
            problems[name] = f"{folder / labelled} has class folders, but {folder / other} has none; {otherwise}"
        elif unknown:
            problems[name] = (
                f"{folder / name} has the class folder {min(unknown)}, of which {folder / train_name} has no images; "
                f"{otherwise}"
            )
        else:
            skipped += aside
            for other in tests:
                if other != name:
                    why = problems.get(other, f"{name} is held out").split("; with --data ")[0]
                    skipped.append(f"{folder / other} is not used, since {why}")
            return split
    if problems:
        raise ValueError(next(iter(problems.values())))
    return _Split([], [])


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


def files_below(folder: Path, above: tuple[str, ...] = ()) -> Iterator[str]:
    """The files of a folder and of all folders in it, by their paths from it, those of the folder itself first.

    above: real paths of the folders that hold this one. Raises ValueError for a link to one of them.
    """
    above = *above, os.path.realpath(folder)
    if above[-1] in above[:-1]:
        raise ValueError(f"{folder} is a link to a folder that holds it: remove the link")
    folders, files = _entries(folder)
    yield from files
    for name in folders:
        yield from (f"{name}/{file}" for file in files_below(folder / name, above))


def _is_image(path: Path) -> bool:
    """Whether Pillow knows the file's format; the name does not tell."""
    if not path.is_file():  # a pipe would have to be waited for
        return False
    try:
        with pillow().open(path):
            return True
    except OSError:  # as is UnidentifiedImageError
        return False


def _named_as_image(path: str | Path) -> bool:
    """Whether the file has the name of an image that Pillow decodes; it may be damaged."""
    image = pillow()
    file_format = image.registered_extensions().get(os.path.splitext(path)[1].lower())
    return file_format in image.OPEN and file_format not in NOT_DECODED


def _some_are_images(folder: Path, files: Sequence[str]) -> bool:
    """Whether files of a folder are images by their names, or one of the first by its content."""
    named = any(_named_as_image(file) for file in files)
    return named or any(_is_image(folder / file) for file in files[:OPENED])


def _is_run(folder: Path) -> bool:
    return all((folder / name).is_file() for name in RUN)


def _below(folder: Path) -> tuple[list[str], str | None]:
    """The files below a folder beside others, and the reason why it is not used; None if it is one of images."""
    inside, _ = _entries(folder)
    if _is_run(folder) or (inside and all(_is_run(folder / name) for name in inside)):
        return [], "it holds runs"
    files = list(files_below(folder))
    return files, None if _some_are_images(folder, files) else "it holds no images"


def _beside(folder: Path, names: list[str]) -> list[str]:
    """Sentences about files and folders that are not used, since they lie beside folders of images."""
    return [f"{folder / name} is not used, since it is beside folders of images" for name in names]


def _listing(root: Path, split: str, skipped: list[str]) -> _Split:
    """The files of one split; what is not used is added to `skipped`."""
    folder, prefix = root / split, "" if split == "." else f"{split}/"
    folders, files = _entries(folder)
    found = {name: _below(folder / name) for name in folders}
    skipped += [f"{folder / name} is not used, since {why}" for name, (_, why) in found.items() if why]
    classes = {name: inside for name, (inside, why) in found.items() if not why}
    if not classes:
        if not _some_are_images(folder, files):
            raise ValueError(f"{folder} holds no images")
        return _Split([prefix + name for name in files], None)
    images = list(itertools.islice((name for name in files if _is_image(folder / name)), len(classes)))
    if len(images) == len(classes):
        raise ValueError(
            f"{folder} holds both images ({images[0]}) and folders of images ({next(iter(classes))}): move away "
            "those that are not to be used, or move the images into a class folder of their own"
        )
    skipped += _beside(folder, files)
    return _Split(
        [f"{prefix}{name}/{file}" for name, inside in classes.items() for file in inside],
        [name for name, inside in classes.items() for _ in inside],
    )


def _labels(classes: list[str], class_names: tuple[str, ...]) -> np.ndarray:
    number = {name: label for label, name in enumerate(class_names)}
    return np.array([number[name] for name in classes], dtype=np.int64)
