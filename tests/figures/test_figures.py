"""Figures are correct: tiles in order, brightness by occurrence, outlines where a part is likely."""

import io
import json
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from accel.data import ImageSet
from accel.evaluation import crop_patches, find_occurrences
from accel.figures import gallery, part_statistics, parts, reconstructions, weight_masks, write_pictures
from accel.figures.canvas import COLOURS, DARK, DARK_PAGE, QUIET, charts, darkened, enlarge, heat, mosaic
from accel.figures.parts import DARKEST, OUTLINE, OUTSIDE
from accel.figures.pictures import spread
from tests.figures.oracle import Oracle

pytest.importorskip("matplotlib")


def cells_as_images(cells):
    """uint8 (n, 3, h, w) → images (n, 8h, 8w, 3) with one colour per cell."""
    return cells.transpose(0, 2, 3, 1).repeat(8, axis=1).repeat(8, axis=2)


def canvas_of(figure):
    return figure.axes[0].images[0].get_array()


def labels_of(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_enlarged_pixels_are_squares():
    image = np.random.default_rng(0).integers(0, 256, (4, 6, 1), dtype=np.uint8)
    tile = enlarge(image, size=12)
    assert tile.shape == (12, 18, 3)
    np.testing.assert_array_equal(tile[1::3, 2::3, 1], image[:, :, 0])
    assert enlarge(np.zeros((224, 224, 3), np.uint8)).shape == (224, 224, 3)


def test_picture_has_the_canvas_pixel_for_pixel(tmp_path):
    image_module = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    tiles = rng.integers(0, 256, (2, 3, 96, 96, 3), dtype=np.uint8)
    figure = mosaic(tiles, ["one", "two\nlines"])
    figure.savefig(tmp_path / "picture.png")
    saved = np.asarray(image_module.open(tmp_path / "picture.png").convert("RGB"))
    canvas = canvas_of(figure)
    assert saved.shape == canvas.shape
    np.testing.assert_array_equal(saved[:, -3 * 102 :], canvas[:, -3 * 102 :])
    np.testing.assert_array_equal(canvas[6:102, -102:-6], tiles[0, 2])


def test_heading_headers_and_captions_stand_beside_the_images(tmp_path):
    image_module = pytest.importorskip("PIL.Image")
    tiles = np.random.default_rng(0).integers(0, 256, (2, 3, 96, 96, 3), dtype=np.uint8)
    figure = mosaic(
        tiles,
        ["one", "two"],
        title="A title",
        text="What one sees " * 20,
        headers=["left", "middle", "right"],
        captions=[["short", "much too long for a caption under an image", ""]] * 2,
    )
    assert figure.get_label() == "A title\n" + "What one sees " * 20
    figure.savefig(tmp_path / "picture.png")
    saved = np.asarray(image_module.open(tmp_path / "picture.png").convert("RGB"))
    canvas = canvas_of(figure)
    heading = len(saved) - len(canvas)
    assert (saved[:heading] < 128).any()
    below = saved[heading:]
    for row in range(2):  # no letter touches an image
        top = len(canvas) - (2 - row) * (len(canvas) - first_row(canvas)) // 2
        np.testing.assert_array_equal(below[top : top + 96, -3 * 102 : -6], canvas[top : top + 96, -3 * 102 : -6])
        assert (below[top + 97 : top + 97 + 12, -3 * 102 : -2 * 102] < 128).any()
    words = labels_of(figure)
    assert {"left", "middle", "right", "short"} <= set(words)
    (cut,) = {word for word in words if word.startswith("much")}
    assert cut.endswith("…")
    assert (below[:, 0] == 255).all()


def first_row(canvas):
    """The row of the canvas in which the first image begins."""
    return int(np.flatnonzero((canvas != 255).any(axis=(1, 2)))[0])


def test_labels_fit_into_the_margin(tmp_path):
    image_module = pytest.importorskip("PIL.Image")
    label = "reconstruction of a WWWWW\nsecond"
    mosaic([[np.zeros((96, 96, 3), np.uint8)]], [label]).savefig(tmp_path / "picture.png")
    saved = np.asarray(image_module.open(tmp_path / "picture.png").convert("L"))
    assert (saved[:, 0] == 255).all()
    assert (saved < 128)[:, :-110].any()


def test_parts_are_ordered_by_how_well_they_find_a_type():
    rng = np.random.default_rng(0)
    cells = rng.integers(0, 100, (40, 3, 2, 2), dtype=np.uint8)
    truth = np.zeros((40, 2, 2, 2), bool)
    truth[::4, 1, 0, 1] = truth[1::5, 0, 1, 1] = True
    cells[:, 2][truth[:, 1]] = 250  # part 2 finds type 1 always, part 1 finds type 0 mostly
    cells[:, 1][truth[:, 0]] = 200
    cells[3, :2, 0, 0] = 200, 220
    images = ImageSet(cells_as_images(cells), truth=truth)
    figure = parts(Oracle(), images, ["moon", "star"], columns=4)
    labels = labels_of(figure)
    assert labels[0] == "part 2\nstar, AP 1.00"
    assert labels[1].startswith("part 1\nmoon, AP 0.")
    assert labels[2].startswith("part 0\n")
    surest = figure.axes[0].images[0].get_array()[6 + 102 : 6 + 102 + 96, -4 * 102 : -4 * 102 + 96]
    assert (surest[:3, :3] == OUTLINE).all()  # the wrong cell, of which part 1 is surest of all
    assert len(labels_of(parts(Oracle(), images, rows=2))) == 2


def test_a_part_that_finds_nothing_names_no_type():
    rng = np.random.default_rng(0)
    truth = rng.uniform(size=(40, 2, 2, 2)) < 0.1
    cells = rng.integers(0, 256, (40, 3, 2, 2), dtype=np.uint8)
    cells[:, 1] = np.where(truth[:, 0], 255, 10)
    labels = labels_of(parts(Oracle(), ImageSet(cells_as_images(cells), truth=truth), ["moon", "star"]))
    assert labels[0] == "part 1\nmoon, AP 1.00"
    # Noise ranks cells as chance does: average precision near the tenth that holds the type.
    assert [label.split("\n")[1].split(",")[0] for label in labels[1:]] == ["no type", "no type"]


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=5), count=st.integers(1, 20), labelled=st.booleans())
def test_a_spread_of_images_takes_all_classes_in_turn(sizes, count, labelled):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    images = np.arange(len(labels), dtype=np.uint8)[:, None, None, None]
    shown = spread(ImageSet(images, labels if labelled else None), count).ravel().tolist()
    assert len(shown) == len(set(shown)) == min(count, len(labels))
    if labelled:
        taken = np.bincount(labels[shown], minlength=len(sizes))
        assert all(taken[kind] == size or taken[kind] >= taken.max() - 1 for kind, size in enumerate(sizes))
    else:
        # Neighbours are as far apart as everywhere else, up to the rounding to whole images.
        assert np.ptp(np.diff([*shown, len(labels)])) <= 1


def test_parts_without_truth_are_ordered_by_information():
    rng = np.random.default_rng(0)
    cells = np.empty((30, 3, 2, 2), np.uint8)
    cells[:, 0] = 255
    cells[:, 1] = 255 * rng.integers(0, 2, (30, 2, 2))
    cells[:, 2] = 255 * (rng.uniform(size=(30, 2, 2)) < 0.05)
    labels = labels_of(parts(Oracle(), ImageSet(cells_as_images(cells))))
    assert [label.split("\n")[0] for label in labels] == ["part 1", "part 2", "part 0"]
    assert labels[2] == "part 0\noccurs nearly everywhere"


def test_parts_that_occur_nowhere_have_no_row_unless_all_do():
    cells = np.full((10, 3, 2, 2), 100, np.uint8)  # a probability below one half
    cells[3, 1, 0, 1] = 255
    figure = parts(Oracle(), ImageSet(cells_as_images(cells)))
    assert [label.split("\n")[0] for label in labels_of(figure)] == ["part 1"]
    assert figure.get_label().endswith(" 2 more parts occur nowhere.")
    cells[3, 2, 0, 1] = 255
    assert parts(Oracle(), ImageSet(cells_as_images(cells))).get_label().endswith(" 1 more part occurs nowhere.")
    cells[3] = 100
    figure = parts(Oracle(), ImageSet(cells_as_images(cells)))
    assert [label.split("\n")[1] for label in labels_of(figure)] == ["occurs nowhere"] * 3
    assert "more part" not in figure.get_label()


def test_overlay_darkens_and_outlines():
    cells = np.zeros((1, 3, 2, 2), np.uint8)
    cells[0, 0] = [[255, 51], [0, 102]]
    cells[0, 1:] = 100
    canvas = canvas_of(parts(Oracle(), ImageSet(cells_as_images(cells)), rows=3, columns=1))
    row = next(top for top in (6, 108, 210) if (canvas[top, -102] == OUTLINE).all())
    tile = canvas[row : row + 96, -102:-6]
    assert (tile[:3, :48] == OUTLINE).all()
    assert (tile[45:48, :48] == OUTLINE).all()
    assert tile[24, 24].tolist() == [255, 100, 100]  # p = 1: as it is
    assert tile[24, 72].tolist() == [int(c * (DARKEST + (1 - DARKEST) * 0.2)) for c in (51, 100, 100)]
    assert not (tile[:, 48:] == OUTLINE).all(-1).any()  # p ≤ ½: no outline


def test_outline_runs_around_neighbouring_cells():
    cells = np.zeros((1, 3, 2, 2), np.uint8)
    cells[0, 0] = [[255, 255], [0, 255]]
    figure = parts(Oracle(), ImageSet(cells_as_images(cells)), rows=3, columns=1)
    drawn = (canvas_of(figure) == OUTLINE).all(-1)
    top = np.flatnonzero(drawn.any(axis=1))[0]
    tile = drawn[top : top + 96, -102:-6]
    line = 3
    assert tile[:line].all()
    assert tile[:, -line:].all()
    assert tile[48 - line : 48, :48].all()
    assert tile[48:, 48 : 48 + line].all()
    assert not tile[line:-line, 48 + line : -line].any()  # none between the two cells on the right
    assert not tile[line : 48 - line, line:48].any()  # none between the two cells above
    assert not tile[48:, :48].any()


def test_reconstructions_show_input_output_and_weights():
    rng = np.random.default_rng(0)
    images = np.zeros((5, 16, 16, 3), np.uint8)
    images[:, :8, 8:] = rng.integers(0, 256, (5, 8, 8, 3))  # all gradients in one patch
    figure = reconstructions(Oracle(), images)
    canvas = canvas_of(figure)
    for column in range(5):
        at = slice(canvas.shape[1] - (5 - column) * 102, canvas.shape[1] - (5 - column) * 102 + 96)
        np.testing.assert_array_equal(canvas[6:102, at], enlarge(images[column]))
        np.testing.assert_array_equal(canvas[108:204, at], enlarge(images[column]))
        mask = canvas[210:306, at].astype(int).sum(-1)
        assert mask.max() == 0
    assert labels_of(figure)[1] == "reconstruction\nmean PSNR inf dB"


def test_weight_masks_are_bright_where_gradients_are():
    rng = np.random.default_rng(0)
    images = np.zeros((5, 16, 16, 3), np.uint8)
    images[:, :8, 8:] = rng.integers(0, 256, (5, 8, 8, 3))  # all gradients in one patch
    canvas = canvas_of(weight_masks(images))
    for column in range(5):
        at = slice(canvas.shape[1] - (5 - column) * 102, canvas.shape[1] - (5 - column) * 102 + 96)
        np.testing.assert_array_equal(canvas[6:102, at], enlarge(images[column]))
        mask = canvas[108:204, at].astype(int).sum(-1)
        assert mask[24, 72] > 2 * mask[[24, 72, 72], [24, 24, 72]].max()


def test_small_weights_are_seen_beside_a_large_one(monkeypatch):
    weights = torch.ones(2, 3, 2, 2)
    weights[0, :, 0, 0] = 9
    monkeypatch.setitem(weight_masks.__globals__, "gradient_energy_weights", lambda pixels: weights)
    canvas = canvas_of(weight_masks(np.full((2, 16, 16, 3), 200, np.uint8)))
    masks, weighted = canvas[108:204, -2 * 102 : -6], canvas[210:306, -2 * 102 : -6]
    assert masks[24, 24].tolist() == [255, 255, 255]
    assert masks[24, 72].tolist() == heat(np.array(1 / 3)).tolist()
    assert weighted[24, 24, 0] == 200
    assert weighted[24, 72, 0] > 200 / 3


def test_gallery_shows_the_surest_patches_with_their_classes():
    rng = np.random.default_rng(1)
    cells = rng.integers(0, 120, (20, 3, 2, 2), dtype=np.uint8)
    cells[::3, 1, 0, 1] = 250 - np.arange(7)  # part 1 is surest of images 0, 3, 6, …
    cells[:, 2] = 0  # part 2 occurs nowhere
    images = ImageSet(cells_as_images(cells), labels=np.arange(20) % 2)
    found = find_occurrences(Oracle(), images.images, 5)
    figure = gallery(images, found, side=12, scale=8, class_names=["moon", "star"], columns=4)
    words = labels_of(figure)
    assert [word.split("\n")[0] for word in words if word.startswith("part")] == ["part 1"]
    assert "part 1\n0.35 per image" in words  # 7 occurrences in 20 images, whatever the small probabilities add
    captions = [word for word in words if word in ("moon", "star")]
    assert captions == ["moon", "star", "moon", "star"]
    canvas = canvas_of(figure)
    for column, image in enumerate((0, 3, 6, 9)):
        (patch,) = crop_patches(images.images[[image]], np.array([0]), np.array([1]), 12, 8, outside=OUTSIDE)
        at = canvas.shape[1] - (4 - column) * 102
        np.testing.assert_array_equal(canvas[6:102, at : at + 96], enlarge(patch))
        assert (canvas[6, at : at + 96] == 128).all()  # above the image, and unlike a white or a black page
    assert "Grey: outside of the image." in figure.get_label()
    assert "12 × 12 pixels" in figure.get_label()


def test_statistics_show_each_part_and_its_own_overlap():
    cells = np.random.default_rng(0).integers(0, 256, (10, 3, 2, 2), dtype=np.uint8)
    figure = part_statistics(find_occurrences(Oracle(), cells_as_images(cells), 3))
    overlaps = figure.axes[1].images[0].get_array()
    assert (overlaps[range(3), range(3)] >= 250).all()  # white: a part's map is identical to itself
    low, high = figure.axes[0].get_xlim()
    assert -1 < low < 0
    assert 2 < high < 3


def test_statistics_say_how_many_parts_are_of_use():
    cells = np.zeros((10, 3, 2, 2), np.uint8)
    cells[:, 0] = 255
    cells[::2, 1, 0] = 204
    cells[:, 2] = 100
    figure = part_statistics(find_occurrences(Oracle(), cells_as_images(cells), 3))
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    np.testing.assert_allclose(heights, [4, 1, 0])  # cells with probabilities above one half alone
    assert "5.0 in total. 1 of 3 parts occur nowhere, 1 nearly everywhere" in figure.get_label()


def saved_height(path):
    return pytest.importorskip("PIL.Image").open(path).height


def test_pictures_are_files_with_an_index_of_what_one_sees(tmp_path):
    image_module = pytest.importorskip("PIL.Image")
    drawn = [(name, charts(1, title=name.upper(), text=f"See {name}.")[0]) for name in ("one", "two")]
    assert write_pictures(tmp_path, drawn) == ["figures/one.png", "figures/two.png"]
    assert write_pictures(tmp_path, drawn[:1], all_of_run=False) == ["figures/one.png"]
    assert not (tmp_path / "figures" / "index.json").exists()  # what it listed shows an earlier state
    assert write_pictures(tmp_path, drawn[:1]) == ["figures/one.png"]
    index = json.loads((tmp_path / "figures" / "index.json").read_text())
    # Of this call alone.
    (entry,) = index
    assert 0 < entry.pop("heading") < saved_height(tmp_path / "figures" / "one.png")
    assert entry == {"file": "one.png", "title": "ONE", "text": "See one.", "dark": "one-dark.png"}
    assert (tmp_path / "figures" / "one-dark.png").stat().st_size > 100
    saved = image_module.open(tmp_path / "figures" / "one.png")
    assert (saved.text["Title"], saved.text["Description"]) == ("ONE", "See one.")
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"could not write .*file/figures"):
        write_pictures(tmp_path / "file", drawn)


def drawn_pixels(figure):
    """int (H, W, 3)."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return np.asarray(pytest.importorskip("PIL.Image").open(buffer).convert("RGB")).astype(int)


def test_a_dark_page_changes_all_but_images():
    tiles = np.random.default_rng(0).integers(0, 256, (2, 3, 96, 96, 3), dtype=np.uint8)
    tiles[0, 0], tiles[1, 2] = 255, 0  # what is as white as the page, or as dark, is the image's all the same
    figure = mosaic(tiles, ["one", "two"], title="A title", text="What one sees.")
    light = drawn_pixels(figure)
    with darkened(figure):
        dark = drawn_pixels(figure)
    height = len(canvas_of(figure))
    inside = np.zeros(light.shape[:2], bool)
    for row in range(2):
        for column in range(3):
            top, left = len(light) - height + 6 + row * 102, light.shape[1] - (3 - column) * 102
            inside[top : top + 96, left : left + 96] = True
    np.testing.assert_array_equal(dark[inside], light[inside])
    np.testing.assert_array_equal(light[inside], tiles.transpose(0, 2, 1, 3, 4).reshape(-1, 3))
    brightness = dark[~inside].max(-1)
    assert (light[0, 0] == 255).all()
    assert f"#{''.join(f'{level:02x}' for level in dark[0, 0])}" == DARK_PAGE
    assert np.median(brightness) < 40 < 200 < brightness.max()  # letters are light
    np.testing.assert_array_equal(drawn_pixels(figure), light)


def test_charts_on_a_dark_page_keep_the_colours_of_their_bars_alone():
    figure, (axis,) = charts(1, title="A title", text="What one sees.")
    bars = axis.bar([0, 1], [1, 2], color=COLOURS[0])
    axis.axvline(0.5, color=QUIET)
    light = drawn_pixels(figure)
    with darkened(figure):
        dark = drawn_pixels(figure)
    bar = np.array([0x00, 0x72, 0xB2])
    same = (light == bar).all(-1)
    assert same.sum() > 500
    np.testing.assert_array_equal(dark[same], np.broadcast_to(bar, (same.sum(), 3)))
    letters = dark[:30]  # of the title
    assert letters.max() > 200 > 100 > np.median(letters)
    assert len(bars) == 2
    np.testing.assert_array_equal(drawn_pixels(figure), light)


def test_a_dark_page_keeps_what_is_transparent():
    from matplotlib.colors import to_rgba

    figure, (axis,) = charts(1, title="", text="")
    figure.patch.set_facecolor("none")
    axis.patch.set_facecolor((1, 1, 1, 0.25))
    faint = axis.axvline(0.25, color=(0, 0, 0, 0.5))
    unseen = axis.axvline(0.5, color="none")
    words = axis.text(0, 0, "a", color="none", alpha=0.5)
    axis.spines["left"].set(edgecolor="none", alpha=0.5)

    def colours():
        frame = axis.spines["left"].get_edgecolor()
        return [figure.get_facecolor(), axis.get_facecolor(), *(a.get_color() for a in (faint, unseen, words)), frame]

    before = colours()
    with darkened(figure):
        page, inside, line, *hidden = colours()
        assert page[3] == 0
        assert inside == to_rgba(DARK_PAGE, 0.25)
        assert line == to_rgba(DARK["#000000"], 0.5)
        assert hidden == before[3:]
    assert colours() == before


def test_heat_rises_from_black_to_white():
    colours = heat(np.linspace(0, 1, 50)).astype(int)
    assert colours[0].tolist() == [0, 0, 0]
    assert colours[-1].tolist() == [255, 255, 255]
    assert (np.diff(colours.sum(-1)) > 0).all()


def test_missing_matplotlib_names_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install matplotlib"):
        mosaic([[np.zeros((8, 8, 3), np.uint8)]], ["a"])
