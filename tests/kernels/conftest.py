import pytest

from tests.kernels.common import DEVICE


def pytest_collection_modifyitems(items):
    for item in items:
        if "tests/kernels" in item.path.as_posix():
            if item.get_closest_marker("gpu") and DEVICE == "cpu":
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
            # The interpreter computes masked lanes as well, and NumPy warns of what overflows there.
            item.add_marker(pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter"))
