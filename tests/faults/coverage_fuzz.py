"""Coverage-guided fuzzing of every reader of files: a value, or one sentence that names the file.

    pip install atheris
    python tests/faults/coverage_fuzz.py --seconds 3600 --corpus corpus

Every format of fuzz_targets.py gets an equal share of the seconds, which are the processor's, in a process of its own.
What the fuzzer finds ends the run of that format with the input beside the corpus; `--only npz --input FILE` reads that
again. A format that has had its share has its row in docs/reliability.md replaced. Not part of pytest: there is no
atheris for many Pythons.
"""

import argparse
import contextlib
import copy
import importlib
import io
import json
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import types
import warnings
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
HANG, MEMORY = 10, 4096  # seconds of the processor, and megabytes, that an input may take
STANDARD = ["pickle", "zipfile", "json", "tarfile"]  # modules whose branches guide the fuzzer, beside our own
# What changes seldom hit upon: signs of archives, pickles, headers and JSON.
WORDS = [
    b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07", b"\xff\xff\xff\xff",
    b"\x93NUMPY\x02\x00", b"'|O'", b"'<U4'", b"'<M8[D]'", b"'<f8'", b"True", b"-1", b"()", b"4611686018427387904",
    b"null", b"NaN", b"1e999", b"[[]]", b"{}", b'""', b'"\\ud800"', b'"\\n"', b"1" * 32, b"ctorch\nFloatStorage\n",
    b"ctorch\nBoolStorage\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch._utils\n_rebuild_parameter\n",
    b"ctorch._utils\n_rebuild_sparse_tensor\n", b"ctorch\ndevice\n", b"ctorch\nSize\n",
    b"ccollections\nOrderedDict\n", b"ccollections\nCounter\n", b"cargparse\nNamespace\n", b"cnumpy\ndtype\n",
    b"cnumpy.core.multiarray\n_reconstruct\n", b"c__builtin__\nset\n", b"ctorch\ncomplex64\n", b"\x80\x02",
    b"\x80\x04\x95", b"N", b"\x88", b"\x85", b"\x86", b"\x87", b"}", b"]", b")", b"(", b"R", b"b", b"Q", b"u", b"s",
    b"e", b"\x81", b"\x8a\x08", b"ustar\x00", b"././@PaxHeader", b"GNU.sparse.major=1\n", b"meta", b"cuda:0", b"BF16",
]  # fmt: skip
ODD = [None, True, -1, 0, 1, 2**31, 2**63 - 1, 2**64, 10**400, 0.5, -1e308, 1e308, 1e-320, float("nan"), "", "a", "\n",
       "\ud800", "../a", "/dev/zero", "$\\frac$", [], {}, [[]], [1, 2], {"a": 1}, [None]]  # fmt: skip

# The functions of fuzz_targets.py, which is imported where its imports are instrumented.
FORMATS = {
    "npz": "a .npz file",
    "npz_members": "the members of a .npz file",
    "npy": "a packed array",
    "description": "the description of a packed array",
    "journal": "the journal and the array of an interrupted packing",
    "image_files": "an image in a folder of images",
    "class_lists": "the lists of images of indoor67 and places205",
    "cifar_pickles": "the pickles of a CIFAR archive",
    "cifar_archive": "a CIFAR archive",
    "checkpoints": "the pickle in a checkpoint",
    "tensor_archive": "a file of tensors",
    "transfer_checkpoints": "the pickle in a transfer's checkpoint",
    "weights": "the pickle in weights",
    "safetensors": "weights in the format of safetensors",
    "release": "tensors in PyTorch's older format",
    "resnet_weights": "the pickle in weights of ResNet-18",
    "inception_weights": "weights of FID's Inception network",
    "json_files": "the JSON files and a picture of a run",
    "configuration": "the file given to `train --config`",
}


def changed_json(content, largest, seed):
    """Another value at one place of the JSON text in a content; None if there is none, perhaps after one byte."""
    draw = random.Random(seed)
    for start in (0, 1):
        lines = [content[start:]]
        with contextlib.suppress(ValueError, RecursionError):
            if start and len(content) > 2 and content.count(b"\n{"):
                lines = content[start:].splitlines()
            number = draw.randrange(len(lines))
            holder = [json.loads(lines[number])]
            change_one_place(holder, draw)
            lines[number] = json.dumps(holder[0]).encode()
            result = content[:start] + b"\n".join(lines)
            return result if len(result) <= largest else None
    return None


def change_one_place(holder, draw):
    """Replaces, removes, doubles or adds a value somewhere in nested containers."""
    places = []

    def walk(container):
        for key in container if isinstance(container, dict) else range(len(container)):
            places.append((container, key))
            if isinstance(container[key], (dict, list)):
                walk(container[key])

    walk(holder)
    place, key = draw.choice(places)
    other, of = draw.choice(places)
    value = copy.deepcopy(draw.choice([draw.choice(ODD), other[of]]))
    how = draw.choice(["replace", "replace", "remove", "add"])
    if how == "replace" or place is holder:
        place[key] = value
    elif how == "remove":
        del place[key]
    elif isinstance(place, dict):
        place[of if isinstance(of, str) else "a"] = value
    else:
        place.insert(key, value)


def one_input(path, write, read, content):
    """Reads the content; raises AssertionError for a refusal that is no sentence about the file."""
    write(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read()
    except (ValueError, OSError) as error:
        said = str(error)
        assert "\n" not in said, said
        assert "unsafe" not in said.lower(), said
        assert str(path) in said, said


def instrumented():
    """The module fuzz_targets, and what it reads with: our modules, STANDARD, and the readers of PyTorch and NumPy.

    Of the latter two these alone, since all of them would take minutes.
    """
    import atheris

    with atheris.instrument_imports(include=STANDARD):
        for name in STANDARD:
            importlib.import_module(name)
    import numpy.lib._format_impl
    import torch

    for owner in (numpy.lib._format_impl, torch._weights_only_unpickler.Unpickler):
        for function in vars(owner).values():
            if isinstance(function, types.FunctionType):
                atheris.instrument_func(function)  # in place
    with atheris.instrument_imports(include=["accel"]):
        return importlib.import_module("tests.faults.fuzz_targets")


def opened(target, folder):
    """What the target returns, without what it prints."""
    import atheris

    with atheris.instrument_imports(include=["accel", "PIL"]), contextlib.redirect_stdout(io.StringIO()):
        return target(folder)


def fuzz(name, target, seconds, corpus):
    """Changes one format in this process until its share is used up, then writes the number of its inputs."""
    import atheris

    folder = Path(tempfile.mkdtemp(prefix="fuzz"))
    path, write, read, seeds = opened(target, folder)
    write(seeds[0])
    read()  # which must be a value, or every change would be refused for the same reason
    seeded = corpus / name
    seeded.mkdir(parents=True, exist_ok=True)
    for index, seed in enumerate(seeds):
        (seeded / f"seed{index}").write_bytes(seed)
    words = corpus / "words"
    words.write_text("".join('"{}"\n'.format("".join(f"\\x{byte:02x}" for byte in word)) for word in WORDS))
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

    def mutate(content, largest, seed):
        changed = changed_json(content, largest, seed) if seed % 2 else None
        return atheris.Mutate(content, largest) if changed is None else changed

    options = [f"-timeout={60 * HANG}", f"-rss_limit_mb={MEMORY}", f"-artifact_prefix={corpus / name}.",
               f"-dict={words}", f"-max_len={max(4096, 2 * max(map(len, seeds)))}", "-keep_seed=1",
               "-print_final_stats=1"]  # fmt: skip
    atheris.Setup([sys.argv[0], *options, str(seeded)], test, custom_mutator=mutate)
    atheris.Fuzz()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3600.0, help="of the processor, for all formats together")
    parser.add_argument("--corpus", type=Path, default=Path("corpus"), help="where inputs that reach new code are kept")
    parser.add_argument("--only", choices=FORMATS, action="append", help="this format, in place of all")
    parser.add_argument("--input", type=Path, help="read this input alone")
    given = parser.parse_args()
    names, corpus = given.only or list(FORMATS), given.corpus.absolute()
    targets = instrumented()
    if given.input:
        with tempfile.TemporaryDirectory() as folder:
            path, write, read, _ = opened(getattr(targets, names[0]), Path(folder))
            return one_input(path, write, read, given.input.read_bytes())

    from tests.faults import reliability

    total, stopped = 0, []
    for name in names:
        child = os.fork()
        if child == 0:
            fuzz(name, getattr(targets, name), given.seconds / len(names), corpus)
        if os.waitpid(child, 0)[1]:
            stopped.append(name)
            continue
        ran = int((corpus / f"{name}.count").read_text())
        total += ran
        print(f"{name}: {ran:,} inputs", flush=True)
        row = f"{FORMATS[name]}, mutated by fuzzing guided by coverage", "a value, or one sentence"
        reliability.update(ROOT / "docs" / "reliability.md", {(*row, f"fuzz_targets.py::{name}"): ran})
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{total:,} inputs in {used.ru_utime + used.ru_stime:,.0f} seconds of the processor")
    if stopped:
        sys.exit(f"stopped, see above: {', '.join(stopped)}; the inputs are {corpus}/NAME.*")
    return None


if __name__ == "__main__":
    main()
