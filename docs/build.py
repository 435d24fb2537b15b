"""API pages from the docstrings: HTML that needs no network.

python docs/build.py [FOLDER]                   build/api by default
"""

import importlib
import re
import sys
from pathlib import Path

import pdoc

ROOT = Path(__file__).parents[1]
PUBLIC = (
    "accel",
    "accel.ops",
    "accel.models",
    "accel.training",
    "accel.data",
    "accel.evaluation",
    "accel.figures",
    "reference",
)


def show_inherited(public: type) -> None:
    """Gives a class its inherited methods as its own: pdoc leaves out those of base classes without a page."""
    for base in public.__mro__[1:]:
        if base.__module__.split(".")[0] == "accel":
            for name, member in vars(base).items():
                if not name.startswith("_") and callable(getattr(base, name)) and name not in vars(public):
                    setattr(public, name, member)


def build(folder: Path) -> None:
    """Writes a page for each public package, an index and a search into the folder."""
    sys.path.insert(0, str(ROOT))
    hidden = []  # modules named like a function in them, whose pages would have that function again
    for package in map(importlib.import_module, PUBLIC):
        for name in package.__all__:
            # Some names are imported when they are first used, and pdoc looks at what is there.
            public = getattr(package, name)
            hidden.append(f"!{re.escape(package.__name__)}[.]{name}$")
            setattr(package, name, public)
            if isinstance(public, type):
                show_inherited(public)
    pdoc.render.configure(docformat="google")
    pdoc.pdoc(*PUBLIC, *hidden, output_directory=folder)


if __name__ == "__main__":
    build(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "api")
