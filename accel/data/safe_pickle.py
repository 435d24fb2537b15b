"""Reads pickles of plain data without executing code from the file."""

import math
import pickle
import re
from typing import IO, Any

import numpy as np


class _DType:
    """Replaces numpy.dtype, which would accept any state: the name of a number type, and its byte order."""

    def __init__(self, name: Any, *_: Any):
        text = name.decode("ascii") if isinstance(name, bytes) else name
        if not isinstance(text, str) or not re.fullmatch(r"[biufc][0-9]{1,2}", text):
            raise pickle.UnpicklingError(f"it holds an array of {text!r}, expected numbers")
        self.dtype = np.dtype(text)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order: Any = state[1].decode("ascii") if isinstance(state[1], bytes) else state[1]
        self.dtype = self.dtype.newbyteorder(order)


class _Array(np.ndarray):
    """An array whose content is checked against its shape before it is passed to NumPy."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, fortran, content = state
        if not isinstance(kind, _DType) or not isinstance(content, bytes):
            raise pickle.UnpicklingError("it holds an array whose elements are not plain numbers")
        if not all(type(extent) is int and extent >= 0 for extent in shape):
            raise pickle.UnpicklingError(f"it holds an array of shape {shape}")
        if math.prod(shape) * kind.dtype.itemsize != len(content):
            raise pickle.UnpicklingError(f"it holds an array of shape {shape} in {len(content)} bytes")
        plain: Any = (1, shape, kind.dtype, bool(fortran), content)
        super().__setstate__(plain)


def _reconstruct(*_: Any) -> _Array:
    return np.empty(0, np.uint8).view(_Array)


# The names that a pickle may use, and their replacements. NumPy moved the function in version 2.
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): "numpy.ndarray",  # an argument of the function, which is never called
    ("numpy", "dtype"): _DType,
}


class _Unpickler(pickle._Unpickler):  # in pure Python, where numbers in a file do not determine memory allocations
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it names {module}.{name}, expected plain data and arrays only") from None


def safe_unpickle(file: IO[bytes]) -> Any:
    """Loads a pickle of Python 2 or 3 (up to protocol 4) of lists, tuples, dictionaries, numbers, strings, arrays.

    Strings of Python 2 become bytes. Arrays must hold numbers. Nothing is imported and no other function is called.

    Raises ValueError for a pickle with any other content, or a damaged one.
    """
    try:
        return _Unpickler(file, encoding="bytes").load()
    except Exception as error:  # a damaged pickle raises errors of many types
        raise ValueError(f"a pickle in it cannot be read: {error}") from error
