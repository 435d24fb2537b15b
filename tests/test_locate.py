"""`locate`: its table holds what the model finds, in pixels of the files, and bad input is named."""

import csv
import os
import re
from pathlib import Path

import numpy as np
import pytest

from accel import BetaVAE, PatchVAE, cli
from accel.data import draw_parts
from accel.evaluation import locate_parts

Image = pytest.importorskip("PIL.Image")
SCENES = draw_parts(12, first_image=10**6)


@pytest.fixture
def located(tmp_path, capsys):
    """Runs the command with the packaged model; returns the rows by file, and both outputs."""

    def run(source, *options, model="parts"):
        out = tmp_path / f"{len(list(tmp_path.iterdir()))}.csv"
        assert cli.main(["locate", str(model), str(source), str(out), "--device", "cpu", *options]) == 0
        said = capsys.readouterr()
        with out.open(newline="", errors="surrogateescape") as file:
            rows = {}
            for row in csv.DictReader(file):
                rows.setdefault(row.pop("file"), []).append({name: float(value) for name, value in row.items()})
        assert said.out.startswith(f"{out}: {sum(map(len, rows.values()))} occurrences of ")
        return rows, said.out, said.err

    return run


def enlarged(pixels, times, left=0, right=0):
    """An image `times` as large, with black columns beside it."""
    grown = pixels.repeat(times, 0).repeat(times, 1)
    return Image.fromarray(np.pad(grown, ((0, 0), (left, right), (0, 0))))


def test_places_are_in_pixels_of_the_files(tmp_path, located):
    """Enlarged by an integer and reduced again, pictures are nearly as before, so a part is found where it was."""
    for name, left, right, times in (("plain", 0, 0, 1), ("wide", 24, 144, 3)):
        folder = tmp_path / name / "any depth"
        folder.mkdir(parents=True)
        for number, pixels in enumerate(SCENES.images):
            enlarged(pixels, times, left, right).save(folder / f"{number}.png")
    plain, out, _ = located(tmp_path / "plain")
    assert " of 12 images, after " in out
    model = PatchVAE.from_pretrained("parts")
    found = locate_parts(model, SCENES.images)
    expected = [
        (f"any depth/{i}.png", *rest) for i, *rest in zip(found.image, found.part, found.x, found.y, strict=True)
    ]
    rows = [(file, row["part"], row["x"], row["y"]) for file in plain for row in plain[file]]
    assert sorted(rows) == sorted(expected)
    assert len(rows) > len(SCENES.images)
    # Nearly all cells of the truth are found, so x and y are not exchanged.
    cells = np.zeros((len(SCENES.images), 4, 4), bool)
    cells[found.image, (found.y // 8).astype(int), (found.x // 8).astype(int)] = True
    assert cells[SCENES.truth.any(1)].mean() > 0.9

    wide, _, _ = located(tmp_path / "wide")
    same = 0
    for file, before in plain.items():
        assert {row["width"] for row in wide[file]} == {24.0}
        now = {(row["part"], row["x"], row["y"]) for row in wide[file]}
        same += len(now & {(row["part"], 24 + 3 * row["x"], 3 * row["y"]) for row in before})
    assert same > 0.8 * len(rows)


def test_a_file_is_read_as_it_is_shown(tmp_path, located):
    tall = enlarged(SCENES.images[0], 2).crop((0, 0, 64, 64))
    tall.save(tmp_path / "upright.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter clockwise
    tall.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    upright, turned = (located(tmp_path / f"{name}.png")[0] for name in ("upright", "turned"))
    assert upright["upright.png"] == turned["turned.png"]


def test_the_threshold_and_files_that_are_no_images(tmp_path, located):
    folder = tmp_path / "folder"
    folder.mkdir()
    for number, pixels in enumerate(SCENES.images[:3]):
        Image.fromarray(pixels).save(folder / f"{number}.png")
    (folder / "notes.txt").write_text("no image")
    few, out, err = located(folder, "--threshold", "0.9")
    many, _, _ = located(folder, "--threshold", "0.1")
    sentence = f"{folder / 'notes.txt'} is not an image that Pillow can read"
    assert err == f"left out: {sentence}\n"
    (listed,) = re.findall(r" of 3 images, after \d+ s; (.*) lists what was left out\n", out)
    assert Path(listed).read_text() == f"{sentence}\n"
    assert all(0.9 <= row["probability"] <= 1 for rows in few.values() for row in rows)
    for file, rows in few.items():
        assert rows == [row for row in many[file] if row["probability"] > 0.9]


def test_many_files_are_read_in_groups(tmp_path, located, monkeypatch):
    monkeypatch.setattr("accel.commands.locate.AT_ONCE", 2)
    folder = tmp_path / "folder"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}a").write_text("no image")
        Image.fromarray(SCENES.images[number]).save(folder / f"{number}.png")
    rows, out, err = located(folder)
    assert list(rows) == [f"{number}.png" for number in range(5)]
    assert " of 5 images" in out
    sentences = [f"{folder / f'{number}a'} is not an image that Pillow can read" for number in range(5)]
    assert err.splitlines() == [f"left out: {sentence}" for sentence in sentences]


def test_any_name_of_a_file_is_kept(tmp_path, located):
    names = ["a,b.png", 'a "quoted" name.png', "two\nlines.png", "re\rturn.png", os.fsdecode(b"latin \xe9.png")]
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in names:
        with open(folder / name, "wb") as file:
            Image.fromarray(SCENES.images[0]).save(file, "PNG")
    rows, _, _ = located(folder)
    assert sorted(rows) == sorted(names)
    assert len({str(found) for found in rows.values()}) == 1


def test_bad_input_is_named_and_nothing_is_written(tmp_path, capsys):
    (tmp_path / "image.png").write_text("no image")
    (tmp_path / "empty").mkdir()
    BetaVAE(image_size=16, encoder="small").save_pretrained(tmp_path / "beta")
    PatchVAE(image_size=16, channels=1, encoder="small").save_pretrained(tmp_path / "grey")
    (tmp_path / "old.csv").write_text("mine")
    (tmp_path / "listed.left-out.txt").write_text("mine")
    (tmp_path / "circle" / "inside").mkdir(parents=True)
    (tmp_path / "circle" / "inside" / "again").symlink_to(tmp_path / "circle")
    cases = [
        (("parts", "image.png", "new.txt"), "new.txt must end in .csv"),
        (("parts", "image.png", "old.csv"), "old.csv already exists: remove it or choose another name"),
        (("parts", "image.png", "listed.csv"), "listed.left-out.txt already exists: remove it or choose another name"),
        (("parts", "missing", "new.csv"), "missing: no such file or folder, expected an image or a folder of images"),
        (("parts", "image.png", "new.csv"), "image.png is not an image that Pillow can read"),
        (("parts", "empty", "new.csv"), "no image of {}/empty can be read"),
        (("nothing", "empty", "new.csv"), "nothing: no such folder, expected one that save_pretrained wrote"),
        (("beta", "empty", "new.csv"), "holds a BetaVAE, not a PatchVAE"),
        (("grey", "empty", "new.csv"), "takes images with 1 channels, but files are read with 3"),
        (("parts", "image.png", "nowhere/new.csv"), "{}/nowhere/new.csv: No such file or directory"),
        (("parts", "circle", "new.csv"), "{}/circle/inside/again is a link to a folder that holds it: remove the link"),
        (("parts", "empty", "new.csv", "--threshold", "1"), "--threshold must be between 0.0 and 1.0"),
    ]
    before = sorted(tmp_path.iterdir())
    for (model, *rest), sentence in cases:
        paths = [str(tmp_path / word) if not word.startswith("-") and word != "1" else word for word in rest]
        model = model if model == "parts" else str(tmp_path / model)
        assert cli.main(["locate", model, *paths]) == 2
        said = capsys.readouterr()
        assert sentence.format(tmp_path) in said.err
        assert said.out == ""
        assert said.err.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "old.csv").read_text() == "mine"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_table_is_not_there(tmp_path, capsys, monkeypatch, error):
    enlarged(SCENES.images[0], 1).save(tmp_path / "image.png")

    def fail(*_, **__):
        raise error

    monkeypatch.setattr("accel.evaluation.locate_parts", fail)
    status = cli.main(["locate", "parts", str(tmp_path), str(tmp_path / "new.csv")])
    assert status == (130 if isinstance(error, KeyboardInterrupt) else 2)
    assert [path.name for path in tmp_path.iterdir()] == ["image.png"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_named_with_the_file(tmp_path, capsys):
    enlarged(SCENES.images[0], 1).save(tmp_path / "image.png")
    (tmp_path / "new.csv.partial").symlink_to("/dev/full")
    assert cli.main(["locate", "parts", str(tmp_path / "image.png"), str(tmp_path / "new.csv")]) == 2
    assert capsys.readouterr().err == f"patchvae: {tmp_path / 'new.csv'}: No space left on device\n"


def test_a_long_image_is_said_to_be_searched_in_its_middle_alone(tmp_path, located):
    Image.fromarray(np.zeros((30, 9000, 3), np.uint8)).save(tmp_path / "long.png")
    Image.fromarray(np.zeros((32, 300, 3), np.uint8)).save(tmp_path / "short.png")
    _, _, said = located(tmp_path)
    assert f"long images, of which only the middle was searched: 1, such as {tmp_path / 'long.png'}" in said
