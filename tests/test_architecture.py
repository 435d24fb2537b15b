"""Imports follow the layers of the packages, without cycles, as read from the source."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# What each room may import directly; what those may import comes with them. Every room of accel may import COMMON.
COMMON = "accel.common"
ROOMS = {
    COMMON: set(),
    "accel.kernels": set(),
    "accel.ops": {"accel.kernels"},
    "accel.models": {"accel.ops"},
    "accel.data": set(),
    "accel.training": {"accel.models", "accel.data"},
    "accel.evaluation": {"accel.models", "accel.data", "accel.training"},
    "accel.figures": {"accel.evaluation"},
    "accel.commands": {"accel.figures"},
    "reference": set(),
}
EXTRAS = {"PIL", "matplotlib", "tqdm", "safetensors", "torch.utils.tensorboard"}
PACKAGES = {
    COMMON: {"tqdm"},
    "accel.kernels": {"torch", "triton"},
    "accel.data": {"numpy", "torch", "PIL", "tqdm"},
    "reference": {"numpy"},
}
ALL_PACKAGES = {"numpy", "torch", "triton"} | EXTRAS
OURS = {"accel", "reference", "bench", "tests"}
VERSION = "accel.__version__"  # which every room may say


def below(room):
    """All packages that `room` may import, including itself."""
    common = {COMMON} if room.startswith("accel.") else set()
    return {room}.union(common, *(below(direct) for direct in ROOMS[room]))


def room_of(module):
    """accel.ops.noise → accel.ops; a module outside of all packages (accel.cli) stands for itself."""
    return next((room for room in ROOMS if module == room or module.startswith(room + ".")), module)


def imports(path, module):
    """(line, absolute module name, whether at module level) for every import of a file."""
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
            if name == VERSION:
                continue
            top = name.split(".")[0]
            place = f"{path.relative_to(root)}:{line}"
            if top in OURS:
                allowed = room_of(name) in below(room) if room in ROOMS else top == "accel"
                if not allowed:
                    found.append(f"{place} {room} imports {name}")
            elif top not in sys.stdlib_module_names:
                if top not in PACKAGES.get(room, ALL_PACKAGES):
                    found.append(f"{place} {room} imports {name}")
                elif at_top and any(f"{name}.".startswith(f"{extra}.") for extra in EXTRAS):
                    found.append(f"{place} {name} is optional and is to be imported where it is used")
    return found


def links(root):
    """For each module in `reference/` and `accel/` under root, the modules there that it imports, also in functions.

    A package stands for its __init__.py. Importing a name from a package counts as importing the package, and the file
    of that name if it is one. Importing a file also runs the __init__.py of its packages; this does not count,
    because otherwise every __init__.py that exports names would be part of a circle.
    """
    paths = {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
        for path in [*root.glob("accel/**/*.py"), *root.glob("reference/**/*.py")]
    }
    found = {}
    for module, path in paths.items():
        names = {name for _, name, _ in imports(path, module)}
        # `from .noise import Noise` is the name accel.ops.noise.Noise, whose file is accel.ops.noise.
        found[module] = {name if name in paths else name.rpartition(".")[0] for name in names} & paths.keys()
    return found


def circles(root):
    """Groups of two or more modules that all import each other, directly or through others; each group is sorted."""
    reached = {}
    direct = links(root)
    for module in direct:
        seen, waiting = set(), [module]
        while waiting:
            for other in direct[waiting.pop()] - seen:
                seen.add(other)
                waiting.append(other)
        reached[module] = seen
    groups = {
        tuple(sorted({module, *(other for other in reached[module] if module in reached[other])})) for module in direct
    }
    return sorted(group for group in groups if len(group) > 1)


def test_imports_point_down():
    assert violations(ROOT) == []


def test_no_files_import_each_other():
    assert circles(ROOT) == []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("accel/ops/a.py", "from accel.models import PatchVAE"),
        ("accel/ops/a.py", "from ..models.patchvae import PatchVAE"),
        ("accel/ops/a.py", "from accel import models"),
        ("accel/ops/__init__.py", "from .. import training"),
        ("accel/models/a.py", "def f():\n    import accel.training.loop"),
        ("accel/models/a.py", "import accel.data"),
        ("accel/commands/a.py", "import accel"),
        ("accel/data/a.py", "from accel.ops import Noise"),
        ("accel/training/a.py", "import accel.evaluation.quality as quality"),
        ("accel/figures/a.py", "def f():\n    from accel.commands import train"),
        ("accel/common/a.py", "from accel.data import load"),
        ("accel/common/a.py", "def f():\n    from accel.kernels import launch"),
        ("accel/common/a.py", "import numpy"),
        ("accel/common/a.py", "import tqdm"),
        ("accel/common/a.py", "def f():\n    import torch"),
        ("reference/a.py", "from accel.common import files"),
        ("accel/training/a.py", "from accel.cli import main"),
        ("accel/ops/a.py", "import reference"),
        ("accel/cli.py", "from reference.noise import Noise"),
        ("accel/cli.py", "import tests.support"),
        ("accel/kernels/a.py", "import numpy"),
        ("accel/models/a.py", "import scipy.stats"),
        ("accel/figures/a.py", "import matplotlib"),
        ("accel/training/a.py", "from torch.utils.tensorboard import SummaryWriter"),
        ("accel/training/a.py", "from torch.utils import tensorboard"),
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
        ("accel/common/a.py", "import json\nfrom accel.common.files import read_json\n\ndef f():\n    import tqdm"),
        ("accel/kernels/a.py", "from accel.common import bottleneck"),
        ("accel/commands/a.py", "from accel.common.options import flag\nfrom accel.data import load"),
        ("accel/commands/a.py", "from accel import __version__"),
        ("accel/figures/a.py", "from accel.data import load\n\ndef f():\n    import matplotlib.figure"),
        ("accel/training/a.py", "import torch.utils.data\n\ndef f():\n    import torch.utils.tensorboard"),
        ("accel/cli.py", "from accel.figures import parts"),
        ("reference/a.py", "import numpy as np\nfrom .noise import Noise\nimport dataclasses"),
    ],
)
def test_downward_import_passes(tmp_path, file, source):
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(source)
    assert violations(tmp_path) == []


def plant(root, files):
    """Writes files, by their paths from the root."""
    for name, source in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(source)


@pytest.mark.parametrize(
    ("files", "circle"),
    [
        (
            {"accel/ops/a.py": "from accel.ops.b import f", "accel/ops/b.py": "import accel.ops.a"},
            ("accel.ops.a", "accel.ops.b"),
        ),
        (
            {"accel/ops/a.py": "from .b import f", "accel/ops/b.py": "def f():\n    from . import a"},
            ("accel.ops.a", "accel.ops.b"),
        ),
        (
            {
                "accel/data/a.py": "def f():\n    from accel.data import b",
                "accel/data/b.py": "class B:\n    from accel.data.c import C",
                "accel/data/c.py": "if True:\n    from accel.data import a",
            },
            ("accel.data.a", "accel.data.b", "accel.data.c"),
        ),
        (
            {"reference/__init__.py": "from .a import f", "reference/a.py": "from reference import g"},
            ("reference", "reference.a"),
        ),
        (
            {"accel/ops/a.py": "import accel.models.b", "accel/models/b.py": "def f():\n    import accel.ops.a"},
            ("accel.models.b", "accel.ops.a"),
        ),
    ],
    ids=["two", "inside a function", "through a third", "with the package", "of two rooms"],
)
def test_planted_circle_is_found(tmp_path, files, circle):
    plant(tmp_path, files | {"accel/ops/apart.py": "from . import a", "accel/ops/__init__.py": ""})
    assert circles(tmp_path) == [circle]


def test_files_that_meet_without_a_circle_pass(tmp_path):
    files = {
        "accel/ops/__init__.py": "from .a import f\nfrom .b import g",
        "accel/ops/a.py": "from .b import g\nfrom .c import h\nimport accel.kernels.d",
        "accel/ops/b.py": "def g():\n    from accel.ops.c import h",
        "accel/ops/c.py": "import math",
        "accel/kernels/d.py": "import torch",
    }
    plant(tmp_path, files)
    assert circles(tmp_path) == []


def test_benchmarks_share_code_in_a_folder_of_its_own():
    commands = [*ROOT.glob("bench/*.py"), *ROOT.glob("bench/experiments/*.py")]
    assert commands
    assert [path.name for path in commands if "__main__" not in path.read_text()] == []
    for path in ROOT.glob("bench/common/*.py"):
        assert "__main__" not in path.read_text(), f"{path.name} is a command"
        ours = [name for _, name, _ in imports(path, f"bench.common.{path.stem}") if name.startswith("bench.")]
        assert [name for name in ours if not name.startswith("bench.common.")] == [], f"{path.name} imports a command"
