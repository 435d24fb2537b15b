"""Digests of all images and labels, which identify a data set."""

import hashlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from accel.common.describing import printable
from accel.data.images import Dataset

CHUNK = 1 << 24  # bytes that a thread hashes at once


def digest(array: np.ndarray) -> str:
    """SHA-256 of an array's dtype, shape and bytes, in hexadecimal; computed from digests of chunks, in parallel."""
    rows = max(1, CHUNK // max(1, array[:1].nbytes))
    whole = hashlib.sha256(f"{array.dtype.str} {array.shape}".encode())

    def of_chunk(start: int) -> bytes:
        return hashlib.sha256(np.ascontiguousarray(array[start : start + rows]).data).digest()

    with ThreadPoolExecutor() as pool:
        for one in pool.map(of_chunk, range(0, len(array), rows)):
            whole.update(one)
    return whole.hexdigest()


def digests(dataset: Dataset, *, labels: bool) -> dict[str, str]:
    """Descriptions of training and test images for the record of a run, and of their labels if it uses them.

    Each has number and size, and ends with the digest. Raises ValueError if a packed array has changed since it was
    packed.
    """
    found = {}
    for split in ("train", "test"):
        images = getattr(dataset, split).images
        count, height, width, channels = images.shape
        code = digest(images)
        if dataset.packed and dataset.packed[split] != code:
            raise ValueError(f"{dataset.name}: its {split} images differ from those that were packed: pack them again")
        found[f"{split}_images"] = f"{count:,} of {height}x{width} with {channels} channels, sha256 {code}"
        if labels and (own := getattr(dataset, split).labels) is not None:
            found[f"{split}_labels"] = f"{len(own):,} labels, sha256 {digest(own)}"
    if labels and dataset.supervised is not None:
        found["supervised"] = f"{dataset.supervised.sum():,} labelled, sha256 {digest(dataset.supervised)}"
    return found


def difference(before: dict[str, str], now: dict[str, str]) -> str | None:
    """The first difference between the digests of two data sets, as text; None if they are the same."""
    for name in before | now:
        if before.get(name) != now.get(name):
            one, other = (printable((found.get(name) or "none, ").rsplit(", ", 1)[0]) for found in (before, now))
            kind = printable(name.replace("_", " ").replace("train", "training"))
            return (
                f"{kind}: {one}, not {other}"
                if one != other
                else f"{kind}: same number and size, {one}, but other values"
            )
    return None
