"""Files of tensors, which are read without executing code from them."""

import io
import pickle
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from accel.common.files import read_file, refuse_unusual


def tensors_to_bytes(value: object) -> bytes:
    """The bytes of a torch.save file of tensors in plain containers.

    Made in memory, because torch.save to a file reports a full disk as an unspecific RuntimeError.
    """
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def safetensors_to_bytes(weights: dict[str, Tensor]) -> bytes:
    """A file in the format of safetensors; ImportError with the command that installs that package."""
    return _safetensors().save({name: value.contiguous() for name, value in weights.items()})


def load_safetensors(path: Path) -> dict[str, Tensor]:
    """Reads onto the CPU the tensors of a file in the format of safetensors, which cannot hold anything else.

    Raises FileNotFoundError, ValueError when the file is damaged or something else, or ImportError with the command
    that installs the package safetensors.
    """
    read = _safetensors().load
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    contents = read_file(path, largest=None)
    try:
        return read(contents)
    except Exception as error:  # a damaged file fails with classes of Rust's, or with a dtype that torch has not
        raise ValueError(f"{path}: not a readable file of safetensors ({_reason(error)})") from error


def _safetensors() -> ModuleType:
    try:
        import safetensors.torch
    except ImportError as error:
        raise ImportError("safetensors is missing: pip install safetensors") from error
    return safetensors.torch


def load_tensors(path: Path, classes: Sequence[type] = ()) -> object:
    """Reads onto the CPU what torch.save wrote: tensors, plain containers, strings, numbers and `classes`.

    Never takes more memory than the size of the file.

    Raises FileNotFoundError, or ValueError if the file is damaged or holds anything else, including tensors that are
    sparse, have no storage, or are larger than their storage.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    refuse_unusual(path)
    try:
        # torch.load does not look at the checksums that torch.save writes.
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                    raise ValueError("its contents are compressed, which torch.save never does")
                if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                    raise ValueError("it is a TorchScript archive, which would execute code when opened")
                if not any(name.endswith("data.pkl") for name in archive.namelist()):
                    raise ValueError("it is an archive that torch.save did not write")
                damaged = archive.testzip()
            if damaged is not None:
                raise ValueError(f"the checksum of {damaged} is wrong")
        with torch.serialization.safe_globals(list(classes)):
            value = torch.load(path, map_location="cpu", weights_only=True)
        _refuse_unusual_tensors(value)
    except Exception as error:  # a damaged file fails in too many ways to list
        raise ValueError(f"{path}: not a readable file of tensors ({_reason(error)})") from error
    return value


def _refuse_unusual_tensors(value: object) -> None:
    """Raises ValueError for a tensor, in containers too, that is not a plain strided tensor within its storage."""
    if isinstance(value, Tensor):
        if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
            raise ValueError("it holds a tensor that is not plain numbers")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError(f"it holds a tensor of shape {tuple(value.shape)}, which is larger than what is stored")
    elif isinstance(value, dict):
        for one in value.values():
            _refuse_unusual_tensors(one)
    elif isinstance(value, (list, tuple)):
        for one in value:
            _refuse_unusual_tensors(one)


def _reason(error: Exception) -> str:
    # torch answers a forbidden class with advice to load it all the same; only the name is wanted.
    forbidden = re.search(r"GLOBAL (\S+)", str(error))
    if forbidden:
        return f"it holds {forbidden[1]}, and only plain data is read"
    if isinstance(error, (pickle.UnpicklingError, LookupError, EOFError)):
        return "its contents are damaged"
    return re.split(r"\. |\n", str(error))[0].rstrip(".") or type(error).__name__
