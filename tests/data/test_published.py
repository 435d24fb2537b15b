"""The paper's larger data sets, on small stand-ins of the same layout."""

from dataclasses import replace

import numpy as np
import pytest

from accel import cli
from accel.data import load, sources
from accel.data.published import INDOOR_LISTS, PLACES_IMAGES, PLACES_LISTS, PUBLISHED

Image = pytest.importorskip("PIL.Image")
SMALL = {"indoor67": (3, 9, 6), "places205": (3, 8, 4), "imagenet": (3, 9, 3)}  # classes, train, test


def draw(path, level):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 9), (level, level, level)).save(path, "PNG")


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    """Stand-ins whose pictures have levels of 50 for each class and 1 for each picture in it."""
    published = {}
    for name, (classes, train, test) in SMALL.items():
        published[name] = replace(PUBLISHED[name], classes=classes, train=train, test=test)
    monkeypatch.setattr(sources, "PUBLISHED", published)

    folder = tmp_path / "indoor67"
    for label, scene in enumerate(("bar", "gym", "inside_bus")):
        for number in range(5):
            draw(folder / "Images" / scene / f"{number}.jpg", 50 * label + number)
    for name, numbers in zip(INDOOR_LISTS, ((4, 0), (1, 3)), strict=True):
        lines = [f"{scene}/{number}.jpg" for number in numbers for scene in ("gym", "bar", "inside_bus")]
        (folder / name).write_text("\r\n".join(lines) + "\n\n")

    folder = tmp_path / "places205"
    places = ("a/abbey", "a/airport/inside", "z/zoo")
    (folder / PLACES_LISTS[0]).parent.mkdir(parents=True)
    for name, numbers in zip(PLACES_LISTS, (range(3), (7, 8)), strict=True):
        rows = [(f"{place}/{n}.jpg", label, n) for n in reversed(numbers) for label, place in enumerate(places)]
        rows = rows[: 8 if name == PLACES_LISTS[0] else 4]
        for file, label, number in rows:
            draw(folder / PLACES_IMAGES / file, 50 * label + number)
        (folder / name).write_text("".join(f"{file} {label}\n" for file, label, _ in rows))

    for split, numbers in (("train", range(3)), ("val", (5,))):
        for label, synset in enumerate(("n01440764", "n02000001", "n13000000")):
            for number in numbers:
                draw(tmp_path / "imagenet" / split / synset / f"{synset}_{number}.JPEG", 50 * label + number)
    return tmp_path


def levels(images):
    return images.images[:, 0, 0, 0].tolist()


def test_indoor67_trains_on_all_that_is_not_tested_and_classifies_by_the_list(data_dir):
    dataset = load("indoor67", data_dir=data_dir, image_size=8)
    assert dataset.name == "indoor67"
    assert dataset.class_names == ("bar", "gym", "inside_bus")
    assert levels(dataset.train) == [0, 2, 4, 50, 52, 54, 100, 102, 104]
    assert levels(dataset.test) == [1, 3, 51, 53, 101, 103]
    labelled = dataset.labelled_train()
    assert levels(labelled) == [0, 4, 50, 54, 100, 104]
    assert labelled.labels.tolist() == [0, 0, 1, 1, 2, 2]
    for part in (dataset.train, dataset.test):
        assert [level // 50 for level in levels(part)] == part.labels.tolist()


@pytest.mark.parametrize("name", PUBLISHED)
def test_packed_by_name_and_loaded_by_name(data_dir, name, capsys):
    out = data_dir / f"{name}.npy"
    arguments = ["pack", name, str(out), "--data-dir", str(data_dir), "--image-size", "8"]
    if name != "indoor67":
        with pytest.raises(ValueError, match=f"pack it once with python -m accel {' '.join(arguments[:5])}"):
            load(name, data_dir=data_dir, image_size=8)
    assert cli.main(arguments) == 0
    dataset = load(name, data_dir=data_dir)
    classes, train, test = SMALL[name]
    assert dataset.name == name
    assert isinstance(dataset.train.images, np.memmap)
    assert (len(dataset.train), len(dataset.test), len(dataset.class_names)) == (train, test, classes)
    for part in (dataset.train, dataset.test):
        assert [level // 50 for level in levels(part)] == part.labels.tolist()
    assert len(dataset.labelled_train()) == (6 if name == "indoor67" else train)


def test_places205_has_the_numbers_and_names_of_its_lists(data_dir):
    listing = sources.listing("places205", data_dir)
    assert listing.class_names == ("abbey", "airport/inside", "zoo")
    assert listing.files[:3] == ["a/abbey/2.jpg", "a/airport/inside/2.jpg", "z/zoo/2.jpg"]
    assert listing.labels.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 0, 1, 2, 0]
    assert listing.num_train == 8


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_is_not_there_is_to_be_downloaded(tmp_path, name):
    with pytest.raises(FileNotFoundError) as caught:
        load(name, data_dir=tmp_path)
    sentence = str(caught.value)
    assert all(needed in sentence for needed in PUBLISHED[name].needed)
    assert "http" in sentence
    assert sentence.endswith(f"and put them into {tmp_path / name}")
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("name", "gone", "sentence"),
    [
        ("indoor67", ["Images/gym/4.jpg"], r"Images lacks 1 of the 12 files that .* name: gym/4\.jpg$"),
        (
            "indoor67",
            [f"Images/bar/{n}.jpg" for n in (0, 1, 3, 4)],
            r"lacks 4 of the 12 files that .* name: bar/4\.jpg, bar/0\.jpg, bar/1\.jpg, …$",
        ),
        ("indoor67", ["Images/bar/2.jpg"], r"has 8 training images, expected 9: 1 are missing .* bar, has 2\)$"),
        ("places205", [f"{PLACES_IMAGES}/z/zoo/8.jpg"], r"lacks 1 of the 12 files that .* name: z/zoo/8\.jpg$"),
        ("imagenet", ["train/n02000001/n02000001_1.JPEG"], r"8 training images, expected 9: .* n02000001, has 2\)$"),
        ("imagenet", ["val/n02000001/n02000001_5.JPEG"], "has test images of 2 classes, expected 3"),
    ],
)
def test_what_is_incomplete_is_said(data_dir, name, gone, sentence):
    for file in gone:
        (data_dir / name / file).unlink()
    with pytest.raises(ValueError, match=sentence):
        load(name, data_dir=data_dir, image_size=8)


def test_other_numbers_of_classes_and_lists_of_other_kinds_are_refused(data_dir, monkeypatch):
    monkeypatch.setitem(sources.PUBLISHED, "imagenet", replace(sources.PUBLISHED["imagenet"], classes=4))
    with pytest.raises(ValueError, match="imagenet has training images of 3 classes, expected 4"):
        load("imagenet", data_dir=data_dir)
    (data_dir / "places205" / PLACES_LISTS[1]).write_text("a/abbey/1.jpg\n")
    with pytest.raises(
        ValueError, match=r"val_places205\.csv must consist of lines that hold a file name and its label"
    ):
        load("places205", data_dir=data_dir)


def test_the_sizes_that_were_published():
    """67 × 80 and 67 × 20 of 15,620 images are listed (paper, section 4); the other sizes are from the sets' pages."""
    sizes = {name: (p.classes, p.train, p.test) for name, p in PUBLISHED.items()}
    assert sizes == {
        "indoor67": (67, 14280, 1340),
        "places205": (205, 2448873, 20500),
        "imagenet": (1000, 1281167, 50000),
    }
