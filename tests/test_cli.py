"""The program as a user meets it: help, mistakes, a whole run, and a run that is killed."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import accel
from accel import cli
from accel.data import sources
from accel.training import checkpoint
from tests.training.tiny import assert_same_run, tiny_dataset

ROOT = Path(__file__).parent.parent
SMALL = ["--encoder", "small", "--num-parts", "3", "--part-dim", "2", "--device", "cpu", "--threads", "1"]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A file of 64 training and 10 held-out images of 16 × 16."""
    path = tmp_path_factory.mktemp("data") / "squares.npz"
    train = np.concatenate([tiny_dataset(seed).train.images for seed in range(3)])[:64]
    np.savez(path, train_images=train, test_images=tiny_dataset().test.images)
    return path


def start(*arguments, **options):
    """Starts the program in a separate process."""
    command = [sys.executable, "-m", "accel", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def fails(capsys, *arguments):
    """Runs the program, which must fail; returns its one sentence."""
    status = cli.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert status == 2
    assert out == ""
    assert err.startswith("patchvae: ")
    assert err.count("\n") == 1
    return err.removeprefix("patchvae: ").strip()


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_overview(capsys, arguments):
    assert cli.main(arguments) == 0
    out = capsys.readouterr().out
    for name, command in cli.COMMANDS.items():
        assert re.search(rf"^  {name} +{command.HELP}$", out, re.MULTILINE)
    assert "examples:" in out


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"patchvae {accel.__version__}\n"


def test_help_of_a_command_is_the_command_with_help(capsys):
    said = []
    for arguments in (["help", "pack"], ["pack", "--help"]):
        with pytest.raises(SystemExit) as end:
            cli.main(arguments)
        assert end.value.code == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    assert fails(capsys, "help", "pakc") == "unknown command 'pakc' (nearest: pack)"


def test_examples_in_the_overview_are_valid():
    for line in cli.EXAMPLES.splitlines()[1:]:
        words = line.split("  ")[1].split()
        assert words[:3] == ["python", "-m", "accel"]
        parser = cli.Parser()
        cli.COMMANDS[words[3]].add_arguments(parser)
        parser.parse_args([word.replace("FOLDER", "folder") for word in words[4:]])


def test_help_and_mistakes_do_not_wait_for_pytorch():
    check = (
        "import sys, contextlib; from accel.cli import main\n"
        "assert main(['train', '--lerning-rate', '1']) == 2\n"
        "with contextlib.suppress(SystemExit): main(['train', '--help'])\n"
        "assert not {'torch', 'numpy', 'matplotlib', 'tqdm'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--learning-rate" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["trian"], "unknown command 'trian' (nearest: train)"),
        (["train", "--lerning-rate", "1"], "unknown option --lerning-rate (nearest: --learning-rate)"),
        (["train", "--epoch=3"], "unknown option --epoch (nearest: --epochs)"),
        (["train", "parts"], "unexpected argument 'parts', patchvae train takes options only"),
        (["train", "--epochs"], "--epochs expected one argument"),
        (["train", "--epochs", "many"], "--epochs must be a whole number, got 'many'"),
        (["train", "--epochs", "-1"], "--epochs must be at least 0, got -1"),
        (["train", "--learning-rate", "-0.1"], "--learning-rate must be greater than 0, got -0.1"),
        (["train", "--beta-app", "nan"], "--beta-app must be a number, got nan"),
        (["train", "--device", "gpu"], "--device must be auto, cpu, cuda or cuda:N, got 'gpu'"),
        (["train", "--system", "beta-vae", "--beta-occ", "2"], "--beta-occ has no effect on beta-vae"),
        (["train", "--feature-weight", "2"], "--feature-weight has no effect on patchvae+w"),
        (["train", "--system", "bigan", "--weights", "a.pth"], "--weights has no effect on bigan"),
    ],
)
def test_mistake_is_one_sentence(capsys, tmp_path, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)  # where no earlier run is refused first
    assert fails(capsys, *arguments) == sentence


def test_nearest_value_is_named(capsys):
    sentence = fails(capsys, "train", "--system", "patchvae-w")
    assert sentence.startswith("--system must be one of beta-vae, beta-vae+w, beta-vae-gan")
    assert sentence.endswith("got 'patchvae-w' (nearest: patchvae+w)")


def test_bad_data_and_folders_are_one_sentence(capsys, tmp_path, images):
    assert "nothing.npz" in fails(capsys, "train", "--data", tmp_path / "nothing.npz", "--out", tmp_path / "run")
    assert "checkpoint.pt" in fails(capsys, "train", "--resume", "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()
    odd = tmp_path / "odd.npz"
    np.savez(odd, images=np.zeros((20, 20, 20, 3), np.uint8))
    assert "20" in fails(capsys, "train", "--data", odd, "--out", tmp_path / "run")
    (tmp_path / "file").touch()
    assert "file" in fails(capsys, "train", "--data", images, *SMALL, "--out", tmp_path / "file" / "run")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "checkpoint.pt").write_text("not tensors")
    assert "foreign/checkpoint.pt" in fails(capsys, "train", "--resume", "--out", tmp_path / "foreign")
    assert "already holds a run" in fails(capsys, "train", "--data", images, "--out", tmp_path / "foreign")


def test_a_whole_run_with_its_closing_table_and_pictures(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "PARTS_TEST", 100)
    out = tmp_path / "run"
    options = ["--train-images", "96", "--epochs", "1", "--batch-size", "32", *SMALL]
    assert cli.main(["train", *options, "--out", str(out)]) == 0
    text, err = capsys.readouterr()
    assert "Traceback" not in err
    names = {path.name for path in out.iterdir()}
    pictures = "no pictures" not in text
    expected = {"config.json", "metrics.jsonl", "checkpoint.pt", "record.json", "model"}
    assert names == expected | ({"figures"} if pictures else set())
    if pictures:
        assert {path.name for path in (out / "figures").glob("*.png")} == {"reconstructions.png", "parts.png"}
    last = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    row = re.search(r"^reconstruction +([\d.]+) +([\d.]+)$", text, re.MULTILINE)
    assert float(row[1]) == round(last["train_reconstruction"], 3)
    assert float(row[2]) == round(last["held_out_reconstruction"], 3)
    psnr = float(re.search(r"^PSNR, dB +([\d.]+)$", text, re.MULTILINE)[1])
    assert psnr == round(last["held_out_psnr"], 2)
    assert re.search(r"^SSIM +0\.\d+$", text, re.MULTILINE)
    table = text.split("true part type")[1].splitlines()[1:]
    rows = [re.fullmatch(r"(.+?) +(\d+) +([\d.]+) +([\d.]+)", line) for line in table]
    rows = [row for row in rows if row]
    assert len(rows) >= 8
    mean = float(re.search(r"^mean +([\d.]+) +([\d.]+)$", text, re.MULTILINE)[1])
    assert abs(mean - np.mean([float(row[3]) for row in rows])) < 1e-3


def test_measures_and_pictures_of_a_run(capsys, tmp_path, images):
    pytest.importorskip("matplotlib")
    run, moved = tmp_path / "run", tmp_path / "moved.npz"
    copy = tmp_path / "images.npz"
    copy.write_bytes(images.read_bytes())
    options = ["--data", str(copy), "--epochs", "1", "--batch-size", "32", *SMALL]
    assert cli.main(["train", *options, "--out", str(run)]) == 0
    copy.rename(moved)
    assert "images.npz" in fails(capsys_after(capsys), "measure", run)
    assert cli.main(["measure", str(run), "--data", str(moved)]) == 0
    text = capsys.readouterr().out
    measures = json.loads((run / "measures.json").read_text())
    assert measures["images"] == {"data": str(moved), "split": "held out", "count": 10, "size": "16x16"}
    psnr = float(re.search(r"^PSNR, dB +([\d.]+)  10 images in \[0, 1\], resize none$", text, re.MULTILINE)[1])
    assert psnr == round(measures["reconstructions"][0]["value"], 3)
    assert "FID" not in text
    assert cli.main(["figures", str(run), "--data", str(moved), "--patch-size", "10"]) == 0
    index = json.loads((run / "figures" / "index.json").read_text())
    assert {"parts.png", "gallery.png", "swaps.png", "samples.png", "training.png"} <= {one["file"] for one in index}
    assert all((run / "figures" / one["file"]).stat().st_size > 1000 for one in index)
    assert "10 × 10 pixels" in next(one["text"] for one in index if one["file"] == "gallery.png")
    assert "config.json" in fails(capsys_after(capsys), "figures", tmp_path)
    page = tmp_path / "report.html"
    assert "report.pdf must end in .html" in fails(capsys, "report", run, "--out", tmp_path / "report.pdf")
    assert cli.main(["report", str(run), "--data", str(moved), "--out", str(page)]) == 0
    assert "drawing" not in capsys.readouterr().out  # nothing has changed since the pictures were drawn
    text = page.read_text()
    assert text.count("<img ") == len(index)
    assert f'data-value="{measures["reconstructions"][0]["value"]!r}"' in text
    damages = (
        ("config.json", "{", "is not JSON"),
        ("transfer.json", "[]", "must be a dictionary, got []"),
        ("transfer.json", '{"results": [{"protocol": "knn"}]}', "results[0] lacks data, seed, epochs, last_top1"),
        ("measures.json", "[]", "must be a dictionary, got []"),
        ("metrics.jsonl", "[1]", "line 1, must be a dictionary, got [1]"),
    )
    for name, damaged, problem in damages:
        whole = (run / name).read_text() if (run / name).exists() else '{"results": []}'
        (run / name).write_text(damaged)
        for command in ("figures", "report"):
            assert cli.main([command, str(run), "--data", str(moved)]) == 2
            sentence = capsys.readouterr().err
            assert name in sentence
            assert problem in sentence
        (run / name).write_text(whole)
    sentence = fails(capsys, "measure", run, "--data", moved, "--inception", run / "model" / "weights.pt")
    assert "not the weights of FID's Inception network" in sentence


@pytest.mark.parametrize(
    ("system", "command", "sentence"),
    [
        ("beta-vae", ["figures", "--patch-size", "9"], "--patch-size has no effect on beta-vae, which has no parts"),
        ("supervised", ["measure", "--inception", "file"], "--inception has no effect on supervised"),
        ("supervised", ["measure", "--classifier", "folder"], "--classifier has no effect on supervised"),
    ],
)
def test_options_of_pictures_and_measures_that_have_no_effect(capsys, tmp_path, images, system, command, sentence):
    labelled, run = tmp_path / "labelled.npz", tmp_path / "run"
    with np.load(images) as arrays:
        labels = {f"{split}_labels": np.arange(len(arrays[f"{split}_images"])) % 2 for split in ("train", "test")}
        np.savez(labelled, **arrays, **labels)
    options = ["--system", system, "--encoder", "small", "--device", "cpu", "--epochs", "0"]
    assert cli.main(["train", "--data", str(labelled), *options, "--out", str(run)]) == 0
    assert fails(capsys_after(capsys), command[0], run, *command[1:]).startswith(sentence)


def test_without_matplotlib_training_works_and_says_how_to_get_pictures(capsys, tmp_path, images, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    options = ["--data", str(images), "--epochs", "1", "--batch-size", "32", *SMALL]
    assert cli.main(["train", *options, "--out", str(tmp_path / "run")]) == 0
    assert "matplotlib is missing: pip install matplotlib" in capsys.readouterr().out
    assert not list((tmp_path / "run").rglob("*.png"))


def test_resume_takes_the_options_of_the_run(capsys, tmp_path, images):
    out, moved = tmp_path / "run", tmp_path / "moved"
    # The paper's, as some of the quick recipe's options follow from the number of epochs.
    options = ["--data", str(images), "--recipe", "paper", "--batch-size", "32", "--seed", "7", *SMALL]
    assert cli.main(["train", *options, "--epochs", "1", "--out", str(out)]) == 0
    out.rename(moved)
    sentence = fails(capsys_after(capsys), "train", "--resume", "--out", moved, "--seed", "8")
    assert "--seed 8 instead of 7" in sentence
    sentence = fails(capsys, "train", "--resume", "--out", moved, "--data", "parts")
    assert sentence.endswith(f"was trained on {images}, it cannot be resumed on parts")
    assert cli.main(["train", "--resume", "--out", str(moved), "--epochs", "2"]) == 0
    assert cli.main(["train", *options, "--epochs", "2", "--out", str(out)]) == 0
    assert_same_run(out, moved)


def test_a_run_is_repeated_from_its_configuration(capsys, tmp_path, images):
    first, again, other = (tmp_path / name for name in ("first", "again", "other"))
    options = ["--data", str(images), "--batch-size", "32", "--epochs", "2", "--seed", "7", "--renew", "0.9", *SMALL]
    assert cli.main(["train", *options, "--out", str(first)]) == 0
    path = str(first / "config.json")
    assert "first already holds a run" in fails(capsys_after(capsys), "train", "--config", path)
    assert cli.main(["train", "--config", path, "--out", str(again)]) == 0
    assert f"options of {path}: 2 epochs, 4 steps of 32 images" in capsys.readouterr().out
    assert_same_run(first, again)
    saved, repeated = (json.loads((folder / "config.json").read_text()) for folder in (first, again))
    assert repeated == saved | {"out": str(again)}
    assert cli.main(["train", "--config", path, "--out", str(other), "--seed", "8", "--epochs", "1"]) == 0
    assert json.loads((other / "config.json").read_text()) == saved | {"out": str(other), "seed": 8, "epochs": 1}


@pytest.mark.parametrize(
    ("content", "options", "sentence"),
    [
        ('{"learning_rat": 1}', [], "unknown option 'learning_rat' (nearest: learning_rate)"),
        ('{"epochs": -1}', [], "config.json: epochs must be at least 0, got -1"),
        ('{"format": 1, "system": "PatchVAE", "arguments": {}}', [], "describes a model, expected the config.json of"),
        ("[]", [], "config.json must be a dictionary, got []"),
        ("epochs: 3", [], "config.json is not JSON"),
        ("{}", ["--recipe", "quick"], "--recipe has no effect with --config: all options are in that file"),
        ("{}", ["--resume"], "--config has no effect with --resume: a resumed run keeps its options"),
        ('{"system": "beta-vae"}', ["--beta-occ", "2"], "--beta-occ has no effect on beta-vae"),
    ],
)
def test_a_configuration_that_cannot_be_repeated_is_one_sentence(capsys, tmp_path, content, options, sentence):
    (tmp_path / "config.json").write_text(content)
    said = fails(capsys, "train", "--config", tmp_path / "config.json", *options, "--out", tmp_path / "run")
    assert sentence in said
    assert not (tmp_path / "run").exists()


def test_a_configuration_that_is_no_file_is_named(capsys, tmp_path):
    assert f"{tmp_path} is a folder, expected a file" in fails(capsys, "train", "--config", tmp_path)
    assert f"{tmp_path / 'none'}: No such file" in fails(capsys, "train", "--config", tmp_path / "none")


def capsys_after(capsys):
    """Discards the output so far."""
    capsys.readouterr()
    return capsys


def test_killed_in_the_middle_of_an_epoch_and_resumed_ends_in_the_same_bits(tmp_path, images):
    options = ["--data", images, "--batch-size", "4", "--epochs", "2", *SMALL]  # 16 steps an epoch
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = start("train", *options, "--out", killed, "--checkpoint-every", "0")
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if checkpoint.exists(killed):
            state = checkpoint.read(killed)
            if state["epoch"] == 1 and state["batch"] >= 3:
                break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    _, err = process.communicate()
    assert process.returncode == -signal.SIGKILL, err
    state = checkpoint.read(killed)
    assert state["epoch"] == 1
    assert 3 <= state["batch"] < 16
    assert cli.main(["train", "--resume", "--out", str(killed), "--checkpoint-every", "60"]) == 0
    assert cli.main(["train", *map(str, options), "--out", str(whole)]) == 0
    assert_same_run(killed, whole)


def test_interrupt_ends_with_status_130_and_the_way_on(capsys, tmp_path, images, monkeypatch):
    from accel.training import step

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    original = step.TrainingStep.__call__

    def interrupted(self, *batch):
        original(self, *batch)
        if self.number == 3 and out.exists():  # in the run itself, not while its steps are timed
            os.kill(os.getpid(), signal.SIGINT)

    out = tmp_path / "run"
    monkeypatch.setattr(step.TrainingStep, "__call__", interrupted)
    assert cli.main(["train", "--data", str(images), "--batch-size", "16", *SMALL, "--out", str(out)]) == 130
    signal.signal(signal.SIGINT, before)
    err = capsys.readouterr().err
    assert err.startswith("patchvae: stopped after step 3 of ")
    assert err.endswith(f"python -m accel train --resume --out {out}\n")


def test_reader_that_leaves_early():
    read, write = os.pipe()
    os.close(read)
    process = subprocess.Popen(
        [sys.executable, "-m", "accel"], cwd=ROOT, stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    _, err = process.communicate()
    assert (process.returncode, err) == (141, "")
