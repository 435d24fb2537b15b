"""Lists of image files, and the pixels of a file."""

import contextlib
import io
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from accel.common.files import read_file
from accel.common.memory import refuse_larger
from accel.data.images import Dataset, ImageSet, held_out
from accel.data.resize import fit, pillow

LARGEST_FILE = 1 << 28  # bytes of an image's file
LARGE = 1 << 24  # pixels, which take 64 MB a step of decoding, from which images are decoded one at a time
_one_large = threading.Lock()


@dataclass(frozen=True)
class Listing:
    """The files of a data set before they are decoded, those to train on first.

    Attributes:
        name: the name or path that the set is loaded by.
        folder: what the names of files are relative to.
        files: n names; `num_train` of them are to train on, the others are held out.
        labels: int64 (n,), classes counted from 0, or None.
        class_names: one name a label, or None.
        supervised: bool (num_train,), or None for all: see `Dataset`.
    """

    name: str
    folder: Path
    files: Sequence[str]
    num_train: int
    labels: np.ndarray | None = None
    class_names: tuple[str, ...] | None = None
    supervised: np.ndarray | None = None

    def with_test(self) -> "Listing":
        """Itself, or a listing of which a tenth is held out where nothing is; see `accel.data.load`."""
        if self.num_train < len(self.files):
            return self
        train, test = held_out(self.name, len(self.files))
        order = np.concatenate([train, test])
        labels = None if self.labels is None else self.labels[order]
        return replace(self, files=[self.files[i] for i in order], num_train=len(train), labels=labels)

    def decode(self, image_size: int | None) -> Dataset:
        """All files decoded in parallel, in memory.

        Raises ValueError that names a file which is no image, is truncated, or differs in size from the first where no
        image_size is given; ImportError without Pillow.
        """
        pillow()
        paths = [self.folder / file for file in self.files]
        first = decode_file(paths[0], image_size)
        refuse_larger(
            len(paths) * first.nbytes,
            self.name,
            "give a smaller --image-size, or pack it once with python -m accel pack",
        )
        images = np.empty((len(paths), *first.shape), dtype=np.uint8)

        def decode(index: int) -> None:
            image = decode_file(paths[index], image_size)
            if image.shape != first.shape:
                sizes = [f"{width}×{height}" for height, width, _ in (first.shape, image.shape)]
                raise ValueError(
                    f"{paths[0]} is {sizes[0]} pixels, but {paths[index]} is {sizes[1]}: "
                    "give an image size (--image-size) to which all are brought"
                )
            images[index] = image

        with ThreadPoolExecutor() as pool:
            try:
                for _ in pool.map(decode, range(len(paths))):
                    pass
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return self.dataset(images)

    def dataset(self, images: np.ndarray) -> Dataset:
        """The data set of these files, whose pixels are uint8 (n, H, W, 3)."""
        split = slice(self.num_train), slice(self.num_train, None)
        train, test = (ImageSet(images[s], None if self.labels is None else self.labels[s]) for s in split)
        return Dataset(self.name, train, test, self.class_names, supervised=self.supervised)


def decode_file(file: Path, image_size: int | None) -> np.ndarray:
    """One file as uint8 (H, W, 3), resized as `resize.fit` does; ValueError names a file that is no whole image."""
    try:
        return decode(read_file(file, LARGEST_FILE), image_size)
    except Exception as error:  # decoders of damaged files raise errors of many types
        raise ValueError(f"{file} {problem(error)}") from error


def problem(error: Exception) -> str:
    """What is wrong with a file that was not decoded, as the end of a sentence that begins with its name."""
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "is not an image that Pillow can read"
    return f"cannot be read as an image: {error}"


def decode(content: bytes, image_size: int | None) -> np.ndarray:
    """The bytes of an image file as uint8 (H, W, 3); raises whatever Pillow's decoders do."""
    from PIL import ImageOps

    opened = pillow().open(io.BytesIO(content))
    with opened, _one_large if opened.width * opened.height >= LARGE else contextlib.nullcontext():
        upright = _rgb(ImageOps.exif_transpose(opened), opened.format)
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
