"""Folders of images: layouts, formats, and one sentence for each error."""

import io
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accel.data import load

Image = pytest.importorskip("PIL.Image")
rng = np.random.default_rng(0)


def draw(path, size=(10, 8), mode="RGB", level=None, **options):
    """Writes one picture, of one level or of noise, and returns its pixels as RGB."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    if level is not None:
        picture = Image.new("RGB", size, (level, level, level))
    picture = picture.convert(mode)
    picture.save(path, **options)
    return np.asarray(picture.convert("RGB"))


def levels(images):
    return images.images[:, 0, 0, 0].tolist()


def test_flat_in_natural_order(tmp_path):
    for number in (10, 9, 2, 1, 100, 33, 4, 5, 6, 7, 8):
        draw(tmp_path / f"img{number}.png", level=number)
    dataset = load(tmp_path)
    assert dataset.train.images.shape == (10, 8, 10, 3)
    assert dataset.train.labels is dataset.test.labels is dataset.class_names is None
    assert len(dataset.test) == 1
    assert levels(dataset.train) == sorted(levels(dataset.train))
    assert sorted(levels(dataset.train) + levels(dataset.test)) == [1, 2, 4, 5, 6, 7, 8, 9, 10, 33, 100]


def test_class_folders_with_names_of_any_script(tmp_path):
    for label, name in enumerate(["Hündin", "класс 2", "класс 10", "鳥"]):
        for image in range(3):
            draw(tmp_path / name / f"{image}.png", level=50 * label + image)
    dataset = load(tmp_path)
    assert dataset.class_names == ("Hündin", "класс 2", "класс 10", "鳥")
    for part in (dataset.train, dataset.test):
        assert [level // 50 for level in levels(part)] == part.labels.tolist()
        assert part.labels.dtype == np.int64
    assert len(dataset.train) == 11


@pytest.mark.parametrize("held_out", ["test", "val"])
def test_splits_with_classes(tmp_path, held_out):
    for split, names in (("train", "cab"), (held_out, "ca")):
        for name in names:
            for image in range(2):
                draw(tmp_path / split / name / f"{image}.png", level=ord(name) + (100 if split == "train" else 0))
    dataset = load(tmp_path)
    assert dataset.class_names == ("a", "b", "c")
    assert dataset.train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert dataset.test.labels.tolist() == [0, 0, 2, 2]
    assert levels(dataset.train) == [197, 197, 198, 198, 199, 199]
    assert levels(dataset.test) == [97, 97, 99, 99]


def test_splits_without_classes_and_train_alone(tmp_path):
    for image in range(4):
        draw(tmp_path / "train" / f"{image}.png", level=image)
    alone = load(tmp_path)
    assert len(alone.train) == 3
    assert alone.class_names is None
    draw(tmp_path / "test" / "0.png", level=9)
    dataset = load(tmp_path)
    assert levels(dataset.train) == [0, 1, 2, 3]
    assert levels(dataset.test) == [9]
    assert dataset.train.labels is dataset.test.labels is None


def test_a_class_called_train_among_others(tmp_path):
    for name in ("train", "plane"):
        for image in range(2):
            draw(tmp_path / name / f"{image}.png")
    assert load(tmp_path).class_names == ("plane", "train")


def test_hidden_files_are_ignored(tmp_path):
    for image in range(3):
        draw(tmp_path / "a" / f"{image}.png")
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", ".git/config", "a/.DS_Store", "a/.cache/x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"\x00")
    dataset = load(tmp_path)
    assert len(dataset.train) + len(dataset.test) == 3
    assert dataset.class_names == ("a",)


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("a.png", "RGB"),
        ("a.png", "L"),
        ("a.png", "1"),
        ("a.png", "P"),
        ("a.bmp", "RGB"),
        ("a.gif", "P"),
        ("a.tif", "CMYK"),
    ],
)
def test_modes_and_formats(tmp_path, name, mode):
    expected = draw(tmp_path / name, mode=mode)
    draw(tmp_path / "b.png")
    images = load(tmp_path, train_images=1)
    both = [images.train.images[0], images.test.images[0]]
    assert any(np.array_equal(expected, image) for image in both)


def load_one(path):
    """The pixels of a picture that is loaded alone from a folder."""
    folder = path.parent / "one"
    folder.mkdir()
    for copy in range(2):
        (folder / f"{copy}{path.suffix}").write_bytes(path.read_bytes())
    return load(folder).train.images[0]


def test_transparency_is_laid_over_white(tmp_path):
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[:, 2:] = (10, 20, 30, 255)
    pixels[0, 2:, 3] = 51
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = load_one(tmp_path / "a.png")
    assert (image[:, :2] == 255).all()
    assert (image[1:, 2:] == (10, 20, 30)).all()
    assert (image[0, 2:] == (206, 208, 210)).all()


def test_a_transparent_colour_of_a_palette_is_white(tmp_path):
    picture = Image.fromarray(np.array([[0, 1], [1, 1]], np.uint8)).convert("P")
    picture.putpalette([5, 5, 5, 90, 80, 70])
    picture.save(tmp_path / "a.png", transparency=0)
    assert load_one(tmp_path / "a.png").tolist() == [[[255] * 3, [90, 80, 70]], [[90, 80, 70], [90, 80, 70]]]


def test_sixteen_bits_become_eight(tmp_path):
    deep = np.array([[0, 257, 65535], [128, 129, 32768]], np.uint16)
    Image.fromarray(deep).save(tmp_path / "a.png")
    assert load_one(tmp_path / "a.png")[..., 0].tolist() == [[0, 1, 255], [0, 1, 128]]


def test_exif_orientation(tmp_path):
    picture = Image.fromarray(rng.integers(0, 256, (4, 6, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90° clockwise to see it upright
    picture.save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(load_one(tmp_path / "a.png"), np.rot90(np.asarray(picture), -1))


def test_image_size_brings_all_to_one(tmp_path):
    for number, size in enumerate([(40, 20), (20, 60), (16, 16), (8, 8)]):
        draw(tmp_path / f"{number}.jpg", size=size, level=60 * number, quality=95)
    dataset = load(tmp_path, image_size=16)
    assert dataset.train.images.shape == (3, 16, 16, 3)
    picture = Image.open(tmp_path / "0.jpg").resize((32, 16), Image.Resampling.BILINEAR)
    expected = np.asarray(picture)[:, 8:24]
    images = np.concatenate([dataset.train.images, dataset.test.images]).astype(int)
    assert min(np.abs(image - expected).max() for image in images) <= 1


def test_sizes_that_differ_are_named(tmp_path):
    draw(tmp_path / "a.png", size=(10, 8))
    draw(tmp_path / "b.png", size=(10, 8))
    draw(tmp_path / "c.png", size=(8, 10))
    with pytest.raises(ValueError, match=r"[ab]\.png is 10×8 pixels, but .*c\.png is 8×10: give an image size"):
        load(tmp_path)


def whole_picture(file_format):
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(buffer, file_format)
    return buffer.getvalue()


@pytest.mark.filterwarnings("ignore:Truncated File Read")
@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "BMP", "TIFF", "WEBP"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.95])
def test_a_truncated_file_is_named(tmp_path, file_format, share):
    content = whole_picture(file_format)
    for name in ("a", "c"):
        (tmp_path / f"{name}.img").write_bytes(content)
    (tmp_path / "b.img").write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=re.escape(str(tmp_path / "b.img"))) as caught:
        load(tmp_path, strict=True)
    assert "\n" not in str(caught.value)


@given(bad=st.sets(st.integers(0, 11), max_size=10), image_size=st.sampled_from([None, 8]))
@settings(max_examples=15, deadline=None)
def test_files_that_are_no_images_are_left_out_and_named(tmp_path_factory, bad, image_size):
    """The remaining images equal those of a folder without such files, with the same splits and labels."""
    folder = tmp_path_factory.mktemp("folder")
    for number in range(12):
        path = folder / ("train" if number < 8 else "test") / "ab"[number % 2] / f"{number}.png"
        draw(path, level=20 * number)
        if number in bad:
            path.write_bytes(path.read_bytes()[: number * 5])
    kept = [number for number in range(12) if number not in bad]
    splits = [number for number in kept if number < 8], [number for number in kept if number >= 8]
    if not all(splits):
        with pytest.raises(ValueError, match=r"no (training|held-out) image of .* can be read; .*\.png"):
            load(folder, image_size=image_size)
        return
    dataset = load(folder, image_size=image_size)
    for part, numbers in zip((dataset.train, dataset.test), splits, strict=True):
        assert sorted(levels(part)) == [20 * number for number in numbers]
        assert part.labels.tolist() == [level // 20 % 2 for level in levels(part)]
    assert sorted(int(sentence.split(".png")[0].rsplit("/")[-1]) for sentence in dataset.left_out) == sorted(bad)
    if bad:
        with pytest.raises(ValueError, match=r"\.png (is not an image|cannot be read)"):
            load(folder, image_size=image_size, strict=True)


def test_class_folders_are_descended_as_torchvision_does(tmp_path):
    """Covers the training images of tiny-imagenet, and archives made on macOS."""
    for split in ("Train", "VAL"):
        for label, name in enumerate("ab"):
            for number in range(3):
                draw(tmp_path / split / name / "images" / f"{number}.png", level=100 * label + number)
            draw(tmp_path / split / name / "top.png", level=100 * label + 50)
    for name in ("__MACOSX/Train/a/._0.png", "Train/a/images/._1.png", "Train/a/.hidden/2.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"\x00")
    dataset = load(tmp_path)
    assert dataset.left_out == ()
    for part in (dataset.train, dataset.test):
        assert levels(part) == [50, 0, 1, 2, 150, 100, 101, 102]
        assert part.labels.tolist() == [0] * 4 + [1] * 4


def build(tmp_path, *names):
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            (tmp_path / name).mkdir(parents=True)
        elif name.endswith(".png"):
            draw(tmp_path / name)
        else:
            (tmp_path / name).write_text("width,height")
    return tmp_path


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ([], "holds no images"),
        ([".hidden.png"], "holds no images"),
        (["a.png", "a/b.png"], r"holds both images \(a\.png\) and folders of images \(a\): move away"),
        (
            ["a/b.png", "c/d.png", "0.png", "1.png", "d/"],
            r"holds both images \(0\.png\) and folders of images \(a\)",
        ),
        (["labels.csv", "notes.txt", "a/b/"], "holds no images"),
        (["test/a.png", "Val/a.png"], "holds Val/, test/, but no train/"),
        (["train/a.png", "Training/b.png", "val/c.png"], "holds Training/, train/, expected one of them"),
        (["train/a.png", "test/a/b.png"], "test has class folders, but .*train has none; with --data .*train, a tenth"),
        (["train/a/b.png", "test/b.png"], "train has class folders, but .*test has none; with --data"),
        (["train/a/b.png", "test/c/b.png"], "test has the class folder c, of which .*train has no images; with --data"),
        # tiny-imagenet, whose other images have no class folders
        (["train/a/images/b.png", "val/images/c.png", "test/images/d.png"], "test has the class folder images"),
        (["train/a/b.png", "test/"], "test holds no images$"),
        (["train/a/b.png", "test/", "val/c/d.png"], "test holds no images$"),
        (["a.png"], "holds one image, expected at least two"),
    ],
)
def test_refuses(tmp_path, names, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        load(build(tmp_path, *names))
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("names", "held_out", "unused"),
    [
        ("a/0.png a/1.png b/2.png classes.txt", None, "classes.txt"),
        ("train/a/0.png train/a/1.png train/labels.csv TEST/a/2.png README 5.png", 2, "train/labels.csv README 5.png"),
        ("training/0.png training/1.png validation/2.png masks/5.png", 2, "masks"),
        ("train/a/0.png train/a/1.png val/a/2.png val/x.json test/images/5.png", 2, "val/x.json test"),
        ("train/a/0.png train/a/1.png valid/a/2.png test/", 2, "test"),
        ("train/0.png train/1.png val/2.png test/readme.txt", 2, "test"),
        ("train/0.png train/1.png val/5.png test/2.png", 2, "val"),
        ("train/0.png train/1.png train/2.png list.txt", None, "list.txt"),
        ("train/0.png train/1.png train/2.png boxes/0.xml", None, "boxes"),
        ("0.png 1.png 2.png boxes/0.xml empty/", None, "boxes empty"),
        ("a/0.png a/1.png b/2.png boxes/0.xml empty/ c/d/", None, "boxes empty c"),
        ("a/0.png a/1.png test/2.png 5.png", None, "5.png"),
        ("0.png 1.png 2.png run/config.json run/metrics.jsonl run/figures/5.png", None, "run"),
        ("a/0.png b/1.png b/2.png runs/x/config.json runs/x/metrics.jsonl runs/x/5.png runs/a.html", None, "runs"),
    ],
)
def test_what_lies_beside_the_images_is_not_used_and_named(tmp_path, names, held_out, unused):
    build(tmp_path, *names.split())
    for name in re.findall(r"\S+\.png", names):
        draw(tmp_path / name, level=int(name[-5]))
    dataset = load(tmp_path)
    assert sorted(levels(dataset.train) + levels(dataset.test)) == [0, 1, 2]
    assert not set(dataset.class_names or ()) & set(unused.split())
    if held_out is not None:
        assert levels(dataset.test) == [held_out]
    named = [sentence.split(" is not used, since")[0] for sentence in dataset.left_out]
    assert sorted(named) == sorted(str(tmp_path / name) for name in unused.split())
    with pytest.raises(ValueError, match="is not used, since"):
        load(tmp_path, strict=True)


def test_films_and_arrays_are_no_images_of_a_class(tmp_path):
    """Pillow knows their formats, but does not decode them."""
    build(tmp_path, "a/0.png", "a/1.png", "b/2.png", "films/3.mpg", "arrays/4.h5")
    dataset = load(tmp_path)
    assert dataset.class_names == ("a", "b")
    assert [sentence.split()[0] for sentence in dataset.left_out] == [str(tmp_path / x) for x in ("arrays", "films")]


def test_what_lies_beside_train_and_test_is_not_looked_into(tmp_path):
    build(tmp_path, "train/0.png", "test/1.png", "logs/2.txt")
    (tmp_path / "logs" / "up").symlink_to(tmp_path)
    dataset = load(tmp_path)
    assert (len(dataset.train), len(dataset.test), len(dataset.left_out)) == (1, 1, 1)


def test_images_are_known_by_their_content(tmp_path):
    """A picture without a suffix beside folders is one that somebody may have forgotten; a table called png is none."""
    for number in range(3):
        draw(tmp_path / "a" / f"{number}.png")
    (tmp_path / "table.png").write_text("width,height")
    assert len(load(tmp_path).left_out) == 1
    draw(tmp_path / "b.png")
    (tmp_path / "b.png").rename(tmp_path / "picture")
    with pytest.raises(ValueError, match=r"holds both images \(picture\) and folders of images \(a\)"):
        load(tmp_path)


def test_a_broken_link_and_a_picture_of_floats_are_named(tmp_path):
    build(tmp_path, "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(ValueError, match=r"b\.png cannot be read as an image: .*No such file"):
        load(tmp_path, strict=True)
    (tmp_path / "b.png").unlink()
    Image.fromarray(np.zeros((8, 10), np.float32)).save(tmp_path / "b.tif")
    with pytest.raises(ValueError, match=r"b\.tif cannot be read as an image: its pixels are 32-bit numbers"):
        load(tmp_path, strict=True)
