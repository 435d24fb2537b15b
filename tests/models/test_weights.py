"""The models that come with the package: they load by their names, and find what their cards say."""

import json
import math

import numpy as np
import pytest
import torch

from accel import BetaVAE, PatchVAE
from accel.data import draw_parts
from accel.data.sources import FIRST_TEST_IMAGE
from accel.models import pretrained
from accel.training.record import digest_of
from bench.experiments.pretrained import FOLDER, average_precision, card, logits_and_truth
from tests.support import ROUNDOFF

# The largest error of a log-odds on a machine that sums in another order: 256 unit roundoffs of the largest term of a
# sum, which is less than 64 here.
SLACK = 2**8 * ROUNDOFF[torch.float32] * 64


@pytest.fixture(scope="module")
def figures():
    return json.loads((FOLDER / "figures.json").read_text())


@pytest.fixture(scope="module")
def held_out(figures):
    """(log-odds, truth) of the packaged model on the images to which the published figures refer."""
    images = draw_parts(figures["checked"]["images"], first_image=FIRST_TEST_IMAGE)
    return logits_and_truth(PatchVAE.from_pretrained("parts"), images)


def test_the_card_is_made_of_the_figures(figures):
    assert (FOLDER / "README.md").read_text() == card(figures)


def test_weights_are_those_that_were_measured(figures):
    model = PatchVAE.from_pretrained("parts")
    assert digest_of(model) == figures["weights"]
    assert {name: model.config[name] for name in ("num_parts", "part_dim", "encoder", "decoder")} == {
        name: figures["training"][name] for name in ("num_parts", "part_dim", "encoder", "decoder")
    }
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 1.5e6


def test_every_type_is_found_as_the_card_says(figures, held_out):
    """Average precision changes only if rounding exchanges cells: it lies between the worst and the best order."""
    logits, truth = held_out
    parts = [one["part"] for one in figures["measures"]["types"]]
    stated = figures["checked"]["average_precision"]
    for kind, (part, value) in enumerate(zip(parts, stated, strict=True)):
        towards = np.where(truth[:, [kind]], SLACK, -SLACK)
        worst, best = (
            average_precision(logits[:, [part]] + sign * towards, truth[:, [kind]], [0])[0] for sign in (-1, 1)
        )
        assert worst <= value <= best
        assert best - worst < 0.01  # or the sentence above would say nothing
    everywhere = [one["average_precision"] for one in figures["measures"]["types"]]
    # A few hundred images stand for the 2,000: 40 or more cells hold each type, so their means differ by 1/√40 at most.
    assert math.isclose(np.mean(stated), np.mean(everywhere), abs_tol=40**-0.5)


def test_another_model_would_be_noticed(figures, held_out):
    logits, truth = held_out
    parts = [one["part"] for one in figures["measures"]["types"]]
    shifted = average_precision(np.roll(logits, 1, axis=1), truth, parts)
    assert not np.allclose(shifted, figures["checked"]["average_precision"], atol=0.01)


def test_a_folder_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert PatchVAE.from_pretrained("parts").num_parts == 20
    PatchVAE(image_size=16, num_parts=3, part_dim=2).save_pretrained("parts")
    assert PatchVAE.from_pretrained("parts").num_parts == 3
    assert pretrained.packaged() == ["parts"]


def test_it_belongs_to_its_system():
    with pytest.raises(ValueError, match=r"config\.json: holds a PatchVAE, not a BetaVAE"):
        BetaVAE.from_pretrained("parts")
    with pytest.raises(FileNotFoundError, match=r"^nowhere: no such folder, expected one that save_pretrained wrote$"):
        BetaVAE.from_pretrained("nowhere")  # without a name of a model of another system
