"""What attacks from outside have found, each held by a test: files that corrupted memory, hung, or were believed."""

import dataclasses
import fcntl
import hashlib
import io
import json
import os
import pickle
import re
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
from argparse import Namespace

import numpy as np
import pytest
import torch

from accel import PatchVAE, cli, elbo
from accel.commands.report import run_record
from accel.common import memory
from accel.common.files import LOCK, held
from accel.data import Dataset, ImageSet, load
from accel.data.packed import read_packed
from accel.data.safe_pickle import safe_unpickle
from accel.evaluation import fine_tuning
from accel.evaluation.inception import Inception, Unit
from accel.evaluation.jobs import Job
from accel.models.storage import load_tensors, tensors_to_bytes
from accel.training import checkpoint, loop, train
from accel.training.protocols import TransferConfig
from tests.faults.common import SMALL, accepted, refused, save, some, start, wait_until
from tests.training.tiny import assert_same_run, tiny_config, tiny_dataset

PIL = pytest.importorskip("PIL.Image")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(a run of one epoch, its images)"""
    folder = tmp_path_factory.mktemp("trained")
    data = save(folder / "tiny.npz")
    accepted("train", "--data", data, *SMALL, "--epochs", 1, "--out", folder / "run")
    return folder / "run", data


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained[0], tmp_path / "run")


# 1. Optimisers' states.


def overlapping(tensor):
    """As large a storage and the same shape, but every stride is 0, at the storage's end."""
    storage = torch.zeros(tensor.numel() + 1)
    return storage.as_strided(tensor.shape, (0,) * tensor.ndim, tensor.numel())


LAYOUTS = {
    "another shape": lambda tensor: torch.zeros(1),
    "more numbers": lambda tensor: torch.zeros(2, *tensor.shape),
    "another dtype": lambda tensor: tensor.double(),
    "strides of 0 in a storage large enough": overlapping,
    "strides of 0 in one number": lambda tensor: torch.zeros(1).expand(tensor.shape),
    "no storage": lambda tensor: tensor.to("meta"),
    "sparse": lambda tensor: tensor.to_sparse(),
    "text": lambda tensor: "a",
}


@pytest.mark.parametrize("layout", some(LAYOUTS, 4))
@pytest.mark.parametrize("name", ["exp_avg", "exp_avg_sq", "step"])
def test_state_of_adam_in_another_layout(tmp_path, run, layout, name, seen):
    if name == "step" and layout.startswith("strides"):
        pytest.skip("a number has no strides")
    state = torch.load(run / checkpoint.NAME, weights_only=True)
    kept = state["training"]["optimisers"]["model"]["state"][0]
    kept[name] = LAYOUTS[layout](kept[name])
    torch.save(state, run / checkpoint.NAME)
    before = (run / checkpoint.NAME).read_bytes()
    config = loop.TrainingConfig(**{**state["config"], "epochs": 2, "out": str(run)})
    with pytest.raises(ValueError, match=r"run/checkpoint\.pt") as refusal:
        train(config, resume=True)
    assert "\n" not in str(refusal.value)
    assert (run / checkpoint.NAME).read_bytes() == before
    seen("an optimiser's state in another shape, dtype or layout than its parameter", "one sentence")


def test_state_of_adam_for_other_parameters(run):
    state = checkpoint.read(run)
    config = loop.TrainingConfig(**{**state["config"], "epochs": 2, "out": str(run)})
    del state["training"]["optimisers"]["model"]["state"][0]
    torch.save(state, run / checkpoint.NAME)
    with pytest.raises(ValueError, match=r"checkpoint\.pt does not fit .* state of \d+ parameters, expected"):
        train(config, resume=True)


@pytest.mark.parametrize("layout", some(LAYOUTS, 4))
def test_momentum_of_a_transfer_in_another_layout(trained, run, monkeypatch, layout, seen):
    class Interrupted(Exception):
        pass

    def stopped(self):
        self.train_epoch()
        self.save()
        raise Interrupted

    options = TransferConfig(epochs=2, batch_size=8, device="cpu")
    with monkeypatch.context() as patch:
        patch.setattr(fine_tuning.Fit, "run", stopped)
        with pytest.raises(Interrupted):
            fine_tuning_of(run, options)
    path = run / "transfer" / "conv5" / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    kept = state["optimiser"]["state"][0]
    kept["momentum_buffer"] = LAYOUTS[layout](kept["momentum_buffer"])
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"transfer/conv5/checkpoint\.pt"):
        fine_tuning_of(run, options)
    seen("momentum of a transfer in another shape, dtype or layout than its parameter", "one sentence")


def test_settings_of_a_transfer_that_are_tensors(run, monkeypatch, seen):
    """Which cannot be compared with numbers."""
    options = TransferConfig(epochs=2, batch_size=8, device="cpu")
    path = run / "transfer" / "conv5" / "checkpoint.pt"
    with monkeypatch.context() as patch:
        patch.setattr(fine_tuning.Fit, "train_epoch", interrupted_after_saving)
        with pytest.raises(InterruptedError):
            fine_tuning_of(run, options)
    state = torch.load(path, weights_only=True)
    state["identity"]["parameters"]["batch_size"] = torch.tensor([8, 8])
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"conv5/checkpoint\.pt: identity\.parameters\.batch_size must be"):
        fine_tuning_of(run, options)
    seen("settings of a transfer's checkpoint that are tensors", "one sentence")


def interrupted_after_saving(fit):
    fit.best = (0.0, 1, fit.network.state_dict())
    fit.save()
    raise InterruptedError


def fine_tuning_of(run, options):
    from accel.evaluation.transfer import transfer

    return transfer(run, "conv5", options)


# 2. Other data.


def blacked(images, step=2):
    images = images.copy()
    images[1::step] = 0
    return images


CHANGED = {
    "every other training image blacked": lambda d: {"train_images": blacked(d.train.images)},
    "one pixel of one training image": lambda d: {"train_images": one_pixel(d.train.images)},
    "a blacked test set": lambda d: {"test_images": blacked(d.test.images, 1)},
    "permuted labels": lambda d: {"train_labels": d.train.labels[::-1]},
    "permuted test labels": lambda d: {"test_labels": d.test.labels[::-1]},
}


def one_pixel(images):
    images = images.copy()
    images[-1, -1, -1, -1] ^= 1
    return images


@pytest.mark.parametrize("change", CHANGED)
def test_resumed_on_other_data(tmp_path, capsys, change, seen):
    data, out = save(tmp_path / "tiny.npz"), tmp_path / "run"
    words = [*SMALL[:2], "--device", "cpu", "--batch-size", 8, "--system", "supervised"]
    accepted("train", "--data", data, *words, "--epochs", 1, "--out", out)
    before = (out / checkpoint.NAME).read_bytes()
    save(data, **CHANGED[change](tiny_dataset()))
    sentence = refused(capsys, "train", "--resume", "--out", out, "--epochs", 2)
    assert "trained on images that differ from those of" in sentence
    assert (out / checkpoint.NAME).read_bytes() == before
    seen("data replaced between stop and resume: images, one pixel, labels, test images", "one sentence")


def test_labels_do_not_matter_to_a_run_that_never_reads_them(run, trained, tmp_path):
    other = save(tmp_path / "unlabelled.npz", train_labels=None, test_labels=None)
    accepted("train", "--resume", "--out", run, "--data", other, "--epochs", 2)


def test_measures_and_pictures_of_another_set_overwrite_nothing(run, trained, tmp_path, capsys, seen):
    accepted("measure", run)
    before = (run / "measures.json").read_bytes()
    other = save(tmp_path / "other.npz", test_images=blacked(tiny_dataset().test.images))
    for command in ("measure", "figures"):
        assert "does not hold the images that the run" in refused(capsys, command, run, "--data", other)
        seen("`measure` or `figures` of a run with `--data` of another set", "one sentence, nothing overwritten")
    assert (run / "measures.json").read_bytes() == before
    assert not (run / "figures" / "index.json").exists()


def test_a_transfer_of_changed_images_records_nothing(tmp_path, capsys, seen):
    """Where the run's own images are meant; --data may name others."""
    data, out = save(tmp_path / "tiny.npz"), tmp_path / "run"
    accepted("train", "--data", data, *SMALL[:2], "--device", "cpu", "--batch-size", 8, "--epochs", 1, "--out", out)
    save(data, train_images=blacked(tiny_dataset().train.images))
    words = "transfer", out, "--probe", "knn", "--no-untrained"
    assert "does not hold the images that the run" in refused(capsys, *words)
    assert not (out / "transfer.json").exists()
    accepted(*words, "--data", save(tmp_path / "other.npz"))
    seen("`transfer` of a run whose images have changed", "one sentence, nothing recorded")


def test_a_run_without_a_model_and_a_model_without_a_run(run, trained, capsys, tmp_path):
    assert "is a model, expected the folder of the run" in refused(capsys, "measure", run / "model")
    (run / "model" / "weights.pt").rename(run / "model" / "model.safetensors")
    assert "is a model, expected the folder of the run" in refused(capsys, "measure", run / "model")
    shutil.rmtree(run / "model")
    sentence = refused(capsys, "locate", run, tmp_path, tmp_path / "parts.csv")
    assert "has no model/ yet: the run has not finished its first epoch" in sentence


@pytest.mark.parametrize("change", ["a tensor", "two lines"])
def test_text_of_a_checkpoint_that_is_none_or_has_several_lines(run, capsys, change, seen):
    state = torch.load(run / checkpoint.NAME, weights_only=True)
    if change == "a tensor":
        state["config"]["encoder"] = torch.zeros(2, 2)
    else:
        state["data"]["train_images"] = "two\nlines, sha256 0"
    torch.save(state, run / checkpoint.NAME)
    assert "checkpoint.pt" in refused(capsys, "train", "--resume", "--out", run, "--epochs", 2)
    seen("a tensor or several lines for a text in a checkpoint", "one sentence")


# 3. Labels.


def test_a_label_that_only_test_images_have(tmp_path):
    data = save(tmp_path / "tiny.npz", test_labels=np.arange(10))
    words = [*SMALL[:2], "--device", "cpu", "--batch-size", 8, "--system", "supervised", "--epochs", 1]
    accepted("train", "--data", data, *words, "--out", tmp_path / "run")
    description = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert description["arguments"]["num_classes"] == 10


@pytest.mark.parametrize("label", [-1, 1 << 16, 10**6, 2**63 - 1, 2**63, 2**64 - 1])
@pytest.mark.parametrize("split", ["train", "test"])
def test_labels_that_are_no_classes(tmp_path, split, label, capsys, seen):
    labels = np.full(24 if split == "train" else 10, label, np.uint64 if label > 2**62 else np.int64)
    data = save(tmp_path / "tiny.npz", **{f"{split}_labels": labels})
    assert str(label) in refused(capsys, "train", "--data", data, *SMALL, "--out", tmp_path / "run")
    seen("labels that are ids, negative, or beyond 64 bits", "one sentence")


def test_packed_labels_beyond_the_class_names(tmp_path, seen):
    path = packed(tmp_path)
    about = json.loads(path.with_suffix(".json").read_text())
    assert about["class_names"] == ["a", "b"]
    about["labels"][-1] = 2
    path.with_suffix(".json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match=r"set\.npy: test labels must be from 0 to 1, got 2"):
        load(path)
    seen("packed labels beyond the class names", "one sentence")


# 4. Packed arrays.


def folder_of_images(path, count=6):
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (path / name).mkdir(parents=True)
        for index in range(count):
            PIL.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(path / name / f"{index}.bmp")
    return path


def packed(path):
    accepted("pack", folder_of_images(path / "images"), path / "set.npy", "--image-size", 8)
    return path / "set.npy"


@pytest.mark.parametrize("keep_time", [False, True])
def test_packing_again_notices_an_image_of_the_same_length(tmp_path, capsys, keep_time, seen):
    path, image = packed(tmp_path), tmp_path / "images" / "b" / "3.bmp"
    before, content = image.stat(), bytearray(image.read_bytes())
    content[-1] ^= 1
    image.write_bytes(content)
    if keep_time:
        os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))
    words = ("pack", tmp_path / "images", path, "--image-size", 8)
    assert "b/3.bmp has changed since it was packed" in refused(capsys, *words)
    seen("an image changed, its length (and its time) kept, and packed again", "one sentence that names it")


def test_flipped_bytes_of_a_packed_array(tmp_path, capsys, seen):
    path = packed(tmp_path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in [128, len(whole) - 1, *rng.integers(128, len(whole), 8)]:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        for words in (("pack", tmp_path / "images", path, "--image-size", 8), train_on(path, tmp_path / "run")):
            assert "images differ from those that were packed" in refused(capsys, *words)
            seen("a flipped bit in a packed array, in training and in `pack` again", "one sentence")
    path.write_bytes(whole)
    accepted("pack", tmp_path / "images", path, "--image-size", 8)


def test_a_transfers_checkpoint_that_is_a_list_of_storages(run, capsys, seen):
    accepted("transfer", run, "--probe", "linear", "--epochs", 1, "--device", "cpu")
    path = run / "transfer" / "linear" / "checkpoint.pt"
    torch.save([torch.zeros(3).untyped_storage(), torch.zeros(3).storage()], path)
    sentence = refused(capsys, "transfer", run, "--probe", "linear", "--epochs", 2, "--device", "cpu")
    assert "checkpoint.pt" in sentence
    seen("a list of storages in place of a transfer's checkpoint", "one sentence")


@pytest.mark.parametrize("members", [{}, {"images.npy": b"\x93NUMPY"}])
def test_a_zip_in_place_of_a_packed_array(tmp_path, capsys, members, seen):
    path = packed(tmp_path)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    assert "set.npy is not a complete .npy file" in refused(capsys, *train_on(path, tmp_path / "run"))
    seen("a zip in place of a packed array", "one sentence")


def train_on(data, out):
    return ("train", "--data", data, *SMALL, "--epochs", 1, "--out", out)


def test_an_image_that_changes_while_packing_is_interrupted(tmp_path, monkeypatch, capsys):
    from accel.data import packed as module

    images = folder_of_images(tmp_path / "images")
    with monkeypatch.context() as patch:
        patch.setattr(module._Packing, "_finish", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        assert cli.main(["pack", str(images), str(tmp_path / "set.npy"), "--image-size", "8"]) == 130
    content = bytearray((images / "a" / "2.bmp").read_bytes())
    content[-1] ^= 1
    (images / "a" / "2.bmp").write_bytes(content)
    sentence = refused(capsys, "pack", images, tmp_path / "set.npy", "--image-size", 8)
    assert "a/2.bmp has changed since it was packed into" in sentence


def test_a_journal_of_more_files_than_there_are(tmp_path, monkeypatch, capsys, seen):
    from accel.data import packed as module

    images, out = folder_of_images(tmp_path / "images"), tmp_path / "set.npy"
    with monkeypatch.context() as patch:
        patch.setattr(module._Packing, "_finish", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        assert cli.main(["pack", str(images), str(out), "--image-size", "8"]) == 130
    with open(f"{out}.journal", "a") as file:
        file.write('[1, "a"]\n')
    with open(f"{out}.partial", "ab") as file:
        file.write(bytes(8 * 8 * 3))
    sentence = refused(capsys, "pack", images, out, "--image-size", 8)
    assert "set.npy.journal has the results of 14 files, expected at most 12" in sentence
    seen("a journal of more files than are to be packed", "one sentence")


# 5. Types in a model's configuration.


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("straight_through", "false"),
        ("detach_weights", "no"),
        ("detach_weights", 1),
        ("backend", "evil"),
        ("backend", ["torch"]),
        ("occurrence_prior", "0.1"),
        ("num_parts", True),
        ("num_parts", 3.0),
        ("num_parts", 2**70),
        ("image_size", "16"),
        ("image_size", [16, [16]]),
        ("channels", None),
        ("encoder", ["small"]),
        ("encoder", 3),
        ("head", {"a": 1}),
        ("head_kernel_size", "3"),
        ("variance", 7),
        ("part_dim", 2**40),
        ("appearance_prior_mean", [2.0]),
    ],
)
def test_types_in_the_configuration_of_a_model(run, name, value, seen):
    path = run / "model" / "config.json"
    description = json.loads(path.read_text())
    description["arguments"][name] = value
    path.write_text(json.dumps(description))
    with pytest.raises(ValueError, match=r"model/config\.json|does not fit the configuration") as refusal:
        PatchVAE.from_pretrained(run / "model")
    assert "\n" not in str(refusal.value)
    seen("a value of another type in a model's config.json", "one sentence")


@pytest.mark.parametrize(("key", "value"), [("system", "Patch\nVAE"), ("format", "1\n"), ("system", "\x1b[2J")])
def test_a_configuration_of_a_model_with_control_characters(run, key, value, seen):
    path = run / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(ValueError, match=r"model/config\.json") as refusal:
        PatchVAE.from_pretrained(run / "model")
    assert str(refusal.value).isprintable()
    seen("a system or a format with control characters in a model's config.json", "one sentence")


@pytest.mark.parametrize("value", [[1, 2], {"a": 1}, 3, "\ud800"])
@pytest.mark.parametrize("name", ["system", "data", "weights", "threads"])
def test_types_in_the_file_of_options(tmp_path, capsys, name, value, seen):
    if (name, value) == ("threads", 3):
        return
    path = tmp_path / "options.json"
    path.write_text(json.dumps(json.loads(tiny_config("run", data="parts").to_json()) | {name: value}))
    assert f"options.json: {name} must be" in refused(capsys, "train", "--config", path, "--out", tmp_path / "run")
    seen("a value of another type in the file given to `train --config`", "one sentence")


# 6. Pickles.


class Named:
    """Unpickles as a call of a NumPy function with these arguments, and then a state."""

    def __init__(self, function, arguments, state=None):
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.reduced


RECONSTRUCT = np.empty(0).__reduce__()[0]
POINTER = (0xDEADBEEF).to_bytes(8, "little")


ATTACKS = {
    "objects in raw bytes": Named(RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, (1,), np.dtype("O"), False, POINTER)),
    "an array over a buffer": Named(np.ndarray, ((1,), np.dtype("O"), POINTER)),
    "a dtype of objects": Named(np.dtype, ("O8", False, True)),
    "a dtype with fields": Named(np.dtype, ([("a", "O")],)),
    "a dtype by a state": Named(
        np.dtype, ("V8", False, True), (3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 16)
    ),
    "more numbers than bytes": Named(
        RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, (1 << 40,), np.dtype("u1"), False, b"1234")
    ),
    "a negative extent": Named(RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, (-1, -4), np.dtype("u1"), False, b"1234")),
    "no state at all": Named(RECONSTRUCT, (np.ndarray, (0,), b"b"), (1,)),
}


def test_pickles_that_would_have_memory_read(seen):
    """Each in a process of its own, forked, which a pointer that is followed would end."""
    for name, attack in ATTACKS.items():
        content = pickle.dumps(attack, 2)
        child = os.fork()
        if child == 0:
            try:
                repr(safe_unpickle(io.BytesIO(content)))
            except ValueError:
                os._exit(0)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, name
    seen("a pickle in a CIFAR archive that has NumPy read memory of its choice", "one sentence", len(ATTACKS))


def test_arrays_of_numbers_are_still_read():
    for dtype in ("u1", ">i4", "<f8", "bool", "complex64"):
        array = (np.arange(24).reshape(2, 3, 4) % 2).astype(dtype)
        for one in (array, np.asfortranarray(array)):
            # Of protocol 2 and later, Python 3 pickles bytes as such from 3 on.
            got = safe_unpickle(io.BytesIO(pickle.dumps(one, 4)))
            assert (got.dtype, got.tolist()) == (one.dtype.newbyteorder("="), one.tolist())


@pytest.mark.parametrize("labels", [[2**70], [50], ["a"]])
def test_labels_of_a_cifar_archive(tmp_path, labels, seen):
    from accel.data import cifar

    batch = {b"data": np.zeros((1, 3072), np.uint8), b"labels": labels}
    path = tmp_path / cifar.CIFAR10.file_name
    with tarfile.open(path, "w:gz") as tar:
        for name in [*cifar.CIFAR10.train, *cifar.CIFAR10.test, cifar.CIFAR10.meta]:
            content = pickle.dumps({b"label_names": [b"a"]} if name == cifar.CIFAR10.meta else batch, 4)
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    published = dataclasses.replace(cifar.CIFAR10, md5=hashlib.md5(path.read_bytes()).hexdigest())
    with pytest.raises(ValueError, match=r"cifar-10-python\.tar\.gz does not have the content of cifar10"):
        cifar.read_cifar(published, tmp_path)
    seen("labels of a CIFAR archive that are no classes", "one sentence")


def a_release():
    """A checkpoint of the authors' code, with some of the weights."""
    options = Namespace(arch="patchy", encoder_arch="resnet", decoder_arch="pyramid", scale=8, size=32, num_parts=2,
                        hidden_size=2, py=0.1)  # fmt: skip
    weights = {"features.0.weight": torch.zeros(2, 3), "decoder.input-conv.weight": torch.zeros(1, 1, 1, 1)}
    return {"args": options, "vae_dict": weights}


@pytest.mark.parametrize("change", ["a number for a name", "a tensor for an option"])
def test_a_release_with_other_types(tmp_path, change, seen):
    state = a_release()
    if change == "a number for a name":
        state["vae_dict"] = {3: torch.zeros(1)}
    else:
        state["args"].arch = torch.zeros(2, 2)
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"a\.pt: (a weight has the name 3, expected|its arch is)") as refusal:
        PatchVAE.from_release(tmp_path / "a.pt")
    assert "\n" not in str(refusal.value)
    seen("names or options of a release of other types", "one sentence")


# 7. The report.


@pytest.mark.parametrize(
    "name", some(["empty.png", "endless.png", "../config.json", "/etc/hostname", "link.png", "pipe.png", "text.png"], 2)
)
def test_a_report_shows_pictures_of_the_run_alone(run, capsys, name, seen):
    accepted("measure", run)
    accepted("figures", run)
    figures = run / "figures"
    (figures / "link.png").symlink_to(run.parent / "outside.png")
    (run.parent / "outside.png").write_bytes(next(figures.glob("parts.png")).read_bytes())
    (figures / "endless.png").symlink_to("/dev/zero")
    (figures / "text.png").write_text("secret")
    whole = (figures / "parts.png").read_bytes()
    (figures / "empty.png").write_bytes(whole[:16] + bytes(4) + whole[20:])  # of width 0
    os.mkfifo(figures / "pipe.png")
    index = json.loads((figures / "index.json").read_text())
    (figures / "index.json").write_text(json.dumps([*index, {"file": name, "title": "a", "text": "b"}]))
    sentence = refused(capsys, "report", run, "--out", run / "report.html")
    assert name in sentence
    assert not (run / "report.html").exists()
    seen("a figures index that names a file outside of the run, a link, a pipe, a device, no picture", "one sentence")


@pytest.mark.parametrize("name", ["a\0.png", "\ud800.png", "../two\nlines.png", ""])
@pytest.mark.parametrize("key", ["file", "dark"])
def test_a_figures_index_with_names_of_no_file(tmp_path, key, name, seen):
    figures = tmp_path / "figures"
    figures.mkdir()
    picture = PIL.new("RGB", (1, 1))
    picture.save(figures / "parts.png")
    entry = {"file": "parts.png", "title": "a", "text": "b", "dark": "parts.png", "heading": 0, key: name}
    (figures / "index.json").write_text(json.dumps([entry]))
    with pytest.raises((ValueError, OSError), match=re.escape(str(figures))) as refusal:
        run_record(tmp_path, "run")
    assert str(refusal.value).isprintable()
    seen("names in a figures index that no file can have", "one sentence")


# 8. Pipes, devices, giants and bombs.


@pytest.mark.parametrize("kind", ["pipe", "device", "sparse", "loop"])
def test_no_image_at_all(tmp_path, capsys, kind, seen):
    folder = folder_of_images(tmp_path / "images")
    bad = folder / "a" / "9.bmp"
    if kind == "pipe":
        os.mkfifo(bad)
    elif kind == "device":
        bad.symlink_to("/dev/zero")
    elif kind == "loop":
        bad.symlink_to(bad)
    else:
        with bad.open("wb") as file:
            file.truncate(1 << 36)
    began = time.monotonic()
    assert "a/9.bmp" in refused(capsys, *train_on(folder, tmp_path / "run"), "--strict")
    if kind == "loop":
        assert "a/9.bmp" in refused(capsys, "pack", folder, tmp_path / "set.npy", "--image-size", 8)
    else:
        accepted("pack", folder, tmp_path / "set.npy", "--image-size", 8)
        assert "a/9.bmp" in (tmp_path / "set.bad.txt").read_text()
    assert time.monotonic() - began < 10
    seen("a pipe, a link to a device, a circle of links or a sparse file among images", "one sentence")


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "measures.json", "transfer.json", "record.json",
                                  "model/config.json", "model/weights.pt", "figures/index.json"])  # fmt: skip
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_no_file_of_a_run(run, capsys, name, kind, seen):
    path = run / name
    path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    for own in ("measures.json", "figures/index.json"):  # which are drawn anew where they are missing
        if name != own:
            (run / own).parent.mkdir(exist_ok=True)
            (run / own).write_text("{}" if own == "measures.json" else "[]")
            os.utime(run / own, (time.time() + 100,) * 2)
    command = ("measure", run) if name.startswith(("model", "record")) else ("report", run, "--out", run / "r.html")
    if name in ("measures.json", "figures/index.json"):
        command = ("report", run, "--out", run / "r.html")
        assert cli.main([str(word) for word in command]) == 0  # a whole one takes its place
        capsys.readouterr()
        return
    assert name.split("/")[-1].split(".")[0] in refused(capsys, *command)
    seen("a pipe or a device in place of a file of a run", "one sentence")


def test_images_that_do_not_fit_into_memory(tmp_path, monkeypatch, capsys, seen):
    monkeypatch.setattr(memory, "memory", lambda: 500)
    folder = folder_of_images(tmp_path / "images")
    assert "takes 0.0 GB of memory" in refused(capsys, *train_on(folder, tmp_path / "run"))
    assert "takes 0.0 GB of memory" in refused(capsys, *train_on(save(tmp_path / "a.npz"), tmp_path / "run"))
    seen("images or arrays larger than memory", "one sentence, before they are read", 2)


@pytest.mark.parametrize("shape", some([(1 << 26,), (1, 2)], 1))
def test_members_that_inflate(tmp_path, capsys, shape, seen):
    path = tmp_path / "bomb.npz"
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("images.npy", "w") as file:
        file.write(header.getvalue())
        for _ in range(64):
            file.write(bytes(1 << 20))
    words = [sys.executable, "-m", "accel", *map(str, train_on(path, tmp_path / "run"))]
    limited = ["bash", "-c", f'ulimit -v {8 << 20}; exec "$@"', "limited", *words]
    done = subprocess.run(limited, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("patchvae: ")
    assert done.stderr.count("\n") == 1
    seen(
        "members of a .npz file that inflate to other sizes than their headers say, or to wrong shapes", "one sentence"
    )


def test_deflated_weights(run, seen):
    path = run / "model" / "weights.pt"
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(ValueError, match=r"weights\.pt: .*its contents are compressed"):
        load_tensors(path)
    seen("weights of which the archive is compressed, and may inflate to anything", "one sentence")


@pytest.mark.parametrize("layout", ["strides of 0 in one number", "no storage", "sparse"])
def test_weights_that_are_no_plain_tensors(run, layout, seen):
    path = run / "model" / "weights.pt"
    weights = torch.load(path, weights_only=True)
    name = next(iter(weights))
    path.write_bytes(tensors_to_bytes(weights | {name: LAYOUTS[layout](weights[name])}))
    with pytest.raises(ValueError, match=r"weights\.pt"):
        PatchVAE.from_pretrained(run / "model")
    seen("sparse weights, weights without storage, or larger than their storage", "one sentence")


class OneUnit(Inception):
    """Reads a file of weights as Inception does, but has one unit."""

    def __init__(self):
        torch.nn.Module.__init__(self)
        self.unit = Unit(3, 2, 3)


@pytest.mark.parametrize("damage", ["text", "a cut archive"])
def test_weights_of_inception(tmp_path, damage, seen):
    path, weights = tmp_path / "inception.pth", OneUnit().state_dict()
    path.write_bytes(tensors_to_bytes(weights | {"unit.bn.num_batches_tracked": 3}))
    if damage == "a cut archive":
        whole = tensors_to_bytes(weights)
        path.write_bytes(whole[:-60] + whole[-22:])  # the directory of members is cut, its end is not
    with pytest.raises(ValueError, match=r"inception\.pth: not "):
        OneUnit.from_file(path)
    path.write_bytes(tensors_to_bytes(weights))
    assert OneUnit.from_file(path).state_dict().keys() == weights.keys()
    seen("weights of FID's network that are damaged, or hold a number for a tensor", "one sentence")


# 9. Two processes.


def test_a_folder_is_held_by_one_process_at_a_time(tmp_path, capsys, seen):
    data, out = save(tmp_path / "tiny.npz"), tmp_path / "run"
    words = ("train", "--data", data, *SMALL, "--epochs", 100_000, "--out", out)
    first = start(*words)
    try:
        wait_until(first, lambda: (out / "model").exists())
        sentence = refused(capsys, "train", "--resume", "--out", out)
        assert f"is in use by process {first.pid} on" in sentence
        seen("a second process that resumes a run which is being trained", "one sentence that names the first")
    finally:
        first.send_signal(signal.SIGKILL)
        first.communicate()
    assert (out / LOCK).exists()  # of a process that is dead, which holds nothing
    epochs = checkpoint.read(out)["epoch"]
    accepted("train", "--resume", "--out", out, "--epochs", epochs)
    assert not (out / LOCK).exists()
    seen("a lock left by a process that was killed", "the run goes on")


def test_who_waits_gets_the_folder_and_a_file_system_without_locks_is_used(tmp_path, monkeypatch):
    with held(tmp_path):
        with pytest.raises(BlockingIOError, match=f"process {os.getpid()} on"), held(tmp_path):
            pass
        waiting = subprocess.Popen(
            [sys.executable, "-c", "import sys, pathlib; from accel.common.files import held\n"
             "with held(pathlib.Path(sys.argv[1]), wait=True): print('held')", str(tmp_path)],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(1)
    assert waiting.communicate(timeout=300)[0] == "held\n"

    def without(*_):
        raise OSError(fcntl.LOCK_EX and 95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", without)
    with held(tmp_path):
        pass


# 10. Closed streams.


@pytest.mark.parametrize("closed", some([">&-", "2>&-", "<&- >&- 2>&-"], 0))
def test_closed_streams(tmp_path, closed, seen):
    data, out = save(tmp_path / "tiny.npz"), tmp_path / "run"
    words = [sys.executable, "-m", "accel", *map(str, train_on(data, out))]
    done = subprocess.run(
        ["bash", "-c", f'"$@" {closed}', "closed", *words], capture_output=True, text=True, check=False, timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert checkpoint.read(out)["epoch"] == 1
    seen("standard output, error or input closed", "training goes on to its end")


@pytest.mark.long
def test_a_terminal_that_is_closed_on_a_run_that_ignores_that(tmp_path, seen):
    """What is written to the terminal fails, what is written to the folder does not."""
    data = save(tmp_path / "tiny.npz")
    ignoring = ["bash", "-c", 'trap "" HUP; exec "$@"', "ignoring"]
    terminal, end = os.openpty()
    words = train_on(data, tmp_path / "run")
    process = start(*words, "--epochs", 3, stdin=end, stdout=end, stderr=end, prefix=ignoring)
    os.close(end)
    wait_until(process, lambda: (tmp_path / "run" / checkpoint.NAME).exists(), 600)
    os.close(terminal)
    assert process.wait(300) == 0
    accepted(*train_on(data, tmp_path / "whole"), "--epochs", 3)
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    seen(
        "a terminal that is closed, and a run that ignores the signal", "training goes on to its end; its log is whole"
    )


@pytest.mark.parametrize("name", some([b"a\xff", b"$\\frac$"], 1))
def test_names_that_are_no_text_or_look_like_formulas(tmp_path, name, seen):
    """Of a folder of images, which names a class, and of a run. Of twelve images one is held out."""
    pytest.importorskip("matplotlib")
    images, out = folder_of_images(tmp_path / "images"), tmp_path / os.fsdecode(name)
    (images / "a").rename(images / os.fsdecode(name))
    accepted(*train_on(images, out), "--image-size", 16)
    accepted("report", out)
    assert (out / "report.html").read_bytes().decode()
    seen("folders whose names are no text, or look like formulas", "pictures and a report, other characters as ?")


ODD_NAMES = [r"$\frac$", "\ud800"]


@pytest.mark.parametrize(
    "change",
    some([
        *(("transfer.json", "data", name) for name in ODD_NAMES), ("transfer.json", "last_top1", 2**31),
        *(("metrics.jsonl", name, 1.0) for name in ODD_NAMES), ("metrics.jsonl", "a", 1e308),
        *(("measures.json", "name", name) for name in ODD_NAMES), ("measures.json", "k_means", -(2**31)),
    ], 2),
)  # fmt: skip
def test_pictures_of_names_and_numbers_that_cannot_be_drawn(run, change, seen):
    file, key, value = change
    pytest.importorskip("matplotlib")
    if file == "metrics.jsonl":
        line = json.loads((run / file).read_text())
        (run / file).write_text("".join(json.dumps(line | entry) + "\n" for entry in ({}, {key: value})))
    elif file == "transfer.json":
        entry = {"protocol": "knn", "data": "a", "seed": 0, "epochs": 0, "last_top1": 50.0, key: value}
        (run / file).write_text(json.dumps({"results": [entry]}))
    else:
        names = ("average_precision", "localisation_error", "coverage", "k_means", "untrained", "chance")
        entry = dict.fromkeys(names, 0.5) | {"name": "a", "part": 0, key: value}
        (run / file).write_text(json.dumps({"types": [entry]}))
    accepted("figures", run)
    seen("names and numbers of a run's files that matplotlib cannot draw", "pictures, other characters as ?")


def test_a_report_replaces_no_device(run, tmp_path, capsys, seen):
    """As root, /dev/null would have become a file."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("/dev/full")
    for name, kind in (("pipe", "a pipe"), ("folder", "a folder"), ("link", "a device")):
        assert f"{name} is {kind}, expected a file" in refused(capsys, "report", run, "--out", tmp_path / name)
        seen("a device, a pipe or a folder in place of a report", "one sentence, nothing replaced")
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "link").is_symlink()


def test_the_file_that_cannot_be_written_is_named(run, capsys):
    """And not another one that is written with it."""
    for name in ("config.json", "model/config.json"):
        (run / name).unlink()
        (run / name).mkdir()
        sentence = refused(capsys, "train", "--resume", "--out", run, "--epochs", 2)
        assert f"could not write {run / name} (Is a directory)" in sentence
        (run / name).rmdir()


def test_output_that_cannot_be_written(tmp_path, capsys, monkeypatch, seen):
    data = save(tmp_path / "tiny.npz")
    for name, stream in (("standard output", "stdout"), ("standard error", "stderr")):
        with open("/dev/full", "w") as full, monkeypatch.context() as patch:
            patch.setattr(sys, stream, full)
            with pytest.raises(OSError, match=rf"could not write to {name} \(No space left on device\)"):
                cli.run([str(word) for word in train_on(data, tmp_path / stream)])
        accepted("train", "--resume", "--out", tmp_path / stream)
        seen("a full disk behind standard output or error", "one sentence, nothing lost")


@pytest.mark.long
def test_a_terminal_that_knows_ascii_alone(tmp_path, seen):
    data = save(tmp_path / "tiny.npz")
    for words in (train_on(data, tmp_path / "run"), ("train", "--help"), ("measure", tmp_path / "run")):
        process = start(*words, environment={"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"})
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        seen("a terminal that knows ASCII alone", "other characters are shown as ?")


# 11. Tracebacks and misleading sentences.


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--data", ""), "--data must be text that is not empty"),
        (("--data", "a\0b"), "--data must be text that is not empty and has no NUL"),
        (("--out", " "), "--out must be text that is not empty"),
        (("--lr", "1"), "unknown option --lr (nearest: --learning-rate)"),
        (("--num-parts", 2**70), "--num-parts must be a whole number below 2^63"),
        (("--num-parts", 2**40), "--num-parts must be from 1 to 65536"),
        (("--image-size", 2**31), "--image-size must be from 1 to 65536"),
        (("--epochs", 2**63), "--epochs must be a whole number below 2^63"),
        (("--head-kernel-size", 99999999999), "--head-kernel-size must be odd, from 1 to 255"),
        (("--device", "cuda:99999999999999999999"), "--device must be auto, cpu, cuda or cuda:N"),
        (("--appearance-prior-mean", "1e300"), "a weight is not finite before the first step: the value of an option"),
        (("--data", "LOOP"), "no such data"),
        (("--out", "LOOP"), "loop is not a folder"),
        (("--out", "LOOP/run"), "symbolic links"),
        (("--out", "FILE"), "is not a folder"),
    ],
)  # fmt: skip
def test_options_that_ended_in_tracebacks(tmp_path, capsys, words, sentence, seen):
    data = save(tmp_path / "tiny.npz")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").touch()
    places = {"LOOP": tmp_path / "loop", "LOOP/run": tmp_path / "loop" / "run", "FILE": tmp_path / "file"}
    given = ["--data", data, *SMALL, "--epochs", 1, "--out", tmp_path / "run"]
    given += [places.get(word, word) for word in words]
    said = refused(capsys, "train", *given)
    assert sentence in said
    assert "last good state" not in said
    seen("options out of range, empty, misspelt, or that name circles of links", "one sentence")


def raw(shape, content=None, version=b"\x01\x00", text=None):
    text = text or f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}"
    header = text.encode().ljust(118) + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header + (content or b"")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"xx" + raw((24, 16, 16, 3), bytes(24 * 16 * 16 * 3)),
        raw((24, 16, 16, 3)),
        raw((-1, 16, 16, 3), bytes(768)),
        raw((1 << 62, 16, 16, 3), bytes(768)),
        raw((24, 16, 16, 3), bytes(10**5)),
        raw((), b"1"),
        raw(None, b"1"),
        raw("a", b"1"),
        raw((24, 16, 16, 3), bytes(24 * 16 * 16 * 3), version=b"\x09\x00"),
        raw(0, text="(" * 110),
        raw(0, text="{'descr': '|O', 'fortran_order': False, 'shape': (1,)}"),
        raw(0, text="{'descr': '<M8[D]', 'fortran_order': False, 'shape': (0,)}"),
    ],
)
def test_members_of_npz_files(tmp_path, capsys, content, seen):
    path = tmp_path / "bad.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", content)
    sentence = refused(capsys, *train_on(path, tmp_path / "run"))
    assert "bad.npz" in sentence
    assert "unsafe" not in sentence
    seen("members of .npz files without a header, with another one, or bytes before it", "one sentence")


@pytest.mark.parametrize("names", [np.array([b"\xff", b"a"]), np.array([0x9DFC0000, 97], "<u4").view("<U1")])
def test_class_names_that_are_no_text(tmp_path, capsys, names, seen):
    path = save(tmp_path / "bad.npz", class_names=names)
    assert "bad.npz: class_names must be valid Unicode" in refused(capsys, *train_on(path, tmp_path / "run"))
    seen("class names of a .npz file that are no text", "one sentence")


def test_archives_in_several_parts(run, tmp_path, capsys, seen):
    locator = b"PK\x06\x07" + struct.pack("<IQI", 0, 0, 2)  # of an archive in two parts, before the last 22 bytes
    weights = run / "model" / "weights.pt"
    for path in (save(tmp_path / "bad.npz"), weights):
        content = path.read_bytes()
        path.write_bytes(content[:-22] + locator + content[-22:])
    assert "bad.npz is not a complete .npz file" in refused(capsys, *train_on(tmp_path / "bad.npz", tmp_path / "out"))
    assert "weights.pt" in refused(capsys, "measure", run)
    seen("archives that say that they are one of several parts", "one sentence", 2)


@pytest.mark.parametrize("name", ["two\nlines", "test_image\x1b[2J"])
def test_a_member_whose_name_has_control_characters(tmp_path, capsys, name, seen):
    with zipfile.ZipFile(save(tmp_path / "bad.npz"), "a") as archive:
        archive.writestr(f"{name}.npy", b"")
        archive.writestr("images.npy", b"")
    sentence = refused(capsys, *train_on(tmp_path / "bad.npz", tmp_path / "run"))
    assert repr(name) in sentence
    seen("a member of a .npz file whose name has control characters", "one sentence")


def test_a_member_whose_name_is_no_text(tmp_path, capsys, seen):
    path = save(tmp_path / "bad.npz")
    content = bytearray(path.read_bytes().replace(b"test_images.npy", b"test_image\xff.npy"))
    for kind, flags in ((b"PK\x01\x02", 9), (b"PK\x03\x04", 7)):  # entries of the directory, and before the members
        for found in re.finditer(re.escape(kind), bytes(content)):
            content[found.start() + flags] |= 8  # the name is UTF-8
    path.write_bytes(content)
    assert "bad.npz is damaged: 'utf-8' codec can't decode" in refused(capsys, *train_on(path, tmp_path / "run"))
    seen("a member of a .npz file whose name is no text", "one sentence")


def test_results_of_a_table_that_lack_their_time(tmp_path, seen):
    config = tiny_config(tmp_path)
    entry = {"protocol": "knn", "data": "tiny", "seed": 0, "epochs": 0, "last_top1": 50.0}
    (tmp_path / "transfer.json").write_text(json.dumps({"results": [entry]}))
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1, "seconds": 2.5}\n')
    assert Job(None, config, ("knn",), 0).seconds() == 2.5
    seen("results in transfer.json without the seconds that they took", "counted as none")


@pytest.mark.parametrize("lacking", ["config", "data", "epoch", "batch", "history", "training", "training.number",
                                     "training.networks", "training.optimisers", "training.sums"])  # fmt: skip
@pytest.mark.parametrize("how", some(["lacks", "is text", "is 2^64"], 1))
def test_checkpoints_that_lack_something(run, capsys, lacking, how, seen):
    state = torch.load(run / checkpoint.NAME, weights_only=True)
    *path, key = lacking.split(".")
    inner = state[path[0]] if path else state
    if how == "lacks":
        del inner[key]
    else:
        inner[key] = "text" if how == "is text" else 2**64
    torch.save(state, run / checkpoint.NAME)
    assert "checkpoint.pt" in refused(capsys, "train", "--resume", "--out", run, "--epochs", 2)
    seen("a checkpoint that lacks something, or holds text or 2⁶⁴ in its place", "one sentence")


def test_a_checkpoint_that_contradicts_itself(run, capsys):
    state = torch.load(run / checkpoint.NAME, weights_only=True)
    state["batch"] = 1
    torch.save(state, run / checkpoint.NAME)
    assert "is inconsistent" in refused(capsys, "train", "--resume", "--out", run, "--epochs", 2)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, "1" * 5000, "\xff", "null", "[1]", "NaN", ""], ids=range(8)
)
@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "transfer.json", "model/config.json"])
def test_json_that_is_nested_long_or_something_else(run, capsys, name, text, seen):
    if (name, text) == ("metrics.jsonl", ""):
        return  # no epochs
    (run / name).write_bytes(text.encode("latin-1"))
    sentence = refused(capsys, "figures", run)
    assert name in sentence
    assert "set_int_max_str_digits" not in sentence
    seen("JSON that is nested 100,000 deep, has integers of 5,000 digits, or is something else", "one sentence")


@pytest.mark.parametrize(
    "change",
    [
        {"labels": ["a"]}, {"labels": 3}, {"labels": [0]}, {"names": {"a": 1}}, {"names": [1, 2]}, {"train": "6"},
        {"train": 0}, {"train": 10**6}, {"class_names": "ab"}, {"class_names": [1]}, {"supervised": [1]},
        {"supervised": [True]}, {"crc32": None}, {"bad": []}, {"digests": 1}, {"contents": 1}, {"labels": [2**64] * 12},
    ],
    ids=str,
)  # fmt: skip
def test_packed_descriptions_of_other_types(tmp_path, change, seen):
    path = packed(tmp_path)
    about = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(about | change))
    with pytest.raises(ValueError, match=r"set\.json: |set\.json lacks"):
        read_packed(path)
    seen("a packed array's description with values of other types", "one sentence")


def test_too_little_memory_says_what_to_lower(tmp_path, capsys, monkeypatch, seen):
    from accel.training import step

    data, out = save(tmp_path / "tiny.npz"), tmp_path / "run"
    original = step.TrainingStep.__call__

    def fail(self, *batch):
        if self.number == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total")
        original(self, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(step.TrainingStep, "__call__", fail)
        sentence = refused(capsys, *train_on(data, out))
    assert "(2.00 GiB more were needed)" in sentence
    assert "a new run with --batch-size 4" in sentence
    accepted("train", "--resume", "--out", out)
    accepted(*train_on(data, tmp_path / "whole"))
    assert_same_run(out, tmp_path / "whole")
    seen("memory runs out in training (a mocked GPU)", "one sentence that says what to lower; nothing lost")


@pytest.mark.parametrize(
    "command", ["train", "locate", "transfer", "measure", "figures", "report", "pack", "reproduce"]
)
def test_advice_on_memory_names_options_that_the_command_has(command, capsys, monkeypatch):
    def fail(given):
        raise MemoryError

    monkeypatch.setattr(cli.COMMANDS[command], "run", fail)
    places = {"pack": ["a", "b.npy"], "train": [], "reproduce": ["table1"], "locate": ["run", "a", "b.csv"]}
    places = places.get(command, ["run"])
    sentence = refused(capsys, command, *places)
    parser = cli.Parser()
    cli.COMMANDS[command].add_arguments(parser)
    named = [word.strip(",") for word in sentence.split() if word.startswith("--")]
    assert set(named) <= parser._option_string_actions.keys()
    assert ("--batch-size" in named) == (command in ("train", "transfer"))


def test_failed_download_leaves_no_folder(tmp_path, monkeypatch, capsys):
    from accel.data import cifar

    def fail(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(cifar.urllib.request, "urlopen", fail)
    assert "cifar10 could not be downloaded" in refused(
        capsys, "train", "--data", "cifar10", "--data-dir", tmp_path / "data", "--out", tmp_path / "run"
    )
    assert not (tmp_path / "data").exists()


def test_numbers_of_the_interface():
    model = PatchVAE(image_size=16, num_parts=2, part_dim=2, encoder="small")
    images = torch.zeros(1, 3, 16, 16)
    from accel import Noise

    for temperature in (torch.tensor(0.0), torch.tensor(float("nan")), torch.tensor(-1.0)):
        with pytest.raises(ValueError, match="temperature must be positive and finite"):
            model(images, temperature=temperature, noise=Noise())
    with pytest.raises(ValueError, match="floats from nan to nan"):
        model.eval()(torch.full_like(images, torch.nan))
    for beta in ({"beta_app": float("nan")}, {"beta_occ": float("inf")}, {"beta_occ": torch.tensor(float("nan"))}):
        with pytest.raises(ValueError, match=f"{next(iter(beta))} must be finite"):
            elbo(model(images), images, **beta)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_is_read_only(run, capsys):
    run.chmod(0o500)
    try:
        assert "cannot be written to" in refused(capsys, "train", "--resume", "--out", run, "--epochs", 2)
    finally:
        run.chmod(0o700)


def test_datasets_refuse_labels_from_anywhere():
    images = np.zeros((2, 8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match="set: test labels must be from 0 to 1, got 2, since there are 2 class names"):
        Dataset("set", ImageSet(images, np.array([0, 1])), ImageSet(images, np.array([0, 2])), ("a", "b"))


def test_tiny_config_is_of_this_version(tmp_path):
    assert train(tiny_config(tmp_path / "run", epochs=0), tiny_dataset()).exists()
