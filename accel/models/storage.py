"""Files of tensors: written whole or not at all, read without executing anything that they hold."""

import io
import os
import pickle
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch


def write_whole(files: dict[Path, bytes]) -> None:
    """Replaces each file by new contents; whatever happens, each path holds all of the old or all of the new.

    Nothing is replaced before everything is on the disk, so a full one leaves all of the old files.
    Raises OSError with the file's name.
    """
    partials = {path: path.with_name(path.name + ".partial") for path in files}
    try:
        for path, partial in partials.items():
            with partial.open("wb") as file:
                file.write(files[path])
                file.flush()
                os.fsync(file.fileno())
        for path, partial in partials.items():
            partial.replace(path)
    except OSError as error:
        error.filename = str(path)  # writing to an open file that fails does not say which
        raise
    finally:
        for partial in partials.values():
            partial.unlink(missing_ok=True)


def tensors_to_bytes(value: object) -> bytes:
    """What torch.save writes of tensors in plain containers.

    In memory, because torch.save on a file reports a full disk as a RuntimeError of its own.
    """
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def load_tensors(path: Path, classes: Sequence[type] = ()) -> object:
    """Reads onto the CPU what torch.save wrote: tensors, plain containers, strings, numbers and `classes`.

    Raises FileNotFoundError, or ValueError when the file is damaged or holds anything else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        # torch.load does not look at the checksums that torch.save writes.
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
            if damaged is not None:
                raise ValueError(f"the checksum of {damaged} is wrong")
        with torch.serialization.safe_globals(list(classes)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file fails in too many ways to list
        raise ValueError(f"{path}: not a readable file of tensors ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    # torch answers a forbidden class with advice to load it all the same; only the name is wanted.
    forbidden = re.search(r"GLOBAL (\S+)", str(error))
    if forbidden:
        return f"it holds {forbidden[1]}, and only plain data is read"
    if isinstance(error, (pickle.UnpicklingError, LookupError, EOFError)):
        return "its contents are damaged"
    return re.split(r"\. |\n", str(error))[0].rstrip(".") or type(error).__name__
