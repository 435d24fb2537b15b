"""CIFAR-10 and CIFAR-100 from the original python archives (Krizhevsky 2009), downloaded on first use."""

import hashlib
import http.client
import os
import tarfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from accel.common.describing import in_one_line
from accel.common.progress import progress, say
from accel.data.images import Dataset, ImageSet
from accel.data.resize import fit_array
from accel.data.safe_pickle import safe_unpickle

BLOCK = 1 << 20  # bytes read at once
TIMEOUT = 30  # seconds without a byte


@dataclass(frozen=True)
class Archive:
    """An archive: its URL, its published checksum, and the names of its contents."""

    name: str
    url: str
    md5: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    labels: bytes  # key in a batch
    meta: str
    class_names: bytes  # key in the meta file

    @property
    def file_name(self) -> str:
        """The file name on the server."""
        return self.url.rsplit("/", 1)[-1]


CIFAR10 = Archive(
    name="cifar10",
    url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    md5="c58f30108f718f92721af3b95e74349a",
    train=tuple(f"cifar-10-batches-py/data_batch_{i}" for i in range(1, 6)),
    test=("cifar-10-batches-py/test_batch",),
    labels=b"labels",
    meta="cifar-10-batches-py/batches.meta",
    class_names=b"label_names",
)
CIFAR100 = Archive(
    name="cifar100",
    url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    md5="eb9058c3a382ffc7106e4002c42a8d85",
    train=("cifar-100-python/train",),
    test=("cifar-100-python/test",),
    labels=b"fine_labels",
    meta="cifar-100-python/meta",
    class_names=b"fine_label_names",
)


def read_cifar(archive: Archive, data_dir: Path, image_size: int | None = None) -> Dataset:
    """The images of an archive in `data_dir`, downloaded if it is not there; CIFAR-100 has its fine labels.

    Nothing is unpacked to disk, and no code in the archive is executed: see `safe_unpickle`.

    Raises OSError if there is no archive and none can be downloaded, ValueError if it is not the published one.
    """
    path = Path(data_dir) / archive.file_name
    if not path.exists():
        download(archive, path)
    elif _md5(path) != archive.md5:
        raise ValueError(
            f"{path} is not the published archive (its MD5 checksum is not {archive.md5}): "
            f"remove it to download it again, or put the file from {archive.url} there"
        )
    try:
        with tarfile.open(path, "r:gz") as tar:
            wanted = {*archive.train, *archive.test, archive.meta}
            members = {
                m.name: safe_unpickle(file)
                for m in tar
                if m.name in wanted and (file := tar.extractfile(m)) is not None
            }
        names = tuple(name.decode() for name in members[archive.meta][archive.class_names])
        train, test = (_batches([members[name] for name in part], archive) for part in (archive.train, archive.test))
        train, test = (ImageSet(fit_array(part.images, image_size), part.labels) for part in (train, test))
        return Dataset(archive.name, train, test, names)
    except (MemoryError, ImportError, PermissionError, FileNotFoundError):  # of Pillow, or not of the content
        raise
    except Exception as error:  # another content fails in too many ways to list
        raise ValueError(f"{path} does not have the content of {archive.name}: {in_one_line(error)}") from error


def _batches(batches: list[dict[bytes, Any]], archive: Archive) -> ImageSet:
    rows = np.concatenate([batch[b"data"] for batch in batches])
    labels = np.concatenate([np.array(batch[archive.labels], dtype=np.int64) for batch in batches])
    if rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != 3 * 32 * 32 or labels.shape != (len(rows),):
        raise ValueError(f"expected uint8 rows of 3072 and a label for each, got {rows.dtype} {rows.shape}")
    planes = rows.reshape(-1, 3, 32, 32)  # channels first
    return ImageSet(np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels)


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def download(archive: Archive, path: Path) -> None:
    """Downloads archive.url to `path`, first to a .part file, which is renamed once its checksum is verified.

    Raises OSError, after removing the .part file, if the download fails or the checksum is wrong.
    """
    made = not path.parent.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    digest = hashlib.md5(usedforsecurity=False)
    try:
        with part.open("wb") as file:
            for block in _fetch(archive, path):
                digest.update(block)
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        if digest.hexdigest() != archive.md5:
            raise _not_downloaded(archive, path, f"the MD5 checksum of the download is not {archive.md5}")
        os.replace(part, path)
    except OSError as error:
        if error.errno is None:  # already has a message
            raise
        raise OSError(f"{part} could not be written: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)
        if made and not path.exists():
            path.parent.rmdir()


def _not_downloaded(archive: Archive, path: Path, reason: object) -> OSError:
    return OSError(
        f"{archive.name} could not be downloaded ({reason}): "
        f"put {archive.file_name} from {archive.url} into {path.parent.resolve()}"
    )


def _fetch(archive: Archive, path: Path) -> Iterator[bytes]:
    """The blocks of a download, with a progress bar if tqdm is installed and the output is a terminal."""
    try:
        with urllib.request.urlopen(archive.url, timeout=TIMEOUT) as response:
            total = int(response.headers.get("Content-Length", 0))
            say(f"downloading {archive.url} ({total / 2**20:.0f} MiB) to {path.parent}", error=True)
            received = 0
            with progress(total, unit="B", unit_scale=True) as advance:
                while block := response.read(BLOCK):
                    received += len(block)
                    advance(len(block))
                    yield block
    except (OSError, http.client.HTTPException) as error:
        raise _not_downloaded(archive, path, _reason(error)) from error
    if received < total:
        raise _not_downloaded(archive, path, f"the connection broke off after {received} of {total} bytes")


def _reason(error: Exception) -> object:
    cause = getattr(error, "reason", error)  # urllib wraps what happened
    return getattr(cause, "strerror", None) or cause
