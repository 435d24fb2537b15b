"""Tables of the paper from one command: required runs, missing steps, and written files."""

import json
import math
import re
from types import SimpleNamespace

import numpy as np
import pytest

from accel import cli
from accel.evaluation import performing, transfer, transfer_records
from accel.evaluation.collecting import collect
from accel.evaluation.jobs import plan
from accel.evaluation.tables import TABLES, epochs_of
from accel.training.capture import WARM_UP
from accel.training.config import TrainingConfig
from accel.training.loop import Run
from tests.training.tiny import tiny_dataset

SYSTEMS = ["--systems", "patchvae,beta-vae+w"]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A file of 72 training and 20 test images of 16 × 16 in two classes; one class has a black border."""
    path = tmp_path_factory.mktemp("data") / "squares.npz"
    arrays = {}
    for split, count in (("train", 72), ("test", 20)):
        parts = [tiny_dataset(seed + (split == "test") * 10).train.images for seed in range(3)]
        arrays[f"{split}_images"] = np.concatenate(parts)[:count].copy()
        arrays[f"{split}_labels"] = np.arange(count) % 2
        arrays[f"{split}_images"][::2, :4] = 0
    np.savez(path, **arrays)
    return path


@pytest.fixture
def options(images):
    return ["--data", str(images), "--encoder", "small", "--epochs", "1", "--device", "cpu"]


def numbers(folder, table="table1"):
    """Row → column → values by seed, after the last and after the chosen epoch."""
    rows = json.loads((folder / f"{table}.json").read_text())["rows"]
    return {
        row["name"]: {
            column: (cell["last"]["values"], cell["selected"]["values"]) for column, cell in row["cells"].items()
        }
        for row in rows
    }


def test_the_papers_figures():
    """Sums of the printed figures over the rows reveal a typing error."""
    sums = {
        ("table1", "cifar100"): (459.75, 419.57, 327.92),
        ("table1", "indoor67"): (236.27, 218.90, 164.86),
        ("table1", "places205"): (299.22, 263.40, 129.52),
        ("table2", "imagenet"): (247.98, 369.44),
        ("table3", "cifar100"): (142.05,),
        ("table3", "indoor67"): (67.46,),
        ("table4", "cifar100"): (85.81,),
        ("table4", "indoor67"): (43.35,),
        ("table5", "cifar100"): (85.84,),
        ("table5", "indoor67"): (42.61,),
        ("table6", "cifar100"): (89.38,),
        ("table6", "indoor67"): (43.28,),
    }
    for (name, data), expected in sums.items():
        table = TABLES[name]
        columns = zip(*(row.paper[data] for row in table.rows), strict=True)
        assert [round(math.fsum(column), 2) for column in columns] == list(expected), (name, data)
        assert all(len(row.paper[data]) == len(table.columns) for row in table.rows)


def test_the_plan_of_table_1(tmp_path):
    jobs = plan(TABLES["table1"], tmp_path)
    assert len(jobs) == 10 * 3
    assert len({job.config.folder for job in jobs}) == 30
    assert {job.protocols for job in jobs} == {("conv1", "conv3", "conv5")}
    assert {(job.config.data, job.config.epochs, job.transfer_epochs) for job in jobs} == {("cifar100", 90, 90)}
    assert [job.config.seed for job in jobs[:3]] == [0, 1, 2]
    assert [job.config.system for job in jobs[::3]] == [row.name for row in TABLES["table1"].rows]
    assert plan(TABLES["table1"], tmp_path, data="places205")[0].config.epochs == 2
    assert epochs_of("places205") == (2, 5)


def test_the_supervised_row_is_the_papers_only_with_weights_of_imagenet(tmp_path):
    plain = plan(TABLES["table1"], tmp_path, systems=("supervised",), seeds=1)[0]
    given = plan(TABLES["table1"], tmp_path, systems=("supervised",), seeds=1, weights="resnet18.pth")[0]
    assert (plain.config.epochs, plain.config.weights, plain.row.paper) == (90, None, {})
    assert (given.config.epochs, given.config.weights) == (0, "resnet18.pth")
    assert given.row.paper["cifar100"] == (55.99, 54.99, 54.36)
    assert plain.config.folder != given.config.folder


@pytest.mark.parametrize(
    ("name", "option", "values"),
    [
        ("table3", "num_parts", [4, 8, 16, 32, 64]),
        ("table4", "part_dim", [3, 6, 9]),
        ("table5", "occurrence_prior", [0.01, 0.05, 0.1]),
        ("table6", "beta_occ", [0.06, 0.3, 0.6]),
    ],
)
def test_the_ablations_vary_one_option(tmp_path, name, option, values):
    jobs = plan(TABLES[name], tmp_path, seeds=1)
    assert [getattr(job.config, option) for job in jobs] == values
    assert {job.config.system for job in jobs} == {"patchvae"}
    assert {job.protocols for job in jobs} == {("conv5",)}
    both = plan(TABLES[name], tmp_path, seeds=1, systems=("patchvae+w", "patchvae-gan"))
    assert [job.row.name for job in both[:1] + both[-1:]] == [f"patchvae+w {values[0]}", f"patchvae-gan {values[-1]}"]
    assert len({job.config.folder for job in both}) == 2 * len(values)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["tabel1"], "no such table: tabel1 (nearest: table1)"),
        (["table1", "--systems", "patchvae,vae"], "table1 has no row 'vae', expected one or more of beta-vae, "),
        (["table6", "--systems", "bigan"], "table6 varies an option of PatchVAE that 'bigan' does not have"),
        (
            ["table3", "--weights", "w.pth"],
            "--weights has no effect: none of the chosen rows of table3 starts from weights",
        ),
        (["table1", "--data", "nowhere", "--epochs", "1", "--seeds", "1"], "no such data: nowhere"),
    ],
)
def test_mistakes(tmp_path, monkeypatch, capsys, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["reproduce", *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"patchvae: {sentence}")
    assert not list(tmp_path.iterdir())


def test_two_systems_make_a_table_and_the_same_one_again(tmp_path, options, capsys, monkeypatch):
    one, other = tmp_path / "one", tmp_path / "other"
    arguments = ["reproduce", "table1", *options, *SYSTEMS, "--seeds", "2"]
    assert cli.main([*arguments, "--out", str(one)]) == 0
    text = capsys.readouterr().out
    result = json.loads((one / "table1.json").read_text())
    assert [row["name"] for row in result["rows"]] == ["beta-vae+w", "patchvae"]
    for row in result["rows"]:
        for cell in row["cells"].values():
            for choice in ("last", "selected"):
                values = cell[choice]["values"]
                assert len(values) == 2
                assert all(0 <= value <= 100 for value in values)
                assert cell[choice]["mean"] == pytest.approx(np.mean(values))
                assert cell[choice]["deviation"] == pytest.approx(np.std(values, ddof=1))
        assert row["seconds"] > 0
        cell = row["cells"]["Conv[1-5]"]["last"]
        written = f"{cell['mean']:.2f} ± {cell['deviation']:.2f}"
        assert re.search(rf"^\| {re.escape(row['name'])} \|.*\| {written} \|", text, re.MULTILINE)
    assert (one / "table1.md").read_text() in text
    assert "matplotlib" in text or (one / "table1.png").stat().st_size > 0

    # Nothing is trained or transferred again, and the table is the same.
    before = numbers(one)
    with monkeypatch.context() as patched:
        patched.setattr(Run, "fit", None)
        patched.setattr(transfer, "transfer", None)
        assert cli.main([*arguments, "--out", str(one)]) == 0
    assert numbers(one) == before

    assert cli.main([*arguments, "--out", str(other)]) == 0
    assert numbers(other) == before


def test_every_row_of_table_1(tmp_path, options, capsys):
    """All ten systems are trained, and transferred with all three columns."""
    assert cli.main(["reproduce", "table1", *options, "--seeds", "1", "--out", str(tmp_path)]) == 0
    cells = numbers(tmp_path)
    assert list(cells) == [row.name for row in TABLES["table1"].rows]
    for row in cells.values():
        assert list(row) == ["Conv1", "Conv[1-3]", "Conv[1-5]"]
        assert all(len(values) == 1 for pair in row.values() for values in pair)
    rows = re.findall(r"^\| [a-z].* \|$", capsys.readouterr().out, re.MULTILINE)
    assert len(rows) == 2 * len(cells)
    assert not any("–" in row for row in rows)
    for entry in transfer_records.results(tmp_path / "bigan-epochs-1-1-seed-0"):
        column = {"conv1": "Conv1", "conv3": "Conv[1-3]", "conv5": "Conv[1-5]"}[entry["protocol"]]
        assert cells["bigan"][column] == ([entry["last_top1"]], [entry["selected_top1"]])


def test_table_2_has_the_supervised_network_itself(tmp_path, options):
    arguments = ["reproduce", "table2", *options, "--systems", "supervised,beta-vae", "--seeds", "1"]
    assert cli.main([*arguments, "--out", str(tmp_path)]) == 0
    cells = numbers(tmp_path, "table2")
    metrics = json.loads((tmp_path / "supervised-epochs-1-1-seed-0" / "metrics.jsonl").read_text())
    assert cells["supervised"]["Top-1"][0] == [pytest.approx(100 - metrics["held_out_error"])]
    assert cells["supervised"]["Top-1"][1] == []
    assert len(cells["beta-vae"]["Top-1"][0]) == len(cells["beta-vae"]["Top-1"][1]) == 1


def test_only_results_of_the_same_transfer_count(tmp_path):
    (job,) = plan(TABLES["table1"], tmp_path, systems=("bigan",), seeds=1, epochs=5)
    job.config.folder.mkdir(parents=True)
    entry = {"data": "cifar100", "seed": 0, "epochs": 5, "last_top1": 50.0, "selected_top1": 40.0, "seconds": 2.0}
    foreign = [
        {"protocol": "conv1", **entry, name: value}
        for name, value in (("data", "cifar10"), ("seed", 1), ("epochs", 90))
    ]
    for results, missing in (
        ([*foreign, {"protocol": "knn", **entry}], ["training", "conv1", "conv3", "conv5"]),
        ([*foreign, {"protocol": "conv1", **entry}], ["training", "conv3", "conv5"]),
        ([{"protocol": name, **entry} for name in ("conv5", "conv3", "conv1")], []),
    ):
        (job.config.folder / transfer_records.NAME).write_text(json.dumps({"results": results}))
        assert job.missing() == missing
    (row,) = collect(TABLES["table1"], [job], {})["rows"]
    assert row["seconds"] == 6.0
    assert [cell["last"]["mean"] for cell in row["cells"].values()] == [50.0] * 3
    assert [cell["selected"]["mean"] for cell in row["cells"].values()] == [40.0] * 3


def test_results_of_runs_with_other_options_do_not_pass_for_those_asked_for(tmp_path, options, capsys):
    arguments = ["reproduce", "table1", *options, "--systems", "beta-vae", "--seeds", "1", "--out", str(tmp_path)]
    assert cli.main([*arguments, "--train-images", "40"]) == 0
    before = (tmp_path / "table1.md").read_text()
    capsys.readouterr()
    for more in ([], ["--dry-run"]):
        assert cli.main([*arguments, "--train-images", "50", *more]) == 2
        assert "cannot be resumed with --train-images 50 instead of 40" in capsys.readouterr().err
    assert (tmp_path / "table1.md").read_text() == before


def test_what_was_interrupted_goes_on(tmp_path, options, capsys, monkeypatch):
    original = transfer.transfer
    done = []

    def interrupted(folder, protocol, *rest):
        if protocol == "conv3":
            raise KeyboardInterrupt
        done.append((folder.name, protocol))
        return original(folder, protocol, *rest)

    arguments = ["reproduce", "table1", *options, *SYSTEMS, "--seeds", "1"]
    monkeypatch.setattr(transfer, "transfer", interrupted)
    assert cli.main([*arguments, "--out", str(tmp_path)]) == 130
    assert "the same command continues from there" in capsys.readouterr().err
    monkeypatch.setattr(transfer, "transfer", original)
    trained = []
    train_epoch = Run.train_epoch

    def counted(run, *rest):
        trained.append(run.folder.name)
        return train_epoch(run, *rest)

    monkeypatch.setattr(Run, "train_epoch", counted)
    assert cli.main([*arguments, "--out", str(tmp_path)]) == 0
    assert trained == ["patchvae-epochs-1-1-seed-0"]
    assert "beta-vae+w, seed 0: conv1" not in capsys.readouterr().out
    assert done == [("beta-vae+w-epochs-1-1-seed-0", "conv1")]


def test_a_run_that_fails_leaves_the_others_alone(tmp_path, options, capsys, monkeypatch):
    original = performing.open_run

    def diverging(config, *rest, **options):
        if config.system == "beta-vae+w" and config.seed == 1:
            raise FloatingPointError("training diverged")
        return original(config, *rest, **options)

    monkeypatch.setattr(performing, "open_run", diverging)
    arguments = ["reproduce", "table1", *options, *SYSTEMS, "--seeds", "2", "--out", str(tmp_path)]
    assert cli.main(arguments) == 2
    err = capsys.readouterr().err
    assert err == "patchvae: 1 of 4 runs failed; beta-vae+w, seed 1: training diverged\n"
    assert "beta-vae+w, seed 1: training diverged\n" in (tmp_path / "table1.md").read_text()
    cells = numbers(tmp_path)
    assert [len(cells[name]["Conv1"][0]) for name in ("beta-vae+w", "patchvae")] == [1, 2]
    value = cells["beta-vae+w"]["Conv1"][0][0]
    assert f"| beta-vae+w | {value:.2f} of 1 |" in (tmp_path / "table1.md").read_text()


def test_several_devices_share_the_runs(tmp_path, options):
    jobs = {
        devices: plan(
            TABLES["table4"],
            tmp_path / str(devices),
            seeds=1,
            epochs=1,
            data=options[1],
            encoder="small",
        )
        for devices in (1, 2)
    }
    for devices, some in jobs.items():
        lines = []
        failures = list(performing.perform_all(some, ["cpu"] * devices, lines.append))
        assert failures[-1] == {}
        assert len(failures) == len(some)
        assert len([line for line in lines if "trained" in line]) == len(some)
    cells = [
        [row["cells"]["Conv[1-5]"]["last"] for row in collect(TABLES["table4"], some, {})["rows"]]
        for some in jobs.values()
    ]
    assert cells[0] == cells[1]


def test_a_dry_run_does_nothing(tmp_path, options, capsys):
    out = tmp_path / "out"
    assert cli.main(["reproduce", "table3", *options, "--seeds", "2", "--out", str(out), "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 * 2 + 1
    assert lines[0].startswith("4, seed 0: training, conv5 ")
    assert re.fullmatch(r"10 runs, about \d+ s on cpu", lines[-1])
    assert not out.exists()


def test_a_dry_run_without_the_data_lists_the_runs(tmp_path, options, capsys):
    words = ["reproduce", "table3", *options, "--data", str(tmp_path / "missing.npz"), "--seeds", "1", "--dry-run"]
    assert cli.main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 + 1
    assert lines[-1].startswith("5 runs; their time can only be estimated with the data: ")
    assert "missing.npz" in lines[-1]


def test_the_estimate_counts_first_steps_once_a_run(monkeypatch):
    """The first steps, which compile and capture, take 10 s each, and all further steps 10 ms."""
    clock = [0.0]

    class FakeRun:
        def __init__(self, config, dataset):
            self.batches = type("Batches", (), {"epoch": lambda _, number: iter([()]), "__len__": lambda _: 100})()
            self.step = self.Step()

        class Step:
            calls = 0
            ledger = SimpleNamespace(means=dict)

            def __call__(self):
                self.calls += 1
                clock[0] += 10.0 if self.calls <= WARM_UP + 2 else 0.01

    monkeypatch.setattr(performing, "Run", FakeRun)
    monkeypatch.setattr(performing, "dataset_of", lambda config: None)
    monkeypatch.setattr(performing.time, "monotonic", lambda: clock[0])

    def job(missing):
        config = TrainingConfig(data="tiny", epochs=7)
        return SimpleNamespace(
            row=SimpleNamespace(name="patchvae"), config=config, transfer_epochs=3, missing=lambda: missing
        )

    first, epoch = 10.0 * (WARM_UP + 2), 100 * 0.01
    jobs = [job(["training", "conv1", "conv5"]), job([]), job(["training"])]
    expected = 2 * first + epoch * (7 + 2 * 3) + epoch * 7
    assert performing.estimate(jobs, ["cpu"]) == pytest.approx(expected)
    assert performing.estimate(jobs, ["cuda:0", "cuda:1"]) == pytest.approx(expected / 2)
