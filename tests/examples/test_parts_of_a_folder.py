"""The notebook runs from top to bottom, has stored outputs, and is small."""

import ast
import base64
import io
import json
from pathlib import Path

import pytest

PATH = Path(__file__).parents[2] / "examples" / "parts_of_a_folder.ipynb"
SIZES = "IMAGES, EPOCHS = 4000, 12"
LARGEST = 200_000  # bytes


@pytest.fixture(scope="module")
def notebook():
    return json.loads(PATH.read_text())


def code(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def pictures(cell):
    return [output["data"]["image/png"] for output in cell["outputs"] if "image/png" in output.get("data", {})]


def test_it_renders_without_being_run(notebook):
    image = pytest.importorskip("PIL.Image")
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    identities = [cell["id"] for cell in notebook["cells"]]
    assert len({*identities}) == len(identities)
    assert [cell["execution_count"] for cell in code(notebook)] == list(range(1, len(code(notebook)) + 1))
    assert all(output["output_type"] in ("stream", "execute_result") for c in code(notebook) for output in c["outputs"])
    shown = [picture for cell in code(notebook) for picture in pictures(cell)]
    assert len(shown) == 2
    for picture in shown:
        assert image.open(io.BytesIO(base64.b64decode(picture))).width > 300
    assert PATH.stat().st_size < LARGEST
    assert str(Path.home()) not in PATH.read_text()


def test_it_runs(notebook, tmp_path, monkeypatch, capsys):
    """Runs the cells with smaller sizes; the result of each cell shows everything that its stored output shows."""
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    sources = ["".join(cell["source"]) for cell in code(notebook)]
    assert sum(source.count(SIZES) for source in sources) == 1
    space = {}
    for source, cell in zip(sources, code(notebook), strict=True):
        tree = ast.parse(source.replace(SIZES, "IMAGES, EPOCHS = 40, 1"))
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, PATH.name, "exec"), space)
        value = eval(compile(ast.Expression(last.value), PATH.name, "eval"), space) if last else None
        assert hasattr(value, "_repr_png_") == bool(pictures(cell))
        printed = any(output["output_type"] == "stream" for output in cell["outputs"])
        assert bool(capsys.readouterr().out) == printed
    assert (tmp_path / "run" / "model" / "weights.pt").exists()
