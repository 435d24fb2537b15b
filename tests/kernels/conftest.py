from importlib.util import find_spec

import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
collect_ignore_glob = [] if find_spec("triton") else ["test_*.py"]


def pytest_collection_modifyitems(items):
    for item in items:
        if "tests/kernels" in item.path.as_posix():
            if item.get_closest_marker("gpu") and DEVICE == "cpu":
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
            # The interpreter computes masked lanes as well, and NumPy warns of what overflows there.
            item.add_marker(pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter"))
