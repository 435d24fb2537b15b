"""Renewal: what parts are assigned, which are retired, and which do not change."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from accel import PatchVAE
from accel.training import patterns, renewal
from tests.support import needs_gpu


def model_of(parts=4, decoder="templates", **options):
    torch.manual_seed(0)
    options = {"occurrence": "categorical", "appearance_prior_mean": 2.0, "part_dim": 2} | options
    options = {"encoder": "fine", "decoder": decoder, "ground": 2} | options
    return PatchVAE(image_size=32, num_parts=parts, **options)


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)


def occur_only(model, *parts, logit=0.0):
    """Makes the given parts occur in every cell, and the others nowhere."""
    with torch.no_grad():
        model.occurrence_head.weight.zero_()
        model.occurrence_head.bias.fill_(renewal.NEVER)
        model.occurrence_head.bias[list(parts)] = logit


def two_looks(count=64):
    """Images with a cross or a frame in a third of their cells, on grey with noise, uint8 (n, 32, 32, 3).

    Also which of them each cell shows, (n, 4, 4), 2 for none.
    """
    rng = np.random.default_rng(1)
    looks = np.zeros((3, 8, 8))
    looks[0, 1:7, 3:5] = looks[0, 3:5, 1:7] = looks[1, 1:7, 1:7] = 1
    looks[1, 2:6, 2:6] = 0
    kind = rng.choice(3, (count, 4, 4), p=(1 / 6, 1 / 6, 2 / 3))
    pixels = looks[kind].swapaxes(2, 3).reshape(count, 32, 32, 1) * rng.uniform(60, 120, (count, 1, 1, 1))
    pixels = pixels + rng.normal(0, 3, pixels.shape)
    return (100 + pixels).repeat(3, 3).astype(np.uint8), torch.from_numpy(kind)


def share_of_cells(part, kind, parts):
    """Share of the cells with a look that show the commonest look of their part, 1 if each part shows one look."""
    held = torch.stack([torch.bincount(kind[part == one], minlength=3)[:2] for one in range(parts)])
    return (held.max(1).values.sum() / (kind < 2).sum()).item()


def adam(model):
    """The model's optimiser after a step."""
    optimiser = torch.optim.Adam(model.parameters(), lr=0.0)
    for parameter in model.parameters():
        parameter.grad = torch.rand_like(parameter)
    optimiser.step()
    return optimiser


def unknown(model, images):
    """Identities before the first assignment."""
    return torch.full((len(images), *model.grid), renewal.UNKNOWN, dtype=torch.int16)


def reassign(model, images):
    """The number of clusters, and the identities."""
    identities = unknown(model, images)
    return renewal.reassign_parts(model, adam(model), images, 0, identities), identities


DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, needs_gpu])]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("occurrence", ["categorical", "bernoulli"])
@pytest.mark.parametrize("decoder", ["templates", "pyramid"])
def test_a_part_that_finds_two_looks_is_divided_between_them(decoder, occurrence, device):
    images, kind = two_looks(200)
    batch = torch.from_numpy(images).permute(0, 3, 1, 2).to(device)
    model = model_of(6, encoder="small", places=1, decoder=decoder, occurrence=occurrence).to(device)
    occur_only(model, 2, logit=3.0)
    before = (model.reconstruct(batch) - (batch / 127.5 - 1)).square().sum()
    clusters, identities = reassign(model, images)
    assert 2 <= clusters <= 6
    assert model.training
    with torch.no_grad():
        occurrence = model.eval().encode(batch).occurrence.cpu()
    # Neighbours reach into pieces, and the encoder is untrained: a part has at least 85 % of one look, by chance half.
    assert share_of_cells(occurrence.argmax(1), kind, 6) > 0.85
    assert share_of_cells(identities, kind, 6) > 0.85
    assert (occurrence.argmax(1) == identities).float().mean() > 0.9
    assert (occurrence > 0.5).sum() < 1.05 * kind.numel()  # no two parts share a cell
    assert (model.reconstruct(batch) - (batch / 127.5 - 1)).square().sum() < before


def test_pictures_are_fitted_to_all_of_a_set(monkeypatch):
    monkeypatch.setattr(renewal, "FITTED", 32)
    images, _ = two_looks(128)
    images[:64] = images[:64].min((1, 2), keepdims=True)  # of another class: nothing to see
    batch = torch.from_numpy(images[64:]).permute(0, 3, 1, 2)
    model = model_of(4, encoder="small", places=1)
    occur_only(model, 2, logit=3.0)
    before = (model.reconstruct(batch) - (batch / 127.5 - 1)).square().sum()
    assert reassign(model, images)[0] >= 2
    assert (model.reconstruct(batch) - (batch / 127.5 - 1)).square().sum() < 0.8 * before


@given(keys=arrays(np.int64, st.integers(0, 20), elements=st.integers(0, 5)))
def test_the_first_of_equal_keys_is_found(keys):
    first = renewal.first_of_each(torch.from_numpy(keys))
    assert {keys[i]: i for i in range(len(keys) - 1, -1, -1)} == {keys[i]: i for i in first.tolist()}
    assert len(first) == len(set(keys.tolist()))


def test_of_two_that_move_into_a_cell_the_first_is_drawn():
    model = model_of()
    pixels = torch.zeros(1, 3, 32, 32)
    with torch.no_grad():
        posterior = model.eval().encode(pixels)
        code = posterior.code.unflatten(1, (model.num_parts, -1))
        code.copy_(torch.arange(code[:, 0, 0].numel(), dtype=torch.float32).view(1, 1, 1, 4, 4))  # cells
    image = torch.zeros(2, dtype=torch.int64)
    places = (image, torch.tensor([3, 4]), torch.tensor([5, 5]))  # in cells 1 and 5
    target = (image, torch.tensor([4, 5]), torch.tensor([6, 6]))  # both in cell 5
    drawn = []
    model.decode = lambda code, **setting: (
        drawn.append((code, setting)) or model.decoder.code_weight.square().sum() + pixels
    )
    part = torch.tensor([2, 2])
    renewal.fit_pictures(model, pixels, posterior, renewal.SureOccurrences(part, places, target), part)
    code, setting = drawn[0]
    at = code.unflatten(1, (model.num_parts, -1))[0, 2, 0]
    assert at.nonzero().tolist() == [[1, 1]]
    assert at[1, 1] == 1  # from cell 1
    assert setting["places"][0, 2].nonzero().tolist() == [[4, 6]]


@pytest.mark.parametrize("few", [16, 512])
def test_each_cell_of_all_images_gets_the_part_that_its_occurrence_got(monkeypatch, few):
    monkeypatch.setattr(renewal, "FEW", few)
    monkeypatch.setattr(renewal, "PIXELS", 1)
    images, kind = two_looks(40)
    images[::2] = images[::2].min((1, 2), keepdims=True)  # nothing to see in half of them
    model = model_of(12)
    assert model.places > 1
    occur_only(model, 5, logit=3.0)
    clusters, identities = reassign(model, images)
    known = identities != renewal.UNKNOWN
    assert known.all()  # the part occurs everywhere
    assert len(identities.unique()) <= clusters <= 12
    assert share_of_cells(identities[1::2], kind[1::2], 12) > 0.75


@given(epochs=st.integers(1, 200))
def test_parts_are_assigned_in_the_first_third_of_a_run(epochs):
    rounds = renewal.rounds_of_assignment(epochs)
    assert 1 <= len(rounds) <= renewal.ROUNDS
    assert min(rounds) >= 1
    assert max(rounds) == max(1, epochs // 3)


def test_of_two_occurrences_in_a_cell_the_later_part_is_named():
    images, _ = two_looks(3)
    model = model_of(3, encoder="small", places=1, occurrence="bernoulli")
    occur_only(model, 0, 2, logit=3.0)

    class Each:
        def of(self, pieces, at):
            return torch.arange(len(at[0])) * 2 // len(at[0])  # the first half is of one part, the second of another

    identities = unknown(model, images)
    renewal.name_occurrences(model, images, Each(), torch.tensor([1, 0]), [0, 2], [(0, 0)] * 3, identities)
    assert (identities == 0).all()


def test_parts_without_a_cluster_occur_nowhere(monkeypatch):
    monkeypatch.setattr(patterns, "EXCHANGEABLE", 0.2)  # so that clusters are few
    images, _ = two_looks()
    model = model_of(12)
    occur_only(model, 5, logit=3.0)
    clusters, _ = reassign(model, images)
    assert clusters < 12
    occurrence = renewal.encode_few(model, images)[1].occurrence
    assert (occurrence.amax((0, 2, 3)) == 0).sum() == 12 - clusters
    assert (occurrence.sum(1) > 0.5).float().mean() > 0.9  # others take over


@pytest.mark.parametrize("nothing", [True, False])
def test_nothing_changes_if_nothing_occurs_or_all_is_one_cluster(monkeypatch, nothing):
    monkeypatch.setattr(patterns, "EXCHANGEABLE", 0.0)
    images, _ = two_looks()
    model = model_of(4)
    occur_only(model, *([] if nothing else [2]), logit=3.0)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    clusters, identities = reassign(model, images)
    assert clusters == 0
    assert torch.equal(identities, unknown(model, images))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@given(
    weights=arrays(np.float32, (2, 5, 4), elements=st.floats(-1, 1, width=32)),
    down=st.integers(-6, 6),
    right=st.integers(-6, 6),
)
def test_weights_are_shifted_and_filled_with_zeros(weights, down, right):
    got = renewal.shifted(torch.from_numpy(weights), down, right)
    for row in range(5):
        for column in range(4):
            inside = 0 <= row - down < 5 and 0 <= column - right < 4
            expected = weights[:, row - down, column - right] if inside else 0
            np.testing.assert_array_equal(got[:, row, column], expected)


def drawing_at(model, part, down, right):
    """Makes a part draw a square whose middle lies some places below and to the right of the part's place."""
    with torch.no_grad():
        template = model.decoder.output.weight.unflatten(0, (model.num_parts, -1))[part].zero_()
        row, column = (template.shape[-1] // 2 + model.encoder.scale * step for step in (down, right))
        template[..., row - 2 : row + 2, column - 2 : column + 2] = 1.0


@given(down=st.integers(-2, 2), right=st.integers(-2, 2), part=st.integers(0, 3))
def test_steps_lead_to_the_centre_of_what_a_part_draws(down, right, part):
    model = model_of()
    drawing_at(model, part, down, right)
    assert renewal.steps_to_centres(model)[part] == (down, right)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("down", "right"), [(2, -1), (0, 1)])
def test_parts_move_to_the_centre_of_what_they_draw(down, right, device):
    images = np.random.default_rng(1).integers(90, 110, (128, 32, 32, 3), dtype=np.uint8)
    for row, column in np.ndindex(4, 4):  # light and dark squares that the part draws from the first place of a cell
        top, left = 8 * row + 2 * down - 1, 8 * column + 2 * right - 1
        images[:, max(top, 0) : top + 4, max(left, 0) : left + 4] = 200 if (row + column) % 2 else 0
    model = model_of().to(device)
    occur_only(model, 2, logit=3.0)
    drawing_at(model, 2, down, right)
    with torch.no_grad():
        before = renewal.encode_few(model, images)[1]
        found = renewal.sure_occurrences(model, before, 2)
        assert reassign(model, images)[0] >= 2
        after = renewal.encode_few(model, images)[1]
    use, steps = renewal.use_of_parts(after), renewal.steps_to_centres(model)
    used = [part for part in range(4) if use[part] >= renewal.RARE]
    assert steps[int(use.argmax())] == (0, 0)
    assert max(abs(step) for part in used for step in steps[part]) <= 1  # a rarer part may be fitted to a half of them
    _, wanted = renewal.moved(found, (down, right), (16, 16))
    got = set()
    for part in used:
        at = renewal.sure_occurrences(model, after, part)
        got |= set(zip(*(index.tolist() for index in at), strict=True))
    share = sum(place in got for place in zip(*(index.tolist() for index in wanted), strict=True)) / len(wanted[0])
    assert share > 0.9


def test_assigned_parts_begin_with_the_moments_of_the_commonest():
    images, _ = two_looks()
    model = model_of(4, encoder="small", places=1)
    occur_only(model, 2, logit=3.0)
    optimiser = adam(model)
    first, second = (
        renewal._by_part(model, lambda parameter, name=name: optimiser.state[parameter][name])
        for name in ("exp_avg", "exp_avg_sq")
    )
    before = [tensor.clone() for tensor in second]
    identities = unknown(model, images)
    clusters = renewal.reassign_parts(model, optimiser, images, 0, identities)
    taken = [2, *(part for part in (0, 1, 3) if (identities == part).any())]
    others = sorted({0, 1, 2, 3} - {*taken})
    assert len(taken) == clusters
    for tensor in first:
        assert (tensor[taken] == 0).all()
        assert (tensor[others] != 0).all()
    for tensor, old in zip(second, before, strict=True):
        assert torch.equal(tensor[taken], old[[2] * clusters])
        assert torch.equal(tensor[others], old[others])


@pytest.mark.parametrize(("few", "pixels"), [(5, 1), (1, 5 * 32 * 32)])
def test_images_are_taken_from_all_of_a_set(monkeypatch, few, pixels):
    monkeypatch.setattr(renewal, "FEW", few)
    monkeypatch.setattr(renewal, "PIXELS", pixels)
    images = np.arange(17, dtype=np.uint8)[:, None, None, None] + np.zeros((1, 32, 32, 3), np.uint8)
    batch, _ = renewal.encode_few(model_of(), images)
    assert batch[:, 0, 0, 0].tolist() == [0, 4, 8, 12, 16]


@pytest.mark.parametrize("most", [40, 10_000])
def test_occurrences_from_which_logits_are_fitted_are_bounded(monkeypatch, most):
    images, kind = two_looks()
    model = model_of(4, encoder="small", places=1)
    occur_only(model, 2, logit=3.0)
    counts, original = [], renewal.read_by_logits

    def counted(model, features, at, occupied, *rest):
        counts.append((len(occupied[0]), len(at[0])))
        return original(model, features, at, occupied, *rest)

    monkeypatch.setattr(renewal, "read_by_logits", counted)
    monkeypatch.setattr(renewal, "MOST", most)
    assert reassign(model, images)[0] >= 2
    assert counts == [(kind.numel(), min(most, kind.numel()))]
    use = renewal.use_of_parts(renewal.encode_few(model, images)[1])
    assert use.sum() > 0.9 * kind[0].numel()  # occurrences that were not used for it remain


def expected_use(posterior):
    """Differs between parts that occur in all cells with different probabilities."""
    return posterior.occurrence.sum((2, 3)).mean(0)


def test_of_two_that_draw_the_same_the_rarer_retires(images, monkeypatch):
    monkeypatch.setattr(renewal, "use_of_parts", expected_use)
    model = model_of(8)
    occur_only(model, *range(8))
    with torch.no_grad():
        model.occurrence_head.bias[3] = 0.3
        weight = model.decoder.output.weight
        weight[:, :3].mul_(20)
        weight[6:8] = 0
        weight[6:8, :, 2:, :] = weight[0:2, :, :-2, :]  # part 3 draws what part 0 does, two pixels lower
    identities = unknown(model, images)
    identities[0, 0, :3] = torch.tensor([0, 3, 5])
    assert renewal.retire_duplicates(model, images, 0.7, identities) == [(0, 3)]
    assert identities[0, 0, :3].tolist() == [3, 3, 5]
    use = renewal.use_of_parts(renewal.encode_few(model, images)[1])
    assert use[0] == 0
    assert (use[1:] > 0).all()
    assert renewal.retire_duplicates(model, images, 0.7, unknown(model, images)) == []


def test_two_that_would_be_overused_together_remain(images, monkeypatch):
    monkeypatch.setattr(renewal, "use_of_parts", expected_use)
    model = model_of(8)
    occur_only(model, *range(8))
    with torch.no_grad():
        model.occurrence_head.bias[:2] = 2.0  # of ten occurrences, three and three
        weight = model.decoder.output.weight
        weight[:, :3].mul_(20)
        weight[2:4] = weight[0:2]  # part 1 draws what part 0 does
        assert renewal.similarities(renewal.part_pictures(model), 0)[0, 1] > 0.99
    assert not {(0, 1), (1, 0)} & set(renewal.retire_duplicates(model, images, 0.7, unknown(model, images)))
    with torch.no_grad():
        model.occurrence_head.bias[:2] = 0.0
    assert renewal.retire_duplicates(model, images, 0.7, unknown(model, images)) in ([(0, 1)], [(1, 0)])


def test_what_all_parts_have_in_common_makes_no_duplicates(images, monkeypatch):
    monkeypatch.setattr(renewal, "use_of_parts", expected_use)
    model = model_of(8)
    occur_only(model, *range(8))
    with torch.no_grad():
        model.decoder.output.weight += 20 * model.decoder.output.weight[0]
    assert renewal.similarities(renewal.part_pictures(model), 0).min() > 0.9
    assert renewal.retire_duplicates(model, images, 0.8, unknown(model, images)) == []


def test_shifts_are_found_and_only_as_far_as_asked():
    pictures = torch.zeros(3, 1, 16, 16)
    pictures[0, 0, 4:8, 4:6] = pictures[1, 0, 7:11, 6:8] = 1.0
    near, far = (renewal.similarities(pictures, reach) for reach in (3, 2))
    assert near[0, 1].item() == pytest.approx(1.0)
    assert far[0, 1] < 0.9
    assert near[0, 2] == 0  # a picture of nothing
    assert torch.equal(near, near.T)
