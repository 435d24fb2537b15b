"""Coverage-guided fuzzing of every reader of files: a value, or one sentence that names the file.

    pip install atheris
    python tests/faults/coverage_fuzz.py --seconds 3600 --corpus corpus

Every format gets an equal share of the seconds, which are the processor's, in a process of its own. What the fuzzer
finds ends the run with the input beside the corpus; `--only npz --input FILE` reads that again. A format that has had
its share has its row in docs/reliability.md replaced. Not part of pytest: there is no atheris for many Pythons.
"""

import argparse
import contextlib
import importlib
import io
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
HANG, MEMORY = 10, 4096  # seconds of the processor, and megabytes, that an input may take
STANDARD = ["pickle", "zipfile", "json", "tarfile"]  # modules whose branches guide the fuzzer, beside our own


def npz(folder):
    """The bytes of an archive."""
    from accel.data.arrays import read_npz
    from tests.faults.common import save

    path = save(folder / "set.npz")
    return path, path.write_bytes, lambda: read_npz(path), [path.read_bytes()]


def npz_members(folder):
    """An archive's members, whose checksums are right: a byte says which, the others are its contents."""
    import zipfile

    import numpy as np

    from accel.data.arrays import KEYS, read_npz
    from tests.faults.common import save

    path = save(folder / "set.npz", class_names=np.array(["a", "b"]))
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}

    def write(content):
        changed = {f"{KEYS[content[0] % len(KEYS)]}.npy": content[1:]} if content else {}
        with zipfile.ZipFile(path, "w") as archive:
            for name, member in (members | changed).items():
                archive.writestr(name, member)

    seeds = [bytes([KEYS.index(name.removesuffix(".npy"))]) + member for name, member in members.items()]
    return path, write, lambda: read_npz(path), seeds


def packed_set(folder):
    from tests.faults.common import accepted
    from tests.faults.test_found import folder_of_images

    path = folder / "set.npy"
    accepted("pack", folder_of_images(folder / "images", 2), path, "--image-size", 8)
    return path


def npy(folder):
    """A packed array, beside its description."""
    from accel.data.packed import read_packed

    path = packed_set(folder)
    return path, path.write_bytes, lambda: read_packed(path).train.images.sum(), [path.read_bytes()]


def description(folder):
    """The description of a packed array."""
    from accel.data.packed import read_packed

    path = packed_set(folder)
    about = path.with_suffix(".json")
    return path.with_suffix(""), about.write_bytes, lambda: read_packed(path).train.images.sum(), [about.read_bytes()]


def a_run(folder):
    """A run with everything that a run can have beside it."""
    from tests.faults.common import SMALL, accepted, save

    run = folder / "run"
    accepted("train", "--data", save(folder / "tiny.npz"), *SMALL, "--epochs", 1, "--out", run)
    accepted("measure", run)
    accepted("transfer", run, "--probe", "knn")
    return run


def rebuilt(path):
    """Writes a file of tensors whose pickle is the content, and whose tensors' numbers are the file's own."""
    import zipfile

    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    (name,) = (name for name in members if name.endswith("data.pkl"))

    def write(content):
        with zipfile.ZipFile(path, "w") as archive:
            for each, member in (members | {name: content}).items():
                archive.writestr(each, member)

    return write, [members[name]]


def checkpoints(folder):
    """The pickle in a checkpoint."""
    from accel.training import TrainingConfig, checkpoint, loop
    from tests.training.tiny import tiny_dataset

    run = a_run(folder)
    config = TrainingConfig(**{**checkpoint.read(run)["config"], "out": str(run), "epochs": 2})
    training = loop.Run(config, tiny_dataset())
    write, seeds = rebuilt(run / checkpoint.NAME)
    return run / checkpoint.NAME, write, lambda: training.restore(checkpoint.read(run)), seeds


def checkpoint_archive(folder):
    """The bytes of a checkpoint."""
    from accel.training import checkpoint

    run = a_run(folder)
    path = run / checkpoint.NAME
    return path, path.write_bytes, lambda: checkpoint.read(run), [path.read_bytes()]


def weights(folder):
    """The pickle in a file of weights."""
    from accel import PatchVAE

    model = a_run(folder) / "model"
    write, seeds = rebuilt(model / "weights.pt")
    return model / "weights.pt", write, lambda: PatchVAE.from_pretrained(model), seeds


def release(folder):
    """Tensors in PyTorch's older format, as of the authors' release."""
    import torch

    from accel.models.release import read_release

    path = folder / "a.pt"
    torch.save({"args": 1, "vae_dict": {"a": torch.zeros(2, 3)}}, path, _use_new_zipfile_serialization=False)
    return path, path.write_bytes, lambda: read_release(path), [path.read_bytes()]


def json_files(folder):
    """The JSON files of a run: a byte says which, the others are its contents."""
    import json

    from accel import PatchVAE
    from accel.commands.report import run_record
    from accel.figures.report import html_report
    from accel.training import TrainingConfig, record

    run = a_run(folder)
    picture = run / "figures" / "parts.png"
    (run / "figures" / "index.json").write_text(json.dumps([{"file": picture.name, "title": "a", "text": "b"}]))
    names = ["config.json", "metrics.jsonl", "measures.json", "transfer.json", "figures/index.json", "record.json",
             "model/config.json"]  # fmt: skip
    whole = {name: (run / name).read_bytes() for name in names}

    def write(content):
        for name, text in whole.items():
            (run / name).write_bytes(text)
        if content:
            (run / names[content[0] % len(names)]).write_bytes(content[1:])

    def read():
        TrainingConfig.from_json_file(run / "config.json")
        record.read(run)
        PatchVAE.from_pretrained(run / "model")
        html_report([run_record(run, "run")], "made")

    return run, write, read, [bytes([index]) + text for index, text in enumerate(whole.values())]


def cifar(folder):
    """The pickles of an archive whose checksum is not compared: a byte says which, the others are its contents."""
    import dataclasses
    import hashlib
    import pickle
    import tarfile

    import numpy as np

    from accel.data.cifar import CIFAR10, read_cifar

    batch = {b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, 2]}
    meta = {b"label_names": [b"a", b"b", b"c"]}
    path = folder / CIFAR10.file_name

    def write(content):
        with tarfile.open(path, "w:gz", compresslevel=0) as tar:
            for number, name in enumerate([*CIFAR10.train, *CIFAR10.test, CIFAR10.meta]):
                value = meta if name == CIFAR10.meta else batch
                changed = content and content[0] % 7 == number
                member = content[1:] if changed else pickle.dumps(value, 2)
                info = tarfile.TarInfo(name)
                info.size = len(member)
                tar.addfile(info, io.BytesIO(member))

    def read():
        published = dataclasses.replace(CIFAR10, md5=hashlib.md5(path.read_bytes()).hexdigest())
        read_cifar(published, folder)

    seeds = [bytes([index]) + pickle.dumps(value, protocol)
             for index, value in ((0, batch), (5, batch), (6, meta)) for protocol in (0, 1, 2, 3, 4)]  # fmt: skip
    return path, write, read, seeds


FORMATS = {
    "npz": ("a .npz file", npz),
    "npz_members": ("the members of a .npz file", npz_members),
    "npy": ("a packed array", npy),
    "description": ("the description of a packed array", description),
    "checkpoints": ("the pickle in a checkpoint", checkpoints),
    "checkpoint_archive": ("a checkpoint", checkpoint_archive),
    "weights": ("the pickle in weights", weights),
    "release": ("tensors in PyTorch's older format", release),
    "json_files": ("the JSON files of a run", json_files),
    "cifar": ("the pickles of a CIFAR archive", cifar),
}


def one_input(path, write, read, content):
    """Reads the content; raises AssertionError for a refusal that is no sentence about the file."""
    write(content)
    try:
        read()
    except (ValueError, OSError) as error:
        said = str(error)
        assert "\n" not in said, said
        assert "unsafe" not in said.lower(), said
        assert path.name in said, said


def instrument(atheris):
    """The readers beneath ours; of PyTorch and NumPy these alone, since all of them would take minutes."""
    with atheris.instrument_imports(include=STANDARD):
        for name in STANDARD:
            importlib.import_module(name)
    import numpy.lib._format_impl
    import torch

    for owner in (numpy.lib._format_impl, torch._weights_only_unpickler.Unpickler):
        for function in vars(owner).values():
            if isinstance(function, types.FunctionType):
                atheris.instrument_func(function)  # in place


def fuzz(name, seconds, corpus, given):
    """Runs one format in this process until its share is used up, then writes the number of its inputs."""
    import atheris

    instrument(atheris)
    with atheris.instrument_imports(include=["accel"]):
        folder = Path(tempfile.mkdtemp(prefix="fuzz"))
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            path, write, read, seeds = FORMATS[name][1](folder)
    if given:
        return one_input(path, write, read, given.read_bytes())
    seeded = corpus / name
    seeded.mkdir(parents=True, exist_ok=True)
    for index, seed in enumerate(seeds):
        (seeded / f"seed{index}").write_bytes(seed)
    began, count = time.process_time(), 0

    def test(content):
        nonlocal count
        if time.process_time() - began > seconds:
            (corpus / f"{name}.count").write_text(str(count))
            shutil.rmtree(folder)
            os._exit(0)
        count += 1
        start = time.process_time()
        one_input(path, write, read, content)
        assert time.process_time() - start < HANG

    options = [f"-timeout={60 * HANG}", f"-rss_limit_mb={MEMORY}", f"-artifact_prefix={corpus / name}.",
               f"-max_len={max(4096, 2 * max(map(len, seeds)))}", "-print_final_stats=1"]  # fmt: skip
    atheris.Setup([sys.argv[0], *options, str(seeded)], test)
    atheris.Fuzz()
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3600.0, help="of the processor, for all formats together")
    parser.add_argument("--corpus", type=Path, default=Path("corpus"), help="where inputs that reach new code are kept")
    parser.add_argument("--only", choices=FORMATS, action="append", help="this format, in place of all")
    parser.add_argument("--input", type=Path, help="read this input alone")
    parser.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    names = given.only or list(FORMATS)
    share = given.seconds / len(names)
    if given.in_process or given.input:
        return fuzz(names[0], share, given.corpus, given.input)

    from tests.faults import reliability

    total = 0
    for name in names:
        again = [sys.executable, __file__, "--only", name, "--in-process", "--corpus", str(given.corpus)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": "/dev/shm"}
        done = subprocess.run([*again, "--seconds", str(share)], cwd=ROOT, env=environment, check=False)
        if done.returncode:
            sys.exit(f"{name}: see above; the input is {given.corpus / name}.*")
        ran = int((given.corpus / f"{name}.count").read_text())
        total += ran
        row = f"{FORMATS[name][0]}, changed where that reaches new code", "a value, or one sentence"
        reliability.update(ROOT / "docs" / "reliability.md", {(*row, f"coverage_fuzz.py::{name}"): ran})
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{total:,} inputs in {used.ru_utime + used.ru_stime:,.0f} seconds of the processor")
    return None


if __name__ == "__main__":
    main()
