"""`load`: images from any source, given by name or path."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from accel.common.spelling import nearest
from accel.data.arrays import read_npz
from accel.data.cifar import CIFAR10, CIFAR100, read_cifar
from accel.data.folders import list_folder
from accel.data.images import Dataset
from accel.data.listing import Listing
from accel.data.looks import LOOKS
from accel.data.packed import read_packed
from accel.data.parts import draw_parts
from accel.data.published import PUBLISHED
from accel.data.words import SUBSET_STREAM, random_order

NAMES = ("parts", "cifar10", "cifar100", *PUBLISHED)
DATA_DIR = "data"  # under the current directory
PARTS_TRAIN, PARTS_TEST = 8000, 2000
PARTS_TYPES = 8
LIKENESS = 0.6  # minimal similarity of a name that an error proposes
FIRST_TEST_IMAGE = 1 << 40  # index in the generator; training images count from 0


def load(
    data: str | Path,
    *,
    image_size: int | None = None,
    data_dir: str | Path | None = None,
    seed: int = 0,
    train_images: int | None = None,
    strict: bool = False,
) -> Dataset:
    """Loads the images of a named data set or a path.

    - `"parts"`: the generated set (`draw_parts`), with ground truth; 2000 held-out images of the same seed.
    - `"cifar10"`, `"cifar100"`: the original python archives, read from `data_dir` and downloaded on first use.
    - `"indoor67"`, `"places205"`, `"imagenet"`: as published, in folders of these names in `data_dir` (see
      `published`), or packed in a file such as `imagenet.npy` there; the last two must be packed.
    - a `.npz` file: see `arrays.read_npz`. A folder of images: see `folders.list_folder`.
    - a `.npy` file that `pack` wrote: see `packed.read_packed`.

    A name denotes the data set even if a folder of the same name exists; write `./parts` for the folder. If a source
    has no test images, a tenth of its images is held out, chosen by a permutation that depends only on their number.

    Args:
        image_size: height and width of the images. `parts` is generated at that size (default 32); others are resized
            so that their shorter side has it, and cropped about the centre (needs Pillow); by default they keep their
            size.
        data_dir: folder that holds the named data sets as published, by default `data` in the current directory.
        seed: random seed of the images of `parts`.
        train_images: number of training images to use (default: 8000 for `parts`, else all); a smaller number is
            chosen by a fixed permutation.
        strict: raise an error for files of a folder that are not complete images or are not used, instead of leaving
            them out (`Dataset.left_out`).

    Raises:
        FileNotFoundError: `data` is neither a known name nor an existing path.
        ValueError, OSError: the source is damaged or has unexpected content; the message names the file.
        ImportError: Pillow is needed and missing.
    """
    if train_images is not None and train_images < 1:
        raise ValueError(f"train_images must be at least 1, got {train_images}")
    if image_size is not None and image_size < 1:
        raise ValueError(f"image_size must be at least 1, got {image_size}")
    name, path = str(data), Path(data)
    if name == "parts":
        return _parts(image_size or 32, seed, train_images or PARTS_TRAIN)
    if name in ("cifar10", "cifar100"):
        archive = CIFAR10 if name == "cifar10" else CIFAR100
        dataset = read_cifar(archive, Path(data_dir or DATA_DIR), image_size)
    elif name in PUBLISHED:
        dataset = _published(name, Path(data_dir or DATA_DIR), image_size)
    elif path.is_dir():
        dataset = list_folder(path).with_test().decode(image_size, strict=strict)
    elif path.is_file() and path.suffix.lower() == ".npz":
        dataset = read_npz(path, image_size)
    elif path.is_file() and path.suffix.lower() == ".npy":
        dataset = read_packed(path, image_size)
    elif path.exists():
        raise ValueError(f"{name} is neither a folder of images nor a .npz file nor a packed .npy file")
    else:
        raise FileNotFoundError(_not_found(name, path))
    return _with_train_images(dataset.with_test(), train_images)


def listing(data: str | Path, data_dir: str | Path | None = None) -> Listing:
    """The image files of a named data set or a folder, which `load` would decode; for `pack`.

    Raises ValueError for a source that does not consist of image files, and other errors as `load`.
    """
    name, path = str(data), Path(data)
    if name in PUBLISHED:
        return PUBLISHED[name].listing(Path(data_dir or DATA_DIR))
    if name in NAMES or path.is_file():
        raise ValueError(f"{name} cannot be packed, expected a folder of images or {', '.join(PUBLISHED)}")
    if not path.is_dir():
        raise FileNotFoundError(_not_found(name, path))
    return list_folder(path)


def _published(name: str, data_dir: Path, image_size: int | None) -> Dataset:
    packed = data_dir / f"{name}.npy"
    if packed.exists():
        return replace(read_packed(packed, image_size), name=name)
    files = PUBLISHED[name].listing(data_dir)
    if not PUBLISHED[name].fits:
        raise ValueError(
            f"{name} is too large to be decoded for every run: pack it once with python -m accel pack {name} {packed} "
            f"--data-dir {data_dir} --image-size {image_size or 224}"
        )
    return files.decode(image_size, strict=True)


def _not_found(name: str, path: Path) -> str:
    close: str | Path | None = nearest(name.lower(), NAMES, LIKENESS)
    if close is None and path.parent.is_dir():
        neighbour = nearest(path.name, (entry.name for entry in path.parent.iterdir()), LIKENESS)
        close = path.parent / neighbour if neighbour else None
    hint = f" (nearest: {close})" if close else ""
    kinds = "a .npz file, a packed .npy file or a folder of images"
    return f"no such data: {name}{hint}; expected {', '.join(NAMES)}, {kinds}"


def _parts(image_size: int, seed: int, train_images: int) -> Dataset:
    options = {"image_size": image_size, "seed": seed, "num_types": PARTS_TYPES}
    names = tuple(look.name for look in LOOKS[:PARTS_TYPES])
    return Dataset(
        "parts",
        train=draw_parts(train_images, **options),
        test=draw_parts(PARTS_TEST, first_image=FIRST_TEST_IMAGE, **options),
        class_names=names,  # the class has the name of the type that beats the other
        part_names=names,
        flip=False,  # two-sided rings have a left and a right
    )


def _with_train_images(dataset: Dataset, train_images: int | None) -> Dataset:
    count = len(dataset.train)
    if train_images is None or train_images == count:
        return dataset
    if train_images > count:
        raise ValueError(f"train_images is {train_images}, but {dataset.name} has {count} training images")
    some = np.sort(random_order(SUBSET_STREAM, 0, 0, count)[:train_images])
    supervised = None if dataset.supervised is None else dataset.supervised[some]
    return replace(dataset, train=dataset.train.chosen(some), supervised=supervised, packed=None)
