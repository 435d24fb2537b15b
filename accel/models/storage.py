"""Files of tensors, read without executing anything that they hold."""

import io
import pickle
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch


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
