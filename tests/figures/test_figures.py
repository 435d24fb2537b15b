"""Pictures show what they say: tiles in order, brightness by occurrence, outlines where a part is likely."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from accel.data import ImageSet
from accel.figures import parts, reconstructions
from accel.figures.canvas import enlarge, mosaic
from accel.figures.parts import DARKEST, OUTLINE
from accel.figures.reconstructions import heat

pytest.importorskip("matplotlib")


class Oracle(torch.nn.Module):
    """Says that a part occurs where the images' first channel is bright: parts 0, 1 and 2 in their own channel."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def encode(self, images):
        return SimpleNamespace(occurrence=images[:, :, ::8, ::8] / 255)

    def reconstruct(self, images):
        return images / 127.5 - 1


def cells_as_images(cells):
    """uint8 (n, 3, h, w) → images (n, 8h, 8w, 3) of one colour a cell."""
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
    cells[3, 1, 0, 0] = 220
    images = ImageSet(cells_as_images(cells), truth=truth)
    figure = parts(Oracle(), images, ["moon", "star"], columns=4)
    labels = labels_of(figure)
    assert labels[0] == "part 2\nstar, AP 1.00"
    assert labels[1].startswith("part 1\nmoon, AP 0.")
    assert labels[2].startswith("part 0\n")
    surest = figure.axes[0].images[0].get_array()[6 + 102 : 6 + 102 + 96, -4 * 102 : -4 * 102 + 96]
    assert (surest[:3, :3] == OUTLINE).all()  # the wrong cell, of which part 1 is surest of all
    assert len(labels_of(parts(Oracle(), images, rows=2))) == 2


def test_parts_without_truth_are_ordered_by_information():
    rng = np.random.default_rng(0)
    cells = np.empty((30, 3, 2, 2), np.uint8)
    cells[:, 0] = 255
    cells[:, 1] = 255 * rng.integers(0, 2, (30, 2, 2))
    cells[:, 2] = 255 * (rng.uniform(size=(30, 2, 2)) < 0.05)
    labels = labels_of(parts(Oracle(), ImageSet(cells_as_images(cells))))
    assert [label.split("\n")[0] for label in labels] == ["part 1", "part 2", "part 0"]
    assert labels[2].endswith("0.000 bits a cell")


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
        assert mask[24, 72] > 2 * mask[[24, 72, 72], [24, 24, 72]].max()
    assert labels_of(figure)[1] == "reconstruction\nmean PSNR inf dB"


def test_heat_rises_from_black_to_white():
    colours = heat(np.linspace(0, 1, 50)).astype(int)
    assert colours[0].tolist() == [0, 0, 0]
    assert colours[-1].tolist() == [255, 255, 255]
    assert (np.diff(colours.sum(-1)) > 0).all()


def test_missing_matplotlib_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'patchvae\[images\]'"):
        mosaic([[np.zeros((8, 8, 3), np.uint8)]], ["a"])
