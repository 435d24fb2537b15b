"""Images in NumPy's .npz files, and checks of arrays of images and labels."""

import math
import zipfile
import zlib
from pathlib import Path

import numpy as np

from accel.common.describing import REASON, first_line, printable
from accel.common.files import is_zip, refuse_unusual
from accel.common.memory import refuse_larger
from accel.common.spelling import nearest
from accel.data.images import Dataset, ImageSet
from accel.data.resize import fit_array

KEYS = ("train_images", "train_labels", "test_images", "test_labels", "class_names", "images", "labels")
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
LIKENESS = 0.85  # similarity to a known name from which another name counts as misspelt


def read_npz(path: Path, image_size: int | None = None) -> Dataset:
    """The images of a .npz file; `test` is empty if the file has no test images.

    The file holds `train_images` or `images`: uint8 (n, H, W), (n, H, W, 1) or (n, H, W, 3). It may hold `train_labels`
    (`labels`), integers from 0, (n,) or (n, 1); `test_images`, `test_labels`; and `class_names`, strings. Other arrays
    are ignored, unless their name looks like a misspelling of one of these. Nothing is unpickled.

    Raises ValueError for a file that is not a complete .npz file, or whose arrays are not as above.
    """
    refuse_unusual(path)
    if not is_zip(path):
        raise ValueError(f"{path} is not a complete .npz file: the end of a zip archive is missing")
    try:
        with zipfile.ZipFile(path) as archive:
            found = [name.removesuffix(".npy") for name in archive.namelist()]
            _check_keys(path, found)
            wanted = [key for key in KEYS if key in found]
            size = sum(_size_of(path, archive, key) for key in wanted)
            refuse_larger(
                size, path, "as a folder of images it can be packed (python -m accel pack) and read from the disk"
            )
            arrays = {key: _read_array(path, archive, key) for key in wanted}
    except MemoryError:
        raise
    except Exception as error:  # a damaged file fails in too many ways to list
        if isinstance(error, ValueError) and str(path) in str(error):
            raise  # one of the sentences above
        raise ValueError(f"{path} is damaged: {first_line(error)}") from error

    prefix = "train_" if "train_images" in arrays else ""
    class_names = _class_names(path, arrays.get("class_names"))
    train = _image_set(path, arrays, f"{prefix}images", f"{prefix}labels", class_names)
    test = ImageSet(train.images[:0], None if train.labels is None else train.labels[:0])
    if "test_images" in arrays:
        test = _image_set(path, arrays, "test_images", "test_labels", class_names)
        if test.images.shape[1:] != train.images.shape[1:]:
            raise ValueError(
                f"{path}: test_images are {_size(test.images)}, but {prefix}images are {_size(train.images)}"
            )
    train, test = (ImageSet(fit_array(part.images, image_size), part.labels) for part in (train, test))
    return Dataset(str(path), train, test, class_names)


def _size_of(path: Path, archive: zipfile.ZipFile, key: str) -> int:
    """The size of an array in bytes, from its header only; ValueError unless all bytes are present."""
    try:
        member = _member(archive, key)
        with archive.open(member) as content:
            version = np.lib.format.read_magic(content)
            shape, _, dtype = HEADERS[version](content)
            size = math.prod(shape) * dtype.itemsize
            if dtype.hasobject:
                raise ValueError("it holds Python objects")
            if size != member.file_size - content.tell():
                raise ValueError(f"{dtype} {shape} is not {member.file_size - content.tell():,} bytes")
            return size
    except Exception as error:
        reason = first_line(error)
        raise ValueError(f"{path}: array {key} cannot be read: {reason}") from error


def _member(archive: zipfile.ZipFile, key: str) -> zipfile.ZipInfo:
    name = f"{key}.npy"
    return archive.getinfo(name if name in archive.namelist() else key)


def _read_array(path: Path, archive: zipfile.ZipFile, key: str) -> np.ndarray:
    try:
        with archive.open(_member(archive, key)) as content:
            return np.lib.format.read_array(content, allow_pickle=False)
    except (ValueError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: array {key} cannot be read: {error}") from error


def _check_keys(path: Path, found: list[str]) -> None:
    listing = ", ".join(map(printable, sorted(found)))[:REASON] or "nothing"
    if ("train_images" in found) == ("images" in found):
        raise ValueError(f"{path} must hold either train_images or images, it holds {listing}")
    for key in found:
        near = nearest(key, (name for name in KEYS if name not in found), LIKENESS)
        if key not in KEYS and near:
            raise ValueError(f"{path} holds {printable(key)}, expected {near}, or a name that is less similar to it")
    for split in ("train_", "test_", ""):
        if f"{split}labels" in found and f"{split}images" not in found:
            raise ValueError(f"{path} holds {split}labels but no {split}images, it holds {listing}")


def _size(images: np.ndarray) -> str:
    return "×".join(str(extent) for extent in images.shape[1:])


def _to_uint8(images: np.ndarray, key: str) -> str:
    """The range of numbers, and how they are converted to uint8 if it is a usual one, as the end of a sentence."""
    if images.dtype.kind not in "bifu" or images.size == 0:
        return ""
    low, high = float(images.min()), float(images.max())
    scaled = f"np.rint(255 * {key})" if images.dtype.kind in "bf" and high <= 1 else key
    hint = f": {scaled}.astype(np.uint8) converts them" if low >= 0 and high <= 255 else ""
    return f" from {low:g} to {high:g}{hint}"


def _image_set(
    path: Path, arrays: dict[str, np.ndarray], images_key: str, labels_key: str, class_names: tuple[str, ...] | None
) -> ImageSet:
    images = arrays[images_key]
    given = images.shape
    if images.dtype != np.uint8:
        hint = _to_uint8(images, images_key)
        raise ValueError(f"{path}: {images_key} must be uint8 with values 0 to 255, got {images.dtype}{hint}")
    alone = images.ndim == 3 and given[2] in (1, 3, 4) and min(given[:2]) > given[2]
    if images.ndim == 3 and not alone:
        images = images[..., None]
    if images.ndim != 4 or images.shape[3] not in (1, 3):
        hint = ""
        if alone:
            hint = f", which is that of one image: {images_key}[None] has shape (1, H, W, C)"
        elif images.ndim == 4 and given[1] in (1, 3):
            hint = f": np.moveaxis({images_key}, 1, -1) has its channels last"
        raise ValueError(f"{path}: {images_key} must have shape (n, H, W) or (n, H, W, 1 or 3), got {given}{hint}")
    if images.size == 0:
        raise ValueError(f"{path}: {images_key} is empty, its shape is {given}")
    if labels_key not in arrays:
        return ImageSet(images)

    labels = arrays[labels_key]
    if labels.shape not in ((len(images),), (len(images), 1)):
        raise ValueError(
            f"{path}: {labels_key} must hold one label for each of {len(images)} images, its shape is {labels.shape}"
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"{path}: {labels_key} must be integers, got {labels.dtype}")
    if labels.dtype == np.uint64 and labels.max() > np.iinfo(np.int64).max:
        raise ValueError(f"{path}: {labels_key} must be classes counted from 0, got {labels.max()}")
    return ImageSet(images, labels.reshape(-1).astype(np.int64))


def _class_names(path: Path, names: np.ndarray | None) -> tuple[str, ...] | None:
    if names is None:
        return None
    if names.ndim != 1 or names.dtype.kind not in "US":
        raise ValueError(f"{path}: class_names must be strings of shape (classes,), got {names.dtype} {names.shape}")
    try:
        if names.dtype.kind == "S":
            names = np.char.decode(names, "utf-8")
        return tuple(names.tolist())
    except (ValueError, SystemError) as error:  # a SystemError for a number beyond Unicode
        raise ValueError(f"{path}: class_names must be valid Unicode: {first_line(error)}") from error
