"""Every file format that is read, changed at random: a value, or one sentence that names the file.

No traceback, no hang, nothing executed. JSON has a part of it replaced, taken away or added; files of bytes have bits
flipped, and parts cut out, doubled or put at another place. What is accepted is used, as a report or a training does.
"""

import copy
import io
import json
import pickle
import shutil
import time
import warnings

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accel import PatchVAE, cli
from accel.commands.report import run_record
from accel.data import arrays, packed
from accel.data.safe_pickle import safe_unpickle
from accel.figures.report import html_report
from accel.models.release import read_release
from accel.training import TrainingConfig, checkpoint, loop, record
from tests.data.test_cifar import pickled
from tests.faults.common import OUR_ERRORS, SMALL, accepted, save
from tests.faults.test_found import a_release, folder_of_images, run, trained  # noqa: F401
from tests.training.tiny import tiny_dataset

SHORT, LONG, HANG = 15, 500, 10.0
amounts = pytest.mark.parametrize("amount", [SHORT, pytest.param(LONG, marks=pytest.mark.long)], ids=["short", "long"])

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**31, 2**63, 2**64, -1, 0, 10**400])
    | st.floats()
    | st.text(max_size=5)
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


@st.composite
def changed_json(draw, document):
    """The document with one place changed."""
    result = copy.deepcopy(document)
    place, key, holder = result, None, None
    while isinstance(place, (dict, list)) and place and draw(st.integers(0, 3)):
        holder = place
        key = draw(st.sampled_from(sorted(place))) if isinstance(place, dict) else draw(st.integers(0, len(place) - 1))
        place = place[key]
    if holder is None:
        return draw(values)
    if draw(st.booleans()):
        holder[key] = draw(values)
    elif draw(st.booleans()):
        del holder[key]
    elif isinstance(holder, dict):
        holder[draw(st.text(max_size=5))] = draw(values)
    else:
        holder.insert(key, draw(values))
    return result


@st.composite
def changed_bytes(draw, content):
    """The content with a few places changed, more often at its beginning and end, where headers are."""
    result = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        end = max(1, len(result))
        anywhere, first, last = (
            st.integers(0, end - 1),
            st.integers(0, min(end, 300) - 1),
            st.integers(1, min(end, 300)),
        )
        place = draw(anywhere | first | last.map(lambda back, end=end: end - back))
        length = draw(st.integers(1, 9))
        how = draw(st.sampled_from(["flip", "flip", "write", "cut", "insert", "double", "truncate"]))
        if how == "flip":
            result[place : place + 1] = bytes([b ^ 1 << draw(st.integers(0, 7)) for b in result[place : place + 1]])
        elif how == "write":
            result[place : place + length] = draw(st.binary(min_size=length, max_size=length))
        elif how == "cut":
            del result[place : place + length]
        elif how == "insert":
            result[place:place] = draw(st.binary(min_size=1, max_size=9))
        elif how == "double":
            result[place:place] = result[place : place + 64]
        else:
            del result[place:]
    return bytes(result)


def attack(amount, strategy, write, read, seen, what):
    """Reads what is drawn so many times; whatever is not a value must be one sentence, in time."""
    ran = refusals = 0

    @settings(max_examples=amount, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(strategy)
    def once(content):
        nonlocal ran, refusals
        ran += 1
        write(content)
        began = time.monotonic()
        sentence = ""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read()
        except OUR_ERRORS as error:
            sentence = str(error)
            refusals += 1
        assert "\n" not in sentence
        assert "unsafe" not in sentence.lower()
        assert time.monotonic() - began < HANG

    once()
    assert refusals
    seen(f"{what}, changed at random", "a value, or one sentence", ran)


@pytest.fixture(scope="module")
def complete(trained, tmp_path_factory):  # noqa: F811
    """A run with everything that a run can have beside it."""
    folder = shutil.copytree(trained[0], tmp_path_factory.mktemp("complete") / "run")
    accepted("measure", folder)
    accepted("transfer", folder, "--probe", "knn")
    picture = folder / "figures" / "parts.png"
    entry = {"file": picture.name, "title": "a", "text": "b", "dark": picture.name, "heading": 30}
    (folder / "figures" / "index.json").write_text(json.dumps([entry]))
    return folder


JSON = {
    "config.json": lambda folder: TrainingConfig.from_json_file(folder / "config.json"),
    "metrics.jsonl": None,
    "measures.json": None,
    "transfer.json": None,
    "figures/index.json": None,
    "record.json": lambda folder: record.read(folder),
    "model/config.json": lambda folder: PatchVAE.from_pretrained(folder / "model"),
}


@amounts
@pytest.mark.parametrize("name", JSON)
def test_json(complete, tmp_path, name, amount, seen):
    folder = shutil.copytree(complete, tmp_path / "run")
    path = folder / name
    read = JSON[name] or (lambda folder: html_report([run_record(folder, "run")], "made"))
    attack(
        amount,
        changed_json(json.loads(path.read_text())),
        lambda value: path.write_text(json.dumps(value)),
        lambda: read(folder),
        seen,
        f"`{name}`",
    )


@amounts
def test_description_of_a_packed_array(tmp_path, amount, seen):
    path = tmp_path / "set.npy"
    accepted("pack", folder_of_images(tmp_path / "images"), path, "--image-size", 8)
    about = path.with_suffix(".json")
    attack(
        amount,
        changed_json(json.loads(about.read_text())),
        lambda value: about.write_text(json.dumps(value)),
        lambda: packed.read_packed(path),
        seen,
        "the description of a packed array",
    )
    about.write_bytes(about.read_bytes())


@amounts
def test_packed_array(tmp_path, amount, seen):
    path = tmp_path / "set.npy"
    accepted("pack", folder_of_images(tmp_path / "images"), path, "--image-size", 8)
    attack(
        amount, changed_bytes(path.read_bytes()), path.write_bytes, lambda: packed.read_packed(path).train.images.sum(),
        seen, "a packed array",
    )  # fmt: skip


@amounts
def test_npz(tmp_path, amount, seen):
    path = save(tmp_path / "tiny.npz", class_names=np.array(["a", "b"]))
    attack(
        amount, changed_bytes(path.read_bytes()), path.write_bytes, lambda: arrays.read_npz(path), seen, "a .npz file"
    )


@amounts
def test_weights(complete, tmp_path, amount, seen):
    folder = shutil.copytree(complete / "model", tmp_path / "model")
    path = folder / "weights.pt"
    attack(
        amount, changed_bytes(path.read_bytes()), path.write_bytes, lambda: PatchVAE.from_pretrained(folder), seen,
        "weights",
    )  # fmt: skip


@amounts
def test_release_and_other_tensors(tmp_path, amount, seen):
    path = tmp_path / "a.pt"
    torch.save(a_release(), path, _use_new_zipfile_serialization=False)

    attack(
        amount, changed_bytes(path.read_bytes()), path.write_bytes, lambda: read_release(path), seen,
        "tensors in PyTorch's older format",
    )  # fmt: skip


@amounts
def test_checkpoint(complete, tmp_path, amount, seen):
    folder = shutil.copytree(complete, tmp_path / "run")
    path = folder / checkpoint.NAME
    config = TrainingConfig(**{**checkpoint.read(folder)["config"], "out": str(folder), "epochs": 2})
    run = loop.Run(config, tiny_dataset())  # noqa: F811
    attack(
        amount, changed_bytes(path.read_bytes()), path.write_bytes, lambda: run.restore(checkpoint.read(folder)), seen,
        "a checkpoint",
    )  # fmt: skip


def nodes(state, path=()):
    """The places of everything in nested containers."""
    yield path
    items = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, (list, tuple)) else ()
    for key, value in items:
        yield from nodes(value, (*path, key))


odd_tensors = st.sampled_from([
    torch.zeros(()), torch.zeros(3), torch.zeros(0), torch.zeros(2, 3, dtype=torch.int64), torch.zeros(3).to("meta"),
    torch.zeros(1).expand(1 << 40), torch.zeros(3).to_sparse(), torch.full((2,), torch.nan), torch.zeros(1 << 16)[::2],
    torch.zeros(2, dtype=torch.complex64), torch.ones(2, dtype=torch.bool),
])  # fmt: skip


@amounts
def test_state_in_a_checkpoint(complete, tmp_path, amount, seen):
    folder = shutil.copytree(complete, tmp_path / "run")
    path = folder / checkpoint.NAME
    state = torch.load(path, weights_only=True)
    config = TrainingConfig(**{**state["config"], "out": str(folder), "epochs": 2})
    run = loop.Run(config, tiny_dataset())  # noqa: F811
    batch = next(run.batches.epoch(0))
    places = [place for place in nodes(state) if place]

    def write(drawn):
        place, value = drawn
        changed = copy.deepcopy(state)
        holder = changed
        for key in place[:-1]:
            holder = holder[key]
        if not isinstance(holder, tuple):
            holder[place[-1]] = value
        torch.save(changed, path)

    def read():
        run.restore(checkpoint.read(folder))
        run.step(*batch)  # what is accepted is used

    attack(amount, st.tuples(st.sampled_from(places), values | odd_tensors), write, read, seen, "a checkpoint's state")


@amounts
def test_pickles(amount, seen):
    batch = {b"data": np.arange(24, dtype=np.uint8).reshape(2, 12), b"labels": [1, 2], b"name": b"x"}
    holder = {}
    attack(
        amount,
        st.sampled_from([pickled(batch), pickle.dumps(batch, 3), pickle.dumps(batch, 4)]).flatmap(changed_bytes),
        lambda content: holder.update(content=content),
        lambda: safe_unpickle(io.BytesIO(holder["content"])),
        seen,
        "a pickle of an archive",
    )


@amounts
def test_options_of_training(tmp_path, capsys, amount, seen):
    data = save(tmp_path / "tiny.npz")
    parser = cli.Parser()
    cli.COMMANDS["train"].add_arguments(parser)
    known = [name for name in parser._option_string_actions if name not in ("-h", "--help", "--out", "--resume")]
    words = st.text(max_size=6) | st.integers(-3, 9).map(str) | st.sampled_from(["nan", "inf", "1e400", str(2**64), ""])
    given_words = {}

    def read():
        arguments = ["--data", data, *SMALL, "--epochs", 0, "--out", tmp_path / "run", *given_words["words"]]
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        if "--epochs" in given_words["words"] and given_words["words"][-1].isdigit():
            return
        status = cli.main(["train", *map(str, arguments)])
        err = capsys.readouterr().err
        assert status in (0, 2)
        if status == 2:
            assert err.startswith("patchvae: "), err
            raise ValueError(err.strip())

    attack(
        amount, st.tuples(st.sampled_from(known), words), lambda pair: given_words.update(words=pair), read, seen,
        "options of `train`",
    )  # fmt: skip
