"""Imports point down the house: design's table of rooms, read from the source without running it."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# What each room may import directly; what those may import comes with them.
ROOMS = {
    "accel.kernels": set(),
    "accel.ops": {"accel.kernels"},
    "accel.models": {"accel.ops"},
    "accel.data": set(),
    "accel.training": {"accel.models", "accel.data"},
    "accel.evaluation": {"accel.models", "accel.data", "accel.training"},
    "accel.figures": {"accel.evaluation"},
    "reference": set(),
}
EXTRAS = {"PIL", "matplotlib", "tqdm"}
PACKAGES = {
    "accel.kernels": {"torch", "triton"},
    "accel.data": {"numpy", "torch", "PIL", "tqdm"},
    "reference": {"numpy"},
}
ALL_PACKAGES = {"numpy", "torch", "triton"} | EXTRAS
OURS = {"accel", "reference", "bench", "tests"}


def below(room):
    """Every room that may be imported from `room`, itself included."""
    return {room}.union(*(below(direct) for direct in ROOMS[room]))


def room_of(module):
    """accel.ops.noise → accel.ops; modules outside of all rooms (accel.cli) are their own."""
    return next((room for room in ROOMS if module == room or module.startswith(room + ".")), module)


def imports(path, module):
    """(line, absolute module name, at module level?) of everything that a file imports."""
    tree = ast.parse(path.read_text(), str(path))
    at_top = {id(node) for node in tree.body}
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            base = ".".join(parents[: len(parents) + 1 - node.level]) if node.level else ""
            source = ".".join(filter(None, (base, node.module)))
            # `from accel import ops` names a room; `from accel.ops import Noise` names something in one.
            names = [f"{source}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            yield node.lineno, name, id(node) in at_top


def violations(root):
    """One line for each import that the table forbids, in `reference/` and `accel/` under root."""
    found = []
    for path in sorted([*root.glob("accel/**/*.py"), *root.glob("reference/**/*.py")]):
        module = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        room = room_of(module)
        for line, name, at_top in imports(path, module):
            top = name.split(".")[0]
            place = f"{path.relative_to(root)}:{line}"
            if top in OURS:
                allowed = room_of(name) in below(room) if room in ROOMS else top == "accel"
                if not allowed:
                    found.append(f"{place} {room} imports {name}")
            elif top not in sys.stdlib_module_names:
                if top not in PACKAGES.get(room, ALL_PACKAGES):
                    found.append(f"{place} {room} imports {name}")
                elif top in EXTRAS and at_top:
                    found.append(f"{place} {name} is optional and is to be imported where it is used")
    return found


def test_imports_point_down():
    assert violations(ROOT) == []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("accel/ops/a.py", "from accel.models import PatchVAE"),
        ("accel/ops/a.py", "from ..models.patchvae import PatchVAE"),
        ("accel/ops/a.py", "from accel import models"),
        ("accel/ops/__init__.py", "from .. import training"),
        ("accel/models/a.py", "def f():\n    import accel.training.loop"),
        ("accel/models/a.py", "import accel.data"),
        ("accel/data/a.py", "from accel.ops import Noise"),
        ("accel/training/a.py", "import accel.evaluation.quality as quality"),
        ("accel/training/a.py", "from accel.cli import main"),
        ("accel/ops/a.py", "import reference"),
        ("accel/cli.py", "from reference.noise import Noise"),
        ("accel/cli.py", "import tests.support"),
        ("accel/kernels/a.py", "import numpy"),
        ("accel/models/a.py", "import scipy.stats"),
        ("accel/figures/a.py", "import matplotlib"),
        ("reference/a.py", "import torch"),
        ("reference/a.py", "from accel.ops import Noise"),
    ],
)
def test_planted_violation_is_found(tmp_path, file, source):
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(source)
    assert len(violations(tmp_path)) == 1


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("accel/ops/a.py", "import torch\nfrom accel.kernels import launch\nfrom . import noise\nimport math"),
        ("accel/training/a.py", "from accel.ops.noise import Noise\nfrom ..models import PatchVAE"),
        ("accel/figures/a.py", "from accel.data import load\n\ndef f():\n    import matplotlib.figure"),
        ("accel/cli.py", "from accel.figures import parts"),
        ("reference/a.py", "import numpy as np\nfrom .noise import Noise\nimport dataclasses"),
    ],
)
def test_downward_import_passes(tmp_path, file, source):
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(source)
    assert violations(tmp_path) == []
