"""CIFAR: archives as written by Python 2, downloads from a local server, and malicious pickles."""

import contextlib
import dataclasses
import hashlib
import http.server
import io
import os
import pickle
import struct
import tarfile
import threading
import typing

import numpy as np
import pytest

from accel.data import cifar, load
from accel.data.safe_pickle import safe_unpickle

rng = np.random.default_rng(0)


class Python2Pickler(pickle._Pickler):
    """Writes bytes, ASCII strings and array types as Python 2 did, which wrote the original archives."""

    dispatch: typing.ClassVar = dict(pickle._Pickler.dispatch)

    def save_bytes(self, value):
        self.write(pickle.BINSTRING + struct.pack("<i", len(value)) + value)

    def save_str(self, value):
        self.save_bytes(value.encode("ascii"))

    dispatch[bytes], dispatch[str] = save_bytes, save_str

    def reducer_override(self, value):
        if isinstance(value, np.dtype):
            _, (name, align, copy), state = value.__reduce__()
            return np.dtype, (name, int(align), int(copy)), state
        return NotImplemented


def pickled(value):
    buffer = io.BytesIO()
    Python2Pickler(buffer, protocol=2).dump(value)
    return buffer.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def batch(archive, count, classes):
    rows = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
    return {
        b"data": rows,
        archive.labels: [int(label) for label in rng.integers(0, classes, count)],
        b"coarse_labels": [0] * count,
        b"filenames": [b"image.png"] * count,
    }


def tar(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def stand_in(archive, **changed):
    """A small archive in the original's layout: its description with the checksum, its bytes, its batches by member."""
    classes = 10 if archive.name == "cifar10" else 100
    batches = {name: batch(archive, 4, classes) for name in (*archive.train, *archive.test)}
    members = {name: pickled(content) for name, content in batches.items()}
    members["cifar/readme.html"] = b"<html>"
    members[archive.meta] = pickled({archive.class_names: [f"class {i}".encode() for i in range(classes)]})
    content = tar(members | changed)
    return dataclasses.replace(archive, md5=hashlib.md5(content).hexdigest()), content, batches


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("original", [cifar.CIFAR10, cifar.CIFAR100], ids=lambda archive: archive.name)
def test_reads_the_original_layout(tmp_path, original, monkeypatch):
    archive, content, batches = stand_in(original)
    (tmp_path / archive.file_name).write_bytes(content)
    monkeypatch.setattr("accel.data.sources." + original.name.upper(), archive)
    dataset = load(original.name, data_dir=tmp_path)
    assert dataset.name == original.name
    assert dataset.flip
    assert dataset.class_names[:2] == ("class 0", "class 1")
    assert len(dataset.class_names) == (10 if original.name == "cifar10" else 100)
    for part, names in ((dataset.train, archive.train), (dataset.test, archive.test)):
        rows = np.concatenate([batches[name][b"data"] for name in names])
        assert part.images.shape == (4 * len(names), 32, 32, 3)
        assert np.array_equal(part.images[3, 5, 7], rows[3, 5 * 32 + 7 :: 1024])  # planes of red, green and blue
        assert part.labels.tolist() == [label for name in names for label in batches[name][archive.labels]]
        assert part.labels.dtype == np.int64
    assert [entry.name for entry in tmp_path.iterdir()] == [archive.file_name]


def test_published_sources():
    assert cifar.CIFAR10.file_name == "cifar-10-python.tar.gz"
    assert cifar.CIFAR100.file_name == "cifar-100-python.tar.gz"
    assert cifar.CIFAR10.md5 == "c58f30108f718f92721af3b95e74349a"
    assert cifar.CIFAR100.md5 == "eb9058c3a382ffc7106e4002c42a8d85"


@contextlib.contextmanager
def served(content, *, declared=None, status=200):
    """The address of a file on a local server, which may break off before the declared length."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.send_header("Content-Length", str(len(content) if declared is None else declared))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/cifar-10-python.tar.gz"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")


def test_downloads_once(tmp_path, capsys):
    archive, content, _ = stand_in(cifar.CIFAR10)
    folder = tmp_path / "new" / "folder"
    with served(content) as url:
        archive = dataclasses.replace(archive, url=url)
        dataset = cifar.read_cifar(archive, folder)
    assert len(dataset.train) == 20
    assert url in capsys.readouterr().err
    assert [entry.name for entry in folder.iterdir()] == ["cifar-10-python.tar.gz"]
    assert (folder / archive.file_name).read_bytes() == content
    assert len(cifar.read_cifar(archive, folder).test) == 4  # the server is gone


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"cut": 100}, r"the connection broke off after \d+ of \d+ bytes"),
        ({"cut": 10**9}, r"the connection broke off after 0 of \d+ bytes"),
        ({"wrong": True}, "the MD5 checksum of the download is not"),
        ({"status": 404}, "Not Found"),
        ({"status": 500}, "Internal Server Error"),
    ],
)
def test_a_download_that_fails_leaves_nothing(tmp_path, change, reason):
    archive, content, _ = stand_in(cifar.CIFAR10)
    sent = content[: -change["cut"]] if "cut" in change else content
    if "wrong" in change:
        sent = content[:-1] + b"?"
    with served(sent, declared=len(content), status=change.get("status", 200)) as url:
        archive = dataclasses.replace(archive, url=url)
        with pytest.raises(OSError, match=reason) as caught:
            cifar.read_cifar(archive, tmp_path)
    sentence = str(caught.value)
    assert f"put cifar-10-python.tar.gz from {url} into {tmp_path}" in sentence
    assert "\n" not in sentence
    assert not list(tmp_path.iterdir())


def test_without_a_network_it_says_what_to_put_where(tmp_path):
    with served(b"") as url:
        pass  # nobody listens there any more
    archive = dataclasses.replace(cifar.CIFAR10, url=url)
    with pytest.raises(OSError, match=r"cifar10 could not be downloaded \(Connection refused\): put cifar-10-python"):
        cifar.read_cifar(archive, tmp_path)


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    archive, content, _ = stand_in(cifar.CIFAR10)
    (tmp_path / (archive.file_name + ".part")).symlink_to("/dev/full")
    with served(content) as url:
        archive = dataclasses.replace(archive, url=url)
        with pytest.raises(OSError, match=r"cifar-10-python\.tar\.gz\.part could not be written: No space left"):
            cifar.read_cifar(archive, tmp_path)


def test_another_file_in_its_place_is_refused_and_kept(tmp_path):
    path = tmp_path / cifar.CIFAR10.file_name
    path.write_bytes(b"something else")
    with pytest.raises(ValueError, match="is not the published archive") as caught:
        load("cifar10", data_dir=tmp_path)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == b"something else"


@pytest.mark.parametrize(
    "content",
    [
        pickled({b"data": rng.random((4, 3072)), b"labels": [0] * 4}),
        pickled({b"data": np.zeros((4, 3071), np.uint8), b"labels": [0] * 4}),
        pickled({b"data": np.zeros((4, 3072), np.uint8), b"labels": [0] * 5}),
        pickled({b"data": np.zeros((4, 3072), np.uint8), b"labels": [b"cat"] * 4}),
        pickled({b"labels": [0] * 4}),
        pickled([1, 2]),
        pickled({b"data": np.zeros((4, 3072), np.uint8), b"labels": [0] * 4})[:50],
    ],
)
def test_unexpected_batches_are_one_sentence(tmp_path, content):
    archive, file, _ = stand_in(cifar.CIFAR10, **{cifar.CIFAR10.test[0]: content})
    (tmp_path / archive.file_name).write_bytes(file)
    with pytest.raises(ValueError, match="does not have the content of cifar10") as caught:
        cifar.read_cifar(archive, tmp_path)
    assert "\n" not in str(caught.value)


class Call:
    """An object that pickles as a call of a function with arguments."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "attack",
    [
        lambda path: Call(os.system, f"touch {path}"),
        lambda path: Call(eval, f"open({str(path)!r}, 'w')"),
        lambda path: {b"data": Call(open, str(path), "w")},
        lambda path: [Call(getattr, np.ndarray, "tofile")],
        lambda path: Call(np.load, str(path)),
        lambda path: Call(np.fromfile, str(path)),
    ],
)
@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_names_anything_else_is_refused_and_not_run(tmp_path, attack, protocol):
    target = tmp_path / "touched"
    with pytest.raises(ValueError, match="expected plain data and arrays only"):
        safe_unpickle(io.BytesIO(pickle.dumps(attack(target), protocol)))
    assert not target.exists()


def test_a_malicious_archive_is_refused_and_not_run(tmp_path):
    target = tmp_path / "touched"
    attack = pickle.dumps(Call(os.system, f"touch {target}"))
    archive, content, _ = stand_in(cifar.CIFAR10, **{cifar.CIFAR10.train[2]: attack})
    (tmp_path / archive.file_name).write_bytes(content)
    with pytest.raises(ValueError, match=r"does not have the content of cifar10: .* it names posix\.system"):
        cifar.read_cifar(archive, tmp_path)
    assert not target.exists()


@pytest.mark.parametrize("protocol", [3, 4])
def test_plain_data_is_unpickled(protocol):
    value = {"a": [1, 2.5, None, True, (b"x", "ü", 2**70)], b"b": np.arange(6).reshape(2, 3)}
    got = safe_unpickle(io.BytesIO(pickle.dumps(value, protocol)))
    assert got["a"] == value["a"]
    assert np.array_equal(got[b"b"], value[b"b"])
