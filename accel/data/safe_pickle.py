"""Reading pickles of plain data without running anything that a file names."""

import pickle
from typing import Any, BinaryIO

import numpy as np

_RECONSTRUCT = np.empty(0).__reduce__()[0]  # the function by which every array is unpickled

# All that a pickle may call. NumPy moved the function in version 2.
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it names {module}.{name}, expected plain data and arrays only") from None


def safe_unpickle(file: BinaryIO) -> Any:
    """What a pickle of Python 2 or 3 (up to protocol 4) holds: lists, tuples, dictionaries, numbers, strings, arrays.

    Strings of Python 2 become bytes. Nothing is imported and nothing else is called.

    Raises ValueError for a pickle that names anything else, or that is damaged.
    """
    try:
        return _Unpickler(file, encoding="bytes").load()
    except Exception as error:  # a damaged pickle raises errors of many types
        raise ValueError(f"a pickle in it cannot be read: {error}") from error
