"""Packing gives the images of the folder, and the same bytes after any interruption; left-out files are reported."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from accel import cli
from accel.data import Batches, load, packed
from accel.data.folders import list_folder
from accel.data.packed import pack

Image = pytest.importorskip("PIL.Image")
ROOT = Path(__file__).parents[2]
SIZE = 8


def draw(path, rng):
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = rng.integers(SIZE, 3 * SIZE, 2)
    Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path):
    """Two classes of 15 pictures each, of many sizes."""
    rng = np.random.default_rng(0)
    for name in ("cat", "hound"):
        for number in range(15):
            draw(tmp_path / "pictures" / name / f"{number}.png", rng)
    return tmp_path / "pictures"


@pytest.fixture(autouse=True)
def many_chunks(monkeypatch):
    """Makes chunks so small that there are several, each committed separately."""
    monkeypatch.setattr(packed, "CHUNK", 4)
    monkeypatch.setattr(packed, "COMMIT_EVERY", 0)


def files_of(out):
    """Every file that packing has left, by its suffix after the common name."""
    return {path.name.removeprefix(out.stem): path.read_bytes() for path in out.parent.glob(f"{out.stem}.*")}


def assert_same_data(got, expected):
    assert got.class_names == expected.class_names
    for one, other in ((got.train, expected.train), (got.test, expected.test)):
        assert np.array_equal(one.images, other.images)
        assert (one.labels is None) == (other.labels is None)
        assert one.labels is None or (one.labels.dtype == np.int64 and np.array_equal(one.labels, other.labels))


def test_packed_is_what_the_folder_holds(folder, tmp_path):
    done = pack(list_folder(folder), tmp_path / "set.npy", SIZE)
    assert (done.num_train, done.num_test, done.bad) == (27, 3, {})
    assert set(files_of(done.path)) == {".npy", ".json"}
    dataset = load(done.path)
    assert isinstance(dataset.train.images, np.memmap)
    assert_same_data(dataset, load(folder, image_size=SIZE))
    assert_same_data(load(done.path, image_size=SIZE, train_images=5), load(folder, image_size=SIZE, train_images=5))

    streams = [Batches(load(source, image_size=SIZE).train, 4, 0, True, "cpu") for source in (done.path, folder)]
    for one, other in zip(*(batches.epoch(2) for batches in streams), strict=True):
        assert np.array_equal(one.images, other.images)
        assert np.array_equal(one.labels, other.labels)


@pytest.mark.parametrize("held_out", ["test", "val"])
def test_splits_with_and_without_classes(folder, tmp_path, held_out):
    rng = np.random.default_rng(1)
    for layout in ("{split}/{number}.png", "{split}/{name}/{number}.png"):
        root = tmp_path / str(len(layout))
        for split, count in (("train", 5), (held_out, 2)):
            for number in range(count):
                draw(root / layout.format(split=split, name="ab"[number % 2], number=number), rng)
        done = pack(list_folder(root), root / "set.npy", SIZE)
        assert (done.num_train, done.num_test) == (5, 2)
        (root / "set.npy").rename(tmp_path / "set.npy")
        (root / "set.json").rename(tmp_path / "set.json")
        assert_same_data(load(tmp_path / "set.npy"), load(root, image_size=SIZE))


def test_the_choice_of_images_for_classifiers_survives(folder, tmp_path):
    listing = list_folder(folder).with_test()
    chosen = np.arange(listing.num_train) % 3 > 0
    (folder / listing.files[1]).write_bytes(b"no image")
    pack(replace(listing, supervised=chosen), tmp_path / "set.npy", SIZE)
    dataset = load(tmp_path / "set.npy")
    assert np.array_equal(dataset.supervised, np.delete(chosen, 1))
    labelled = dataset.labelled_train()
    assert np.array_equal(labelled.images, dataset.train.images[dataset.supervised])
    assert np.array_equal(labelled.labels, dataset.train.labels[dataset.supervised])
    assert load(folder.parent / "set.npy", train_images=7).supervised.shape == (7,)


class Crash(BaseException):
    """An exception that no handler catches, like the end of the process."""


def test_an_interruption_at_any_moment_costs_nothing(folder, tmp_path, monkeypatch):
    """Fails at the k-th call that changes the disk, for every k, and resumes each time."""
    (folder / "cat" / "3.png").write_bytes(b"no image")
    monkeypatch.setattr(packed, "CHUNK", 10)
    listing = list_folder(folder)
    pack(listing, tmp_path / "whole.npy", SIZE)
    expected = files_of(tmp_path / "whole.npy")
    assert set(expected) == {".npy", ".json", ".bad.txt"}
    calls = 0
    limit = None

    def counted(original):
        def call(*arguments, **options):
            nonlocal calls
            calls += 1
            if calls == limit:
                raise Crash
            return original(*arguments, **options)

        return call

    for place, name in ((os, "fsync"), (os, "replace"), (Path, "unlink"), (Path, "write_text"), (os, "truncate")):
        monkeypatch.setattr(place, name, counted(getattr(place, name)))
    moments = 0
    while True:
        limit, calls = moments + 1, 0
        out = tmp_path / f"set{moments}.npy"
        try:
            pack(listing, out, SIZE)
        except Crash:
            moments += 1
        else:
            break
        limit = None
        pack(listing, out, SIZE)
        assert files_of(out) == expected
    assert moments >= 14  # three commits of two files each, and the beginning and the end


def test_any_prefix_of_the_journal_is_a_state_to_go_on_from(folder, tmp_path, monkeypatch):
    listing = list_folder(folder)
    out = tmp_path / "set.npy"
    pack(listing, tmp_path / "whole.npy", SIZE)
    expected = files_of(tmp_path / "whole.npy")
    monkeypatch.setattr(packed._Packing, "_finish", lambda self: (_ for _ in ()).throw(Crash))
    with pytest.raises(Crash):
        pack(listing, out, SIZE)
    monkeypatch.undo()
    partial, journal = (tmp_path / f"set.npy.{name}" for name in ("partial", "journal"))
    array, entries = partial.read_bytes(), journal.read_bytes()
    lengths = [(cut, len(array)) for cut in range(0, len(entries) + 1, 37)]
    lengths += [(len(entries), cut) for cut in range(0, len(array), len(array) // 5)]
    for journal_length, array_length in lengths:
        partial.write_bytes(array[:array_length])
        journal.write_bytes(entries[:journal_length])
        pack(listing, out, SIZE)
        assert files_of(out) == expected
        for path in (out, out.with_suffix(".json")):
            path.unlink()


def test_killed_and_resumed(folder, tmp_path):
    """After a SIGKILL from outside, nothing is lost and no process is left running."""
    slow = (
        "import sys, time; from accel import cli; from accel.data import packed; original = packed.decode\n"
        "def decode(*given): time.sleep(0.05); return original(*given)\n"
        "packed.decode, packed.CHUNK, packed.COMMIT_EVERY = decode, 2, 0\n"
        "sys.exit(cli.main(sys.argv[1:]))"
    )
    out = tmp_path / "set.npy"
    arguments = ["pack", str(folder), "--image-size", str(SIZE)]
    process = subprocess.Popen(
        [sys.executable, "-c", slow, *arguments, str(out)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    journal = tmp_path / "set.npy.journal"
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if journal.exists() and journal.read_bytes().count(b"\n") >= 4:
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.communicate()[0] == ""  # the pipe closes when its last holder, a process of the pool, ends
    assert process.returncode == -signal.SIGKILL
    assert not out.exists()
    done = len([outcome for line in journal.read_text().splitlines()[1:] for outcome in json.loads(line)])
    assert 6 <= done < 30
    assert cli.main([*arguments, str(out)]) == 0
    assert cli.main([*arguments, str(tmp_path / "whole.npy")]) == 0
    assert files_of(out) == files_of(tmp_path / "whole.npy")


def test_ctrl_c_says_how_far_it_came(folder, tmp_path, monkeypatch, capsys):
    original = packed._decoded

    def interrupted(paths, image_size):
        for number, chunk in enumerate(original(paths, image_size)):
            if number == 2:
                raise KeyboardInterrupt
            yield chunk

    monkeypatch.setattr(packed, "_decoded", interrupted)
    arguments = ["pack", str(folder), str(tmp_path / "set.npy"), "--image-size", str(SIZE)]
    assert cli.main(arguments) == 130
    assert capsys.readouterr().err == "patchvae: stopped after 8 of 30 files; run the same command again to go on\n"
    monkeypatch.undo()
    assert cli.main(arguments) == 0
    assert_same_data(load(tmp_path / "set.npy"), load(folder, image_size=SIZE))


def test_bad_files_are_left_out_by_name(folder, tmp_path, capsys):
    expected = load(folder, image_size=SIZE)
    names = [list_folder(folder).with_test().files[i] for i in (0, 11)]
    whole = (folder / names[0]).read_bytes()
    (folder / names[0]).write_bytes(whole[: len(whole) // 2])
    (folder / names[1]).write_text("width,height")
    out = tmp_path / "set.npy"
    for _ in range(2):  # the second time, all is there already
        assert cli.main(["pack", str(folder), "--image-size", str(SIZE), str(out)]) == 0
        text, err = capsys.readouterr()
        assert "25 training and 3 held-out images" in text
        assert err.startswith(f"2 of 30 files could not be read and are not in {out}: ")
        listed = out.with_suffix(".bad.txt").read_text().splitlines()
        for name, sentence in zip(names, listed, strict=True):
            assert sentence.startswith(str(folder / name))
            assert f"left out: {sentence}\n" in text
    dataset = load(out)
    assert np.array_equal(dataset.train.images, np.delete(expected.train.images, (0, 11), axis=0))
    assert np.array_equal(dataset.train.labels, np.delete(expected.train.labels, (0, 11)))


def test_a_split_without_any_good_image_is_refused(folder, tmp_path):
    listing = list_folder(folder).with_test()
    for name in listing.files[listing.num_train :]:
        (folder / name).write_bytes(b"")
    with pytest.raises(ValueError, match=r"no held-out image of .*pictures can be read; .*\.png is not an image"):
        pack(listing, tmp_path / "set.npy", SIZE)


def test_other_work_is_not_overwritten(folder, tmp_path, monkeypatch):
    listing, out = list_folder(folder), tmp_path / "set.npy"
    monkeypatch.setattr(packed._Packing, "_finish", lambda self: (_ for _ in ()).throw(Crash))
    with pytest.raises(Crash):
        pack(listing, out, SIZE)
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"set\.npy\.partial was started with other files or another --image-size"):
        pack(listing, out, SIZE + 1)
    pack(listing, out, SIZE)
    before = files_of(out)
    with pytest.raises(FileExistsError, match=r"set\.npy exists, and was not packed from these files"):
        pack(listing, out, SIZE + 1)
    assert files_of(out) == before
    with pytest.raises(ValueError, match=r"set\.npz must end in \.npy"):
        pack(listing, tmp_path / "set.npz", SIZE)


def test_a_full_disk_is_known_before_it_is_full(folder, tmp_path):
    with pytest.raises(OSError, match=r"set\.npy needs 90000\.0 GB more, but its disk has"):
        pack(list_folder(folder), tmp_path / "set.npy", 1_000_000)


def test_damaged_files_are_refused(folder, tmp_path):
    out = tmp_path / "set.npy"
    pack(list_folder(folder), out, SIZE)
    about = out.with_suffix(".json")
    array, text = out.read_bytes(), about.read_text()

    def refused(match, **options):
        with pytest.raises(ValueError, match=match):
            load(out, **options)

    refused(r"set\.npy holds images of 8×8: pack them again with --image-size 9", image_size=9)
    out.write_bytes(array[:-1])
    refused(r"set\.npy is not a complete \.npy file")
    out.write_bytes(b"")
    refused(r"set\.npy is not a complete \.npy file")
    np.save(out, np.zeros((3, 8, 8, 3), np.uint8))
    refused(r"set\.npy holds uint8 \(3, 8, 8, 3\), but set\.json beside it describes 30 images")
    out.write_bytes(array)
    about.write_text("{}")
    refused(r"set\.json is not of format 'patchvae packed 1'")
    about.write_text('{"format": "patchvae packed 1"}')
    refused(r"set\.json lacks contents, names, train, labels, class_names, supervised, crc32, bad")
    about.write_text(text[:-9])
    refused(r"set\.json is not JSON")
    about.unlink()
    refused(r"set\.json is missing, which pack writes .*: save other arrays .* np\.savez\('FILE\.npz', images=array\)")


def test_not_a_folder(capsys, tmp_path):
    for source, sentence in (("nowhere", "no such data: nowhere"), ("cifar10", "cifar10 cannot be packed")):
        assert cli.main(["pack", source, str(tmp_path / "set.npy")]) == 2
        assert capsys.readouterr().err.startswith(f"patchvae: {sentence}")
