"""Images in folders: which files they are, and what they are called."""

import re
from pathlib import Path

import numpy as np

from accel.data.listing import Listing

TRAIN, HELD_OUT = "train", ("test", "val")  # folders of splits
DEPOSITS = ("thumbs.db", "desktop.ini")  # left by file managers, ignored like hidden files


def list_folder(folder: Path) -> Listing:
    """The images of a folder; nothing is held out if the folder has no test images.

    The folder holds either images (without labels), or one folder of images a class, or `train/` with `test/` or
    `val/`, each laid out in one of these ways. Files and classes are taken in natural order (img2 before img10);
    labels count the classes of the training images. Once decoded, images are RGB: upright as EXIF says, grey repeated,
    transparency laid over white, 16 bits brought to 8, the first of several frames. Hidden files and folders
    (.DS_Store), Thumbs.db and desktop.ini are ignored.

    Raises ValueError that names a file or folder which is not where it should be.
    """
    folders, files = _entries(folder)
    names = {entry.name for entry in folders}
    if not names or not names <= {TRAIN, *HELD_OUT}:
        train_folder, test_folder = folder, None
    elif TRAIN not in names or len(names) > 2 or files:
        found = ", ".join([f"{entry.name}/" for entry in folders] + [entry.name for entry in files[:1]])
        raise ValueError(f"{folder} holds {found}, expected train/ and one of test/ and val/, and nothing else")
    else:
        train_folder = folder / TRAIN
        test_folder = next((folder / name for name in HELD_OUT if name in names), None)

    train_files, train_classes = _listing(train_folder)
    test_files, test_classes = _listing(test_folder) if test_folder else ([], train_classes and [])
    if (train_classes is None) != (test_classes is None):
        raise ValueError(f"one of {train_folder} and {test_folder} has class folders, expected both or neither")
    class_names = None if train_classes is None else tuple(dict.fromkeys(train_classes))
    unknown = set(test_classes or ()) - set(class_names or ())
    if unknown:
        raise ValueError(f"{test_folder} has the class folder {min(unknown)}, which {train_folder} has not")

    files = [*train_files, *test_files]
    return Listing(
        str(folder),
        folder,
        [str(file.relative_to(folder)) for file in files],
        num_train=len(train_files),
        labels=None if class_names is None else _labels([*train_classes, *test_classes], class_names),
        class_names=class_names,
    )


def _natural(path: Path) -> tuple:
    runs = re.split(r"([0-9]+)", path.name)
    return [int(run) if i % 2 else run for i, run in enumerate(runs)], path.name


def _entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """The folders and the files of a folder, in natural order, without those that are ignored."""
    shown = [e for e in folder.iterdir() if not e.name.startswith(".") and e.name.lower() not in DEPOSITS]
    shown.sort(key=_natural)
    return [e for e in shown if e.is_dir()], [e for e in shown if not e.is_dir()]


def _listing(folder: Path) -> tuple[list[Path], list[str] | None]:
    """The files of one split, and the class of each; None where there are no class folders."""
    folders, files = _entries(folder)
    if folders and files:
        raise ValueError(
            f"{folder} holds files ({files[0].name}) beside folders ({folders[0].name}), "
            "expected images alone or one folder a class"
        )
    if not folders and not files:
        raise ValueError(f"{folder} holds no images")
    if not folders:
        return files, None
    classes = []
    for class_folder in folders:
        deeper, inside = _entries(class_folder)
        if deeper:
            raise ValueError(f"{deeper[0]} is a folder, expected images alone in the class folder {class_folder}")
        if not inside:
            raise ValueError(f"{class_folder} holds no images, expected those of its class")
        files += inside
        classes += [class_folder.name] * len(inside)
    return files, classes


def _labels(classes: list[str], class_names: tuple[str, ...]) -> np.ndarray:
    number = {name: label for label, name in enumerate(class_names)}
    return np.array([number[name] for name in classes], dtype=np.int64)
