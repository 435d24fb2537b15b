"""The wheel has the right content, and works outside of a clone."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email import message_from_bytes
from pathlib import Path

import numpy as np
import pytest

import accel
from tests.training.tiny import tiny_dataset

ROOT = Path(__file__).parent.parent
NO_SOURCE = shutil.ignore_patterns(".*", "*.egg-info", "build", "dist", "runs", "data", "carry")  # as in .gitignore
NO_CACHE = shutil.ignore_patterns("__pycache__")


def pip(*arguments):
    """Runs pip without a network."""
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of this tree, so that the build leaves no files here and uses no stale ones."""
    folder = tmp_path_factory.mktemp("package")
    source = shutil.copytree(
        ROOT, folder / "source", ignore=lambda at, names: (NO_SOURCE if Path(at) == ROOT else NO_CACHE)(at, names)
    )
    pip("wheel", source, "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """(folder of an installation, environment in which Python finds it first)."""
    target = tmp_path_factory.mktemp("installed")
    pip("install", wheel, "--no-deps", "--no-index", "--target", target)
    return target, {**os.environ, "PYTHONPATH": str(target)}


def test_wheel_holds_every_file_of_accel_and_nothing_else(wheel):
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    files = [path for path in (ROOT / "accel").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert sorted(names) == sorted(path.relative_to(ROOT).as_posix() for path in files)
    assert "accel/py.typed" in names


def test_packages_that_errors_name_are_those_of_the_project():
    """The project itself is on no index, so that 'patchvae[images]' could not be installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = [requirement for extra in project["optional-dependencies"].values() for requirement in extra]
    known = {requirement.split(">=")[0] for requirement in [*project["dependencies"], *optional]}
    texts = [path.read_text() for path in (ROOT / "accel").rglob("*.py")]
    named = {name for text in texts for name in re.findall(r"pip install ([^\s\"]+)", text)}
    assert {"matplotlib", "pillow", "safetensors", "tensorboard"} <= named <= known


def test_metadata(wheel):
    folder = f"patchvae-{accel.__version__}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        assert f"{folder}/licenses/LICENSE" in archive.namelist()
        metadata = message_from_bytes(archive.read(f"{folder}/METADATA"))
    assert metadata["Version"] == accel.__version__
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Project-URL"].startswith("Paper, https://")
    assert "Typing :: Typed" in metadata.get_all("Classifier")
    needed = {line.split(">=")[0] for line in metadata.get_all("Requires-Dist") if "extra ==" not in line}
    assert needed == {"numpy", "torch", "triton"}


def test_installed_outside_of_the_clone_it_trains(installed, tmp_path):
    target, environment = installed
    dataset = tiny_dataset()
    np.savez(tmp_path / "squares.npz", train_images=dataset.train.images, test_images=dataset.test.images)

    def run(*arguments):
        done = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    assert run(sys.executable, "-c", "import accel; print(accel.__file__)") == str(target / "accel" / "__init__.py")
    assert run(target / "bin" / "patchvae", "--version") == f"patchvae {accel.__version__}"
    options = "--encoder small --num-parts 3 --part-dim 2 --device cpu --epochs 1 --batch-size 8 --out run"
    run(target / "bin" / "patchvae", "train", "--data", "squares.npz", *options.split())
    load = "from accel import PatchVAE; print(*(PatchVAE.from_pretrained(name).num_parts for name in ('run', 'parts')))"
    assert run(sys.executable, "-c", load) == "3 20"
