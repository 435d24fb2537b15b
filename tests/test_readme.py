"""The README's Python snippets can be executed as they are."""

import re
from pathlib import Path

import pytest
import torch
from torch.utils.data import TensorDataset

from accel.evaluation.tables import TABLES, epochs_of
from accel.training import recipes, train
from tests.models.test_release import release_checkpoint
from tests.training.tiny import tiny_config, tiny_dataset

README = Path(__file__).parent.parent / "README.md"


def labelled(count):
    """A torch Dataset of the given number of images in [0, 1], with labels."""
    return TensorDataset(torch.rand(count, 3, 32, 32), torch.arange(count) % 2)


# What the snippets take from their reader: a batch of images, the number of the training step, two torch Datasets, and
# in the current folder a checkpoint of the authors' code.
PRELUDE = {
    "images": torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8),
    "step": 0,
    "train_set": labelled(32),
    "test_set": labelled(4),
}
CHECKPOINT = "checkpoint.pt"


def snippets(text):
    """(line, source) of every block of Python."""
    blocks = re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(text[: block.start(1)].count("\n"), block[1]) for block in blocks]


@pytest.fixture
def executed(tmp_path, monkeypatch):
    """The namespace in which all snippets have been executed in order."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(recipes.QUICK_STEPS, "cpu", 2)
    torch.save(release_checkpoint(), CHECKPOINT)
    names = dict(PRELUDE)
    for line, source in snippets(README.read_text()):
        exec(compile("\n" * line + source, str(README), "exec"), names)
    return names


def test_every_snippet_runs(executed):
    assert len(snippets(README.read_text())) >= 2
    model = executed["model"]
    assert all(parameter.grad is not None for parameter in model.parameters())
    for name in ("patch_bottleneck", "pooled_patch_bottleneck", "weighted_squared_error"):
        assert callable(executed[name])


def test_a_comment_s_shapes_are_those_of_what_it_describes(executed):
    posterior, model = executed["posterior"], executed["model"]
    sizes = {"B": len(PRELUDE["images"]), "N": model.num_parts, "D": model.part_dim}
    sizes |= dict(zip("hw", model.grid, strict=True))
    described = re.findall(r"\.(\w+) \(([A-Za-z, ]+)\)", README.read_text())
    described = [(name, axes) for name, axes in described if hasattr(posterior, name)]
    assert described
    for name, axes in described:
        assert tuple(getattr(posterior, name).shape) == tuple(sizes[axis] for axis in axes.split(", "))


def test_the_line_of_pandas_reads_a_run_s_log(tmp_path, monkeypatch):
    pandas = pytest.importorskip("pandas")
    (line,) = re.findall(r"`(pd\.read_json\(.*\))`", README.read_text())
    path = Path(re.search(r'"(.*)"', line)[1])
    monkeypatch.chdir(tmp_path)
    folder = train(tiny_config(path.parent), tiny_dataset())
    assert folder / "metrics.jsonl" == path
    log = eval(line, {"pd": pandas})
    assert list(log["epoch"]) == [1, 2]
    assert log["train_total"].dtype.kind == "f"


@pytest.mark.parametrize("bad", ["undefined_name", "from accel import Nothing", "import accel; accel.elbo()"])
def test_a_snippet_that_fails_is_noticed(bad):
    ((line, source),) = snippets(f"text\n```python\n{bad}\n```\n")
    assert line == 2
    with pytest.raises((NameError, ImportError, TypeError)):
        exec(source, dict(PRELUDE))


def test_the_runs_behind_the_paper_s_tables_are_those_of_the_code():
    rows = re.findall(
        r"^\| `reproduce (\w+)` \| .* \| (.*), (\d+) and (\d+) \| (\d+), (\d+) \|$", README.read_text(), re.M
    )
    assert [row[0] for row in rows] == list(TABLES)
    for name, data, *numbers in rows:
        table = TABLES[name]
        transfers = sum(len(table.protocols) for row in table.rows if not row.end_to_end)
        assert data.lower().replace("-", "") == table.data
        assert [*map(int, numbers)] == [*epochs_of(table.data), 3 * len(table.rows), 3 * transfers]
