"""Renewal: which parts are split, which are retired, and which do not change."""

import numpy as np
import pytest
import torch

from accel import PatchVAE
from accel.training import renewal


def model_of(parts=4, decoder="templates", **options):
    torch.manual_seed(0)
    options = {"occurrence": "categorical", "appearance_prior_mean": 2.0, "part_dim": 2} | options
    return PatchVAE(image_size=32, encoder="fine", places=4, num_parts=parts, decoder=decoder, ground=2, **options)


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)


def occur_only(model, *parts):
    """Makes the given parts occur in every cell, and the others nowhere."""
    with torch.no_grad():
        model.occurrence_head.weight.zero_()
        model.occurrence_head.bias.fill_(renewal.NEVER)
        model.occurrence_head.bias[list(parts)] = 0.0


@pytest.mark.parametrize("decoder", ["templates", "pyramid"])
def test_a_much_used_part_is_split_until_all_are_used_alike(images, decoder):
    model = model_of(8, decoder=decoder)
    occur_only(model, 2)
    before = renewal.use_of_parts(model, images)
    pictures = renewal.part_pictures(model)
    made = renewal.split_parts(model, images, seed=0)
    assert [new for new, _ in made] == [0, 1, 3]  # four with a quarter each, which is less than MUCH of eight
    assert made[0][1] == 2
    after = renewal.use_of_parts(model, images)
    # Halving the odds of a part twice leaves what all copies together occur as it was.
    torch.testing.assert_close(after.sum(), before.sum(), rtol=1e-3, atol=0)
    assert (after[:4] > 0.2 * before.sum()).all()
    same = renewal.similarities(torch.cat([renewal.part_pictures(model), pictures]), 0)[2, [0, 1, 3]]
    assert (same > 0.9).all()
    assert (same < 0.9999).all()


def test_parts_that_occur_alike_are_not_split(images):
    model = model_of()
    occur_only(model, 0, 1, 2)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    assert renewal.split_parts(model, images, seed=0) == []
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_of_two_that_draw_the_same_the_rarer_retires(images):
    model = model_of()
    occur_only(model, 0, 1, 3)
    with torch.no_grad():
        model.occurrence_head.bias[3] = 1.0
        weight = model.decoder.output.weight
        weight[:, :3].mul_(20)
        weight[6:8] = 0
        weight[6:8, :, 2:, :] = weight[0:2, :, :-2, :]  # part 3 draws what part 0 does, two pixels lower
    assert renewal.retire_duplicates(model, images, 0.9) == [(0, 3)]
    use = renewal.use_of_parts(model, images)
    assert use[0] == 0
    assert (use[[1, 3]] > 0).all()
    assert renewal.retire_duplicates(model, images, 0.9) == []


def test_shifts_are_found_and_only_as_far_as_asked():
    pictures = torch.zeros(3, 1, 16, 16)
    pictures[0, 0, 4:8, 4:6] = pictures[1, 0, 7:11, 6:8] = 1.0
    near, far = (renewal.similarities(pictures, reach) for reach in (3, 2))
    assert near[0, 1].item() == pytest.approx(1.0)
    assert far[0, 1] < 0.9
    assert near[0, 2] == 0  # a picture of nothing
    assert torch.equal(near, near.T)
