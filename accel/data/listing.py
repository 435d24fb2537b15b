"""Lists of image files, and their decoding."""

import contextlib
import io
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from accel.common.files import read_file
from accel.common.memory import refuse_larger
from accel.data.images import Dataset, ImageSet, held_out
from accel.data.resize import fit, fit_whole, pillow

SHOWN = 20  # number of sentences to show about files that were left out
LARGEST_FILE = 1 << 28  # maximal size of an image file in bytes
LARGE = 1 << 24  # images of at least so many pixels, 64 MB per step of decoding, are decoded one at a time
_one_large = threading.Lock()


@dataclass(frozen=True)
class Listing:
    """The files of a data set before decoding, training files first.

    Attributes:
        name: the name or path by which the set is loaded.
        folder: the folder to which file names are relative.
        files: n names; the first `num_train` are training images, the others are held out.
        labels: int64 (n,), classes counted from 0, or None.
        class_names: one name per label, or None.
        supervised: bool (num_train,), or None for all: see `Dataset`.
        skipped: one sentence for each file or folder of the source that is not used.
    """

    name: str
    folder: Path
    files: Sequence[str]
    num_train: int
    labels: np.ndarray | None = None
    class_names: tuple[str, ...] | None = None
    supervised: np.ndarray | None = None
    skipped: tuple[str, ...] = ()

    def with_test(self) -> "Listing":
        """This listing, or, without test files, one with a tenth held out; see `accel.data.load`."""
        if self.num_train < len(self.files):
            return self
        train, test = held_out(self.name, len(self.files))
        return self._rearranged(np.concatenate([train, test]), len(train))

    def decode(self, image_size: int | None, *, strict: bool = False) -> Dataset:
        """Decodes all files in parallel, into memory; files that are not images are left out (`Dataset.left_out`).

        Raises ValueError, which names the file, for a size that differs from the first without image_size, or, if
        `strict`, for a file that is not a complete image or is not used; also for a split without images; ImportError
        without Pillow.
        """
        pillow()
        if strict and self.skipped:
            raise ValueError(self.skipped[0])
        paths = [self.folder / file for file in self.files]
        bad: dict[int, str] = {}
        images: np.ndarray | None = None
        first = 0

        def decode(index: int) -> np.ndarray | None:
            try:
                return decode_file(paths[index], image_size)
            except ValueError as error:
                if strict:
                    raise
                bad[index] = str(error).replace("\n", " ")
                return None

        with ThreadPoolExecutor() as pool:
            try:
                for index, image in enumerate(pool.map(decode, range(len(paths)))):
                    if image is None:
                        continue
                    if images is None:
                        refuse_larger(
                            len(paths) * image.nbytes,
                            self.name,
                            "give a smaller --image-size, or pack it once with python -m accel pack",
                        )
                        images, first = np.empty((len(paths), *image.shape), dtype=np.uint8), index
                    if image.shape != images.shape[1:]:
                        sizes = [f"{width}×{height}" for height, width, _ in (images.shape[1:], image.shape)]
                        raise ValueError(
                            f"{paths[first]} is {sizes[0]} pixels, but {paths[index]} is {sizes[1]}: "
                            "give an image size (--image-size) to which all are resized"
                        )
                    images[index] = image
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        kept = [index for index in range(len(paths)) if index not in bad]
        if bad:
            refuse_empty_split(self.name, sum(index < self.num_train for index in kept), len(kept), min(bad.items())[1])
        assert images is not None  # a listing has files, and those of a split that are all bad were just refused
        left_out = *self.skipped, *(bad[index] for index in sorted(bad))
        dataset = self.chosen(kept).dataset(images[kept]) if bad else self.dataset(images)
        return replace(dataset, left_out=left_out)

    def chosen(self, kept: list[int]) -> "Listing":
        """The files with these indices, which must be sorted."""
        return self._rearranged(kept, sum(index < self.num_train for index in kept))

    def _rearranged(self, order: Sequence[int] | np.ndarray, num_train: int) -> "Listing":
        """The files of these indices, of which the first `num_train`, all to train on before, are to train on."""
        return replace(
            self,
            files=[self.files[index] for index in order],
            num_train=num_train,
            labels=None if self.labels is None else self.labels[order],
            supervised=None if self.supervised is None else self.supervised[order[:num_train]],
        )

    def dataset(self, images: np.ndarray) -> Dataset:
        """The data set of these files with pixels uint8 (n, H, W, 3)."""
        split = slice(self.num_train), slice(self.num_train, None)
        train, test = (ImageSet(images[s], None if self.labels is None else self.labels[s]) for s in split)
        return Dataset(self.name, train, test, self.class_names, supervised=self.supervised)


def refuse_empty_split(name: str, train: int, both: int, first_problem: str) -> None:
    """Raises ValueError unless there are readable files for both training and testing."""
    for count, split in ((train, "training"), (both - train, "held-out")):
        if count == 0:
            raise ValueError(f"no {split} image of {name} can be read; {first_problem}")


def left_out_lines(sentences: Sequence[str]) -> str:
    """Text for the terminal about files that were left out: the first few sentences, and the number of others."""
    lines = [f"left out: {sentence}" for sentence in sentences[:SHOWN]]
    if len(sentences) > SHOWN:
        lines.append(f"left out: {len(sentences) - SHOWN:,} more")
    return "\n".join(lines)


class Whole(NamedTuple):
    """An image of nearly a whole picture: uint8 (H, W, 3), and its edges and pixel width in pixels of the picture."""

    pixels: np.ndarray
    left: float
    top: float
    pixel: float


def decode_file(file: Path, image_size: int | None) -> np.ndarray:
    """One file as uint8 (H, W, 3), resized as `resize.fit` does; ValueError, which names it, if it is no image."""
    try:
        return decode(read_file(file, LARGEST_FILE), image_size)
    except Exception as error:  # decoders of damaged files raise errors of many types
        raise ValueError(f"{file} {problem(error)}") from error


def problem(error: Exception) -> str:
    """The problem of a file that was not decoded, as the end of a sentence that begins with its name."""
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "is not an image that Pillow can read"
    return f"cannot be read as an image: {error}"


def decode(content: bytes, image_size: int | None) -> np.ndarray:
    """The bytes of an image file as uint8 (H, W, 3); raises the errors of Pillow's decoders."""
    with _upright(content) as picture:
        return np.asarray(picture if image_size is None else fit(picture, image_size))


def decode_whole(content: bytes, image_size: int, cell: int) -> Whole:
    """The bytes of an image file, resized as by `resize.fit_whole`; raises the errors of Pillow's decoders."""
    with _upright(content) as picture:
        resized, *place = fit_whole(picture, image_size, cell)
        return Whole(np.asarray(resized), *place)


@contextlib.contextmanager
def _upright(content: bytes) -> Iterator[Any]:
    """The RGB picture in the bytes of an image file, rotated by EXIF; one large picture at a time."""
    opened = pillow().open(io.BytesIO(content))
    with opened, _one_large if opened.width * opened.height >= LARGE else contextlib.nullcontext():
        yield upright_rgb(opened)


def upright_rgb(opened: Any) -> Any:
    """Converts any PIL image to RGB, rotated by EXIF; ValueError for pixels that are 32-bit numbers."""
    from PIL import ImageOps

    picture = ImageOps.exif_transpose(opened)
    # Pillow before 11 opens 16-bit grey PNG files in a 32-bit mode
    if picture.mode.startswith("I;16") or (picture.mode == "I" and opened.format == "PNG"):
        levels = np.asarray(picture).astype(np.int64)
        picture = pillow().fromarray(((levels * 255 + 32767) // 65535).astype(np.uint8))
    elif picture.mode in ("I", "F"):
        raise ValueError("its pixels are 32-bit numbers, expected 8 or 16 bits")
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        white = pillow().new("RGBA", picture.size, "white")
        return pillow().alpha_composite(white, picture.convert("RGBA")).convert("RGB")
    return picture.convert("RGB")
