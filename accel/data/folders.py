"""Images in folders, read with Pillow."""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from accel.data.images import Dataset, ImageSet
from accel.data.resize import fit, pillow

TRAIN, HELD_OUT = "train", ("test", "val")  # folders of splits
DEPOSITS = ("thumbs.db", "desktop.ini")  # left by file managers, ignored like hidden files


def read_folder(folder: Path, image_size: int | None = None) -> Dataset:
    """The images of a folder; `test` is empty if the folder has no test images.

    The folder holds either images (without labels), or one folder of images a class, or `train/` with `test/` or
    `val/`, each laid out in one of these ways. Files and classes are taken in natural order (img2 before img10);
    labels count the classes of the training images. Images become RGB: upright as EXIF says, grey repeated,
    transparency laid over white, 16 bits brought to 8, the first of several frames. Hidden files and folders
    (.DS_Store), Thumbs.db and desktop.ini are ignored; anything else that is no image, or not where it should be, is
    an error.

    Raises ValueError that names the file or folder; among others for an image that is truncated, or that differs in
    size from the first where no image_size is given. Raises ImportError without Pillow.
    """
    pillow()
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

    images = _decode([*train_files, *test_files], image_size)
    count = len(train_files)
    return Dataset(
        str(folder),
        ImageSet(images[:count], _labels(train_classes, class_names)),
        ImageSet(images[count:], _labels(test_classes, class_names)),
        class_names,
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


def _labels(classes: list[str] | None, class_names: tuple[str, ...] | None) -> np.ndarray | None:
    if classes is None:
        return None
    number = {name: label for label, name in enumerate(class_names)}
    return np.array([number[name] for name in classes], dtype=np.int64)


def _decode(files: list[Path], image_size: int | None) -> np.ndarray:
    """All files as uint8 (n, H, W, 3), decoded in parallel."""
    first = _decode_file(files[0], image_size)
    images = np.empty((len(files), *first.shape), dtype=np.uint8)

    def decode(index: int) -> None:
        image = _decode_file(files[index], image_size)
        if image.shape != first.shape:
            sizes = [f"{width}×{height}" for height, width, _ in (first.shape, image.shape)]
            raise ValueError(
                f"{files[0]} is {sizes[0]} pixels, but {files[index]} is {sizes[1]}: "
                "give an image size (--image-size) to which all are brought"
            )
        images[index] = image

    with ThreadPoolExecutor() as pool:
        try:
            for _ in pool.map(decode, range(len(files))):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return images


def _decode_file(file: Path, image_size: int | None) -> np.ndarray:
    """One file as uint8 (H, W, 3)."""
    from PIL import ImageOps, UnidentifiedImageError

    try:
        with pillow().open(file) as opened:
            upright = _rgb(ImageOps.exif_transpose(opened), opened.format)
    except UnidentifiedImageError as error:
        raise ValueError(f"{file} is not an image that Pillow can read") from error
    except Exception as error:  # decoders of damaged files raise errors of many types
        raise ValueError(f"{file} cannot be read as an image: {error}") from error
    return np.asarray(upright if image_size is None else fit(upright, image_size))


def _rgb(picture, file_format: str | None):
    """An RGB picture of any PIL picture."""
    # Pillow before 11 opens grey PNG files of 16 bits in its mode of 32
    if picture.mode.startswith("I;16") or (picture.mode == "I" and file_format == "PNG"):
        levels = np.asarray(picture).astype(np.int64)
        picture = pillow().fromarray(((levels * 255 + 32767) // 65535).astype(np.uint8))
    elif picture.mode in ("I", "F"):
        raise ValueError("its pixels are 32-bit numbers, expected 8 or 16 bits")
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        white = pillow().new("RGBA", picture.size, "white")
        return pillow().alpha_composite(white, picture.convert("RGBA")).convert("RGB")
    return picture.convert("RGB")
