"""Effects of changing one appearance, with a model whose decoder is known."""

import numpy as np
import pytest
import torch

from accel.common.bottleneck import BottleneckOptions
from accel.data import Dataset, ImageSet
from accel.figures import (
    aggregated_samples,
    interpolations,
    pictures,
    samples,
    swap_appearance,
    swaps,
    traversals,
    vary_appearance,
)
from accel.figures.appearances import most_different
from accel.models import BetaVAE, PatchVAE
from tests.figures.oracle import Oracle

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def images():
    """uint8 (12, 16, 16, 3), each with a cell in which each of the first two parts occurs; part 2 never does."""
    rng = np.random.default_rng(3)
    images = rng.integers(0, 100, (12, 16, 16, 3), dtype=np.uint8)
    images[:, ::8, ::8] //= 4
    images[np.arange(12), 8 * (np.arange(12) % 2), 0, 0] = 240 - np.arange(12)
    images[:, 8, 8, 1] = 200 + np.arange(12)
    return images


def as_batch(images):
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


def test_swap_changes_the_part_where_it_occurs_and_nothing_else(images):
    model, batch = Oracle(), as_batch(images)
    before, after = swap_appearance(model, batch[:1], batch[1:4], part=1)
    source, target = model.encode(batch[:1]), model.encode(batch[1:4])
    assert torch.equal(before, model.decode(target.code))
    assert torch.equal(after[:, [0, 2]], before[:, [0, 2]])
    mean, largest = source.appearance_mean[0, 1]
    expected = (mean + 0.1 * largest) * target.occurrence[:, 1]
    torch.testing.assert_close(after[:, 1, ::8, ::8], expected)


def test_varied_appearances_are_the_ones_asked_for(images):
    model, batch = Oracle(), as_batch(images[:1])
    wanted = torch.tensor([[0.5, 0.0], [-0.5, 1.0]])
    drawn = vary_appearance(model, batch, 0, wanted)
    occurrence = model.encode(batch).occurrence[0, 0]
    torch.testing.assert_close(drawn[:, 0, ::8, ::8], torch.tensor([0.5, -0.4])[:, None, None] * occurrence)
    torch.testing.assert_close(drawn[0, 1:], model.decode(model.encode(batch).code)[0, 1:])


def test_most_different_pair():
    first, order = most_different(np.array([[0.0], [4.0], [-5.0], [1.0]]))
    assert first == 1
    assert order.tolist() == [2, 0, 3, 1]


def words_of(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_swaps_show_live_parts_source_targets_and_difference(images):
    figure = swaps(Oracle(), images, targets=2)
    words = words_of(figure)
    assert sorted(word for word in words if word.startswith("part")) == ["part 0"] * 2 + ["part 1"] * 2
    canvas = figure.axes[0].images[0].get_array()
    source, target, difference = (canvas[-102:-6, -(7 - column) * 102 :][:, :96] for column in (0, 2, 6))
    assert not np.array_equal(source, target)
    changed = difference[::48, ::48].astype(int).sum(-1)
    # The surest cell of the part (0 or 1) changes most.
    assert changed.max() == difference.astype(int).sum(-1).max()
    assert 0 < (changed > changed.max() / 2).sum() <= 2


def test_swaps_take_images_where_the_part_occurs(images):
    """Two of the twelve images contain part 0, and they look alike, so without this selection others would be taken."""
    images = images.copy()
    images[:, ::8, ::8, 0] //= 16
    images[[4, 6], 0, 0, 0] = 250
    figure = swaps(Oracle(), images, rows=3, targets=2)
    canvas = figure.axes[0].images[0].get_array()
    assert [word for word in words_of(figure) if word == "part 0"] == ["part 0"]
    row = next(top for top in range(canvas.shape[0] - 95) if (canvas[top : top + 6, -7 * 102] == images[4, 0, 0]).all()
               or (canvas[top : top + 6, -7 * 102] == images[6, 0, 0]).all())  # fmt: skip
    tiles = [canvas[row : row + 96, -(7 - column) * 102 :][:, :96][::6, ::6] for column in (0, 2)]
    assert {4, 6} == {next(n for n, image in enumerate(images) if np.array_equal(tile, image)) for tile in tiles}


def test_interpolation_begins_and_ends_at_the_two_reconstructions(images):
    figure = interpolations(Oracle(), images, steps=3)
    words = words_of(figure)
    assert [word for word in words if "%" in word] == ["0%", "50%", "100%"]
    canvas = figure.axes[0].images[0].get_array()
    row = [canvas[-102:-6, -(5 - column) * 102 :][:, :96].astype(int) for column in range(5)]
    np.testing.assert_array_less(np.abs(row[1] + row[3] - 2 * row[2]), 3)  # linear, up to rounding to whole levels
    assert not np.array_equal(row[1], row[3])


def test_traversals_have_a_row_for_each_number_and_a_column_for_each_value(images):
    words = words_of(traversals(Oracle(), images, values=(-1, 0, 1)))
    assert words[:4] == [f"part {part}\ndimension {number}" for part in (words_part(words)) for number in (0, 1)]
    assert [word for word in words if "σ" in word or word == "mean"] == ["−1 σ", "mean", "+1 σ"]
    assert len([w for w in words_of(traversals(Oracle(), images, rows=3)) if w.startswith("part")]) == 3


def test_traversals_are_about_the_priors_mean(images, monkeypatch):
    canvases = []
    for prior_mean, values in ((0.0, (-0.5, 0, 0.5)), (0.5, (-1, -0.5, 0))):
        monkeypatch.setattr(Oracle, "bottleneck", BottleneckOptions(appearance_prior_mean=prior_mean))
        canvases.append(traversals(Oracle(), images, values=values).axes[0].images[0].get_array())
    assert np.array_equal(*canvases)


def words_part(words):
    """The two live parts in the order of the rows."""
    return [int(words[0].split()[1]), int(words[2].split()[1])]


@pytest.mark.parametrize("kind", [PatchVAE, BetaVAE])
def test_pictures_of_real_models(images, kind):
    torch.manual_seed(0)
    size = {"num_parts": 3, "part_dim": 2} if kind is PatchVAE else {"latent_dim": 6}
    model = kind(image_size=16, encoder="small", **size)
    for draw in (interpolations, traversals, samples):
        figure = draw(model, images)
        assert np.asarray(figure.axes[0].images[0].get_array()).std() > 0
    assert model.training  # as it was before


def test_aggregated_posterior_draws_part_or_no_part(images):
    model = Oracle()
    many = as_batch(images[:1]).repeat(2000, 1, 1, 1)
    drawn = aggregated_samples(model, many)
    posterior = model.encode(many[:1])
    value = drawn[:, 0, ::8, ::8]
    p = posterior.occurrence[0, 0]
    share = (value.abs() > 0.1).float().mean(0)  # the appearance's own value is −0.35 ± 0.01
    # Four deviations of a share of 2000 draws.
    assert ((share - p).abs() <= 4 * (p * (1 - p) / 2000).sqrt() + 1e-6).all()
    assert torch.equal(drawn, aggregated_samples(model, many))
    assert not torch.equal(drawn, aggregated_samples(model, many, seed=1))


def test_aggregated_posterior_draws_one_part_a_cell_where_occurrence_is_categorical(images, monkeypatch):
    model = PatchVAE(image_size=16, num_parts=5, part_dim=1, encoder="small", occurrence="categorical").eval()
    monkeypatch.setattr(model, "decode", lambda code: code)
    many = as_batch(images[:1]).repeat(2000, 1, 1, 1)
    present = aggregated_samples(model, many) != 0
    p = model.encode(many[:1]).occurrence[0]
    assert present.sum(1).max() == 1
    # Five deviations of a share of 2000 draws.
    assert ((present.float().mean(0) - p).abs() <= 5 * (p * (1 - p) / 2000).sqrt() + 1e-6).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("system", [PatchVAE, BetaVAE])
def test_a_model_in_lower_precision_has_all_its_pictures(system, dtype):
    sizes = {"num_parts": 3, "part_dim": 2} if system is PatchVAE else {"latent_dim": 4}
    model = system(encoder="small", **sizes).to(dtype).eval()
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    drawn = dict(pictures(model, Dataset("photos", ImageSet(images), ImageSet(images))))
    assert {"interpolations", "traversals", "reconstructions", "samples"} <= drawn.keys()
