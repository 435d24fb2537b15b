"""Packed data sets: image files decoded once into one .npy file, from which batches are read without decoding.

NAME.npy is an ordinary array, uint8 (n, H, W, 3), training images first; NAME.json describes the images. During
packing, the array is NAME.npy.partial, which only grows, and NAME.npy.journal records the result of each file so far.
An entry is written after its pixels are on the disk, so that packing can continue from any prefix of the journal after
any interruption.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
import zlib
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

import numpy as np

from accel.common.describing import first_line
from accel.common.files import parse_json, read_file, refuse_unusual, write_whole
from accel.common.progress import progress
from accel.common.schema import refuse_other
from accel.common.workers import end_with_parent
from accel.data.digests import digest, digests
from accel.data.images import Dataset
from accel.data.listing import LARGEST_FILE, Listing, decode, problem, refuse_empty_split
from accel.data.resize import pillow

FORMAT = "patchvae packed 1"
CHUNK = 64  # files per task of a process
COMMIT_EVERY = 1.0  # seconds of work that an interruption may lose
LARGEST_ABOUT = 1 << 30  # bytes of a .json


class About(TypedDict):
    """The content of the .json file of a packed array.

    digests: of training and held-out images; files of earlier versions have none.
    """

    format: str
    source: NotRequired[str]
    image_size: NotRequired[int]
    contents: str
    names: list[str]
    train: int
    labels: list[int] | None
    class_names: list[str] | None
    supervised: list[bool] | None
    crc32: list[int]
    bad: dict[str, str]
    digests: NotRequired[dict[str, str]]


Outcomes = list[int | str]  # for each file: the CRC-32 of its content, or a sentence with the reason why it is left out


@dataclass(frozen=True)
class Packed:
    """A packed array: path, numbers of training and held-out images, and files left out, each with a reason."""

    path: Path
    num_train: int
    num_test: int
    bad: dict[str, str]

    @property
    def bad_list(self) -> Path:
        """The text file with one line for each file that was left out, if any."""
        return _bad_list(self.path)


def pack(listing: Listing, out: Path, image_size: int) -> Packed:
    """Decodes the files of a listing into `out`, with one process per available CPU core.

    Images are resized to (image_size, image_size) as in `load`. Files that cannot be decoded are left out. After an
    interruption, another call continues; after completion, another call compares the packed array and its source files
    with their checksums.

    Raises:
        ValueError: `out` is not a .npy file; or no file of a split can be decoded; or the interrupted packing had other
            files or another size; or a source file or the packed array has changed.
        FileExistsError: `out` exists and has other content.
        OSError: a file cannot be written, or a process was killed; finished work is kept.
        KeyboardInterrupt: after Ctrl-C, with a message; finished work is kept.
        ImportError: Pillow is missing.
    """
    pillow()
    if out.suffix != ".npy":
        raise ValueError(f"{out} must end in .npy")
    listing = listing.with_test()
    contents = _digest(listing, image_size)
    if out.exists():
        about = _description(out) if out.with_suffix(".json").exists() else None
        if about is None or about["contents"] != contents:
            raise FileExistsError(
                f"{out} exists, and was not packed from these files at --image-size {image_size}: "
                "remove it or choose another name"
            )
        _refuse_changed(listing.folder, dict(zip(about["names"], about["crc32"], strict=True)), out)
        digests(read_packed(out), labels=False)
    else:
        about = _Packing(listing, out, image_size, contents).run()
    _journal(out).unlink(missing_ok=True)
    return Packed(out, about["train"], len(about["names"]) - about["train"], about["bad"])


def read_packed(path: Path, image_size: int | None = None) -> Dataset:
    """The images of a packed array, memory-mapped.

    Raises ValueError if the array or its .json file is missing or damaged, or the size differs from image_size.
    """
    about = _description(path)
    refuse_unusual(path)
    try:
        images = np.lib.format.open_memmap(path, mode="r")  # np.load would open a zip as an archive
    except Exception as error:  # a damaged header fails in too many ways to list
        reason = first_line(error)
        reason = "it holds Python objects" if "Python object" in reason or "pickle" in reason else reason
        raise ValueError(f"{path} is not a complete .npy file: {reason}") from None
    names = about["names"]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or len(images) != len(names):
        raise ValueError(
            f"{path} holds {images.dtype} {images.shape}, but {path.with_suffix('.json').name} beside it describes "
            f"{len(names)} images"
        )
    if image_size is not None and images.shape[1:3] != (image_size, image_size):
        raise ValueError(
            f"{path} holds images of {images.shape[1]}×{images.shape[2]}: pack them again with --image-size "
            f"{image_size}, or leave the size out"
        )
    train = about["train"]
    for name, values, count in (
        ("labels", about["labels"], len(names)),
        ("supervised", about["supervised"], train),
        ("crc32", about["crc32"], len(names)),
    ):
        if values is not None and len(values) != count:
            raise ValueError(f"{path.with_suffix('.json')}: {name} must be {count:,} values, got {len(values):,}")
    if not 0 < train < len(names):
        raise ValueError(f"{path.with_suffix('.json')}: train must be from 1 to {len(names) - 1:,}, got {train}")
    files = Listing(
        str(path),
        path.parent,
        names,
        num_train=train,
        labels=_array(about["labels"], np.int64),
        class_names=None if about["class_names"] is None else tuple(about["class_names"]),
        supervised=_array(about["supervised"], bool),
    )
    return dataclasses.replace(files.dataset(images), packed=about.get("digests"))


def _array(values: Sequence[Any] | None, dtype: type) -> np.ndarray | None:
    return None if values is None else np.array(values, dtype)


def _description(path: Path) -> About:
    """The content of the .json file of a packed array; ValueError if it is missing or invalid."""
    about = path.with_suffix(".json")
    try:
        values = parse_json(read_file(about, LARGEST_ABOUT), about)
    except FileNotFoundError:
        raise ValueError(
            f"{about} is missing, which pack writes beside every .npy file: save other arrays of images with "
            "np.savez('FILE.npz', images=array)"
        ) from None
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise ValueError(
            f"{about} is not of format {FORMAT!r}, expected the description that pack writes beside {path}"
        )
    refuse_other(values, About, about)
    return cast(About, values)


def _refuse_changed(folder: Path, crcs: dict[str, int], out: Path) -> None:
    """Raises ValueError, which names the file, for a source file that has changed since it was packed into `out`."""

    def same(name: str) -> bool:
        return zlib.crc32(read_file(folder / name, LARGEST_FILE)) == crcs[name]

    with ThreadPoolExecutor() as pool:
        for name, unchanged in zip(crcs, pool.map(same, crcs), strict=True):
            if not unchanged:
                pool.shutdown(cancel_futures=True)
                raise ValueError(
                    f"{folder / name} has changed since it was packed into {out}: remove that file to pack again"
                )


def _journal(out: Path) -> Path:
    return out.with_name(out.name + ".journal")


def _bad_list(out: Path) -> Path:
    return out.with_suffix(".bad.txt")


def _digest(listing: Listing, image_size: int) -> str:
    """A digest that identifies a packing: the image size, and names, lengths and splits of the files."""
    lengths = []
    for file in listing.files:
        try:
            lengths.append(os.stat(listing.folder / file).st_size)
        except OSError:  # to be reported when it is decoded
            lengths.append(-1)
    labels, supervised = (part if part is None else part.tolist() for part in (listing.labels, listing.supervised))
    work = [
        FORMAT,
        image_size,
        list(listing.files),
        lengths,
        listing.num_train,
        labels,
        listing.class_names,
        supervised,
    ]
    return hashlib.sha256(json.dumps(work).encode()).hexdigest()


def _header(images: int, image_size: int) -> bytes:
    """The header of a .npy file; its length does not depend on the number of images, since NumPy pads it."""
    header = io.BytesIO()
    shape = (images, image_size, image_size, 3)
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return header.getvalue()


def _decode_chunk(paths: list[Path], image_size: int) -> tuple[bytes, Outcomes]:
    """The pixels of readable files, and for each file its CRC-32 or its problem."""
    pixels: list[bytes] = []
    outcomes: Outcomes = []
    for path in paths:
        try:
            content = read_file(path, LARGEST_FILE)
            pixels.append(decode(content, image_size).tobytes())
            outcomes.append(zlib.crc32(content))
        except Exception as error:  # decoders of damaged files raise errors of many types
            outcomes.append(f"{path} {problem(error)}".replace("\n", " "))
    return b"".join(pixels), outcomes


def _begin_process() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C, and finishes pending work
    end_with_parent()


def _images(outcomes: Outcomes) -> int:
    return sum(isinstance(outcome, int) for outcome in outcomes)


class _Packing:
    """One packing: its files, and the results of the finished ones, each a CRC-32 or a sentence."""

    def __init__(self, listing: Listing, out: Path, image_size: int, contents: str):
        self.listing, self.out, self.image_size, self.contents = listing, out, image_size, contents
        self.partial, self.journal = out.with_name(out.name + ".partial"), _journal(out)
        self.image_bytes = 3 * image_size**2
        self.outcomes: Outcomes = []

    def run(self) -> About:
        """Continues from the state on the disk to the finished files; returns the content of the .json file."""
        try:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            self._take_up()
            self._decode()
            return self._finish()
        except BrokenProcessPool:
            raise OSError(
                f"a process that decodes images was killed after {self._so_far()}: run the same command again to go on"
            ) from None
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"stopped after {self._so_far()}; run the same command again to go on") from None
        except OSError as error:
            if error.filename is None and error.strerror:  # errors of writing to an open file do not name it
                error.filename = str(self.partial)
            raise

    def _so_far(self) -> str:
        return f"{len(self.outcomes):,} of {len(self.listing.files):,} files"

    def _end(self) -> int:
        """The offset of the next image in the file."""
        return len(_header(0, self.image_size)) + _images(self.outcomes) * self.image_bytes

    def _take_up(self) -> None:
        """Reads the journal, and truncates incomplete data of an interruption."""
        lines = []
        if self.journal.exists():
            lines = read_file(self.journal, LARGEST_ABOUT).splitlines(keepends=True)
        lines = [line for line in lines if line.endswith(b"\n")]  # all but perhaps the last
        if not lines or not self.partial.exists():
            self.partial.write_bytes(_header(0, self.image_size))
            self.journal.write_text(json.dumps(self.contents) + "\n")
        elif parse_json(lines[0], self.journal) != self.contents:
            raise ValueError(
                f"{self.partial} was started with other files or another --image-size: use the same ones, or remove it "
                f"and {self.journal.name} to start again"
            )
        else:
            whole = (self.partial.stat().st_size - self._end()) // self.image_bytes
            read = len(lines[0])
            for line in lines[1:]:
                entry = parse_json(line, self.journal)
                refuse_other(entry, Outcomes, self.journal)
                whole -= _images(entry)
                if whole < 0:  # the disk lost data after a sync
                    break
                self.outcomes += entry
                read += len(line)
            if len(self.outcomes) > len(self.listing.files):
                raise ValueError(
                    f"{self.journal} has the results of {len(self.outcomes):,} files, expected at most "
                    f"{len(self.listing.files):,}: remove it and {self.partial.name} to start again"
                )
            os.truncate(self.journal, read)
            os.truncate(self.partial, self._end())
            done = zip(self.listing.files, self.outcomes, strict=False)
            _refuse_changed(
                self.listing.folder, {name: crc for name, crc in done if isinstance(crc, int)}, self.partial
            )
        missing = (len(self.listing.files) - len(self.outcomes)) * self.image_bytes
        free = shutil.disk_usage(self.out.parent).free
        if missing > free:
            raise OSError(f"{self.out} needs {missing / 1e9:.1f} GB more, but its disk has {free / 1e9:.1f} GB free")

    def _decode(self) -> None:
        """Decodes the remaining files."""
        began = len(self.outcomes)
        paths = [self.listing.folder / file for file in self.listing.files[began:]]
        bar = progress(len(self.listing.files), initial=began, unit=" images")
        with self.partial.open("ab") as array, self.journal.open("ab") as journal, bar as advance:
            pending: Outcomes = []
            committed = time.monotonic()

            def commit() -> None:
                entry = pending.copy()
                pending.clear()  # first, so that an interruption cannot lead to a second entry
                for file, content in ((array, b""), (journal, json.dumps(entry).encode() + b"\n")):
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                self.outcomes += entry

            with contextlib.closing(_decoded(paths, self.image_size)) as decoded:
                try:
                    for pixels, outcomes in decoded:
                        array.write(pixels)
                        pending += outcomes
                        if time.monotonic() - committed >= COMMIT_EVERY:
                            commit()
                            committed = time.monotonic()
                        advance(len(outcomes))
                finally:
                    if pending:
                        commit()

    def _finish(self) -> About:
        """Writes the descriptions, then the header of the array, and renames it."""
        listing, outcomes = self.listing, self.outcomes
        kept = [i for i, outcome in enumerate(outcomes) if isinstance(outcome, int)]
        bad = {listing.files[i]: outcome for i, outcome in enumerate(outcomes) if isinstance(outcome, str)}
        train = sum(i < listing.num_train for i in kept)
        refuse_empty_split(listing.name, train, len(kept), next(iter(bad.values()), ""))
        shape = (len(kept), self.image_size, self.image_size, 3)
        images = np.memmap(self.partial, np.uint8, "r", offset=len(_header(0, self.image_size)), shape=shape)
        about: About = {
            "format": FORMAT,
            "source": listing.name,
            "contents": self.contents,
            "image_size": self.image_size,
            "train": train,
            "class_names": None if listing.class_names is None else list(listing.class_names),
            "labels": None if listing.labels is None else listing.labels[kept].tolist(),
            "supervised": None if listing.supervised is None else listing.supervised[kept[:train]].tolist(),
            "names": [listing.files[i] for i in kept],
            "crc32": [outcome for outcome in outcomes if isinstance(outcome, int)],
            "bad": bad,
            "digests": {name: digest(part) for name, part in (("train", images[:train]), ("test", images[train:]))},
        }
        texts = {self.out.with_suffix(".json"): json.dumps(about) + "\n"}
        if bad:
            texts[_bad_list(self.out)] = "".join(f"{sentence}\n" for sentence in bad.values())
        # File names that are not UTF-8 contain surrogates.
        write_whole({path: text.encode(errors="backslashreplace") for path, text in texts.items()})
        with self.partial.open("r+b") as array:
            array.write(_header(len(kept), self.image_size))
            array.flush()
            os.fsync(array.fileno())
        os.replace(self.partial, self.out)
        return about


def _decoded(paths: list[Path], image_size: int) -> Generator[tuple[bytes, Outcomes]]:
    """Chunks of decoded files in order, from several processes with a bounded lead."""
    if not paths:
        return
    chunks = [paths[i : i + CHUNK] for i in range(0, len(paths), CHUNK)]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # A fork does not import PyTorch again; it is safe only on Linux.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    pool = ProcessPoolExecutor(min(cores, len(chunks)), context, _begin_process)
    try:
        ahead: deque[Future[tuple[bytes, Outcomes]]] = deque()
        for chunk in chunks:
            ahead.append(pool.submit(_decode_chunk, chunk, image_size))
            if len(ahead) > 2 * cores:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
