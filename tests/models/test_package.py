"""The names that the package exports."""

import subprocess
import sys

import pytest

import accel


def test_importing_the_package_does_not_import_torch():
    check = "import accel, sys; sys.exit('torch' in sys.modules or accel.__version__ is None)"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0


def test_the_promised_names_are_there_and_no_others():
    from accel import BetaVAE, BottleneckOptions, Noise, PatchVAE, elbo

    promised = BetaVAE, BottleneckOptions, Noise, PatchVAE, elbo
    assert {one.__name__ for one in promised} == set(accel.__all__)
    assert set(accel.__all__) <= set(dir(accel))
    with pytest.raises(AttributeError, match="module 'accel' has no attribute 'PatchVae'"):
        _ = accel.PatchVae
