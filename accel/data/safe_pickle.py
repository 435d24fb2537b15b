"""Reading pickles of plain data without running anything that a file names."""

import math
import pickle
import re
from typing import IO, Any

import numpy as np


class _DType:
    """In place of numpy.dtype, which would take any state from the file: the name of numbers, and their byte order."""

    def __init__(self, name: Any, *_: Any):
        text = name.decode("ascii") if isinstance(name, bytes) else name
        if not isinstance(text, str) or not re.fullmatch(r"[biufc][0-9]{1,2}", text):
            raise pickle.UnpicklingError(f"it holds an array of {text!r}, expected numbers")
        self.dtype = np.dtype(text)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order: Any = state[1].decode("ascii") if isinstance(state[1], bytes) else state[1]
        self.dtype = self.dtype.newbyteorder(order)


class _Array(np.ndarray):
    """An array whose contents are compared with its shape before NumPy is shown either."""

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


# All that a pickle may call, and what is called instead. NumPy moved the function in version 2.
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): "numpy.ndarray",  # an argument of the function, and nothing to call
    ("numpy", "dtype"): _DType,
}


class _Unpickler(pickle._Unpickler):  # in Python, where no number in a file decides how much memory is taken
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it names {module}.{name}, expected plain data and arrays only") from None


def safe_unpickle(file: IO[bytes]) -> Any:
    """What a pickle of Python 2 or 3 (up to protocol 4) holds: lists, tuples, dictionaries, numbers, strings, arrays.

    Strings of Python 2 become bytes. Arrays are of numbers. Nothing is imported and nothing else is called.

    Raises ValueError for a pickle that names anything else, or that is damaged.
    """
    try:
        return _Unpickler(file, encoding="bytes").load()
    except Exception as error:  # a damaged pickle raises errors of many types
        raise ValueError(f"a pickle in it cannot be read: {error}") from error
