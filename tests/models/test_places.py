"""PatchVAE with places within cells, templates and a background: shapes, effects, and saving."""

from types import SimpleNamespace

import pytest
import torch

import reference
from accel import Noise, PatchVAE, elbo

OPTIONS = {"encoder": "fine", "num_parts": 3, "part_dim": 2, "occurrence": "categorical"}


@pytest.fixture
def images():
    return torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def build(**options):
    torch.manual_seed(0)
    return PatchVAE(**OPTIONS, **options)


@pytest.mark.parametrize("decoder", ["pyramid", "templates"])
@pytest.mark.parametrize("ground", [0, 2])
@pytest.mark.parametrize("head", ["pooled", "separate", "fused"])
def test_shapes_and_gradients(images, decoder, ground, head):
    model = build(decoder=decoder, ground=ground, head=head)
    out = model(images, temperature=0.7, noise=Noise(1))
    assert (model.scale, model.grid) == (8, (4, 4))
    assert out.occurrence.shape == (4, 3, 4, 4)
    assert out.code.shape == (4, 6, 4, 4)
    assert out.places.shape == (4, 3, 16, 16)
    assert out.reconstruction.shape == images.shape
    cells = out.places.unflatten(3, (4, 4)).unflatten(2, (4, 4)).sum((3, 5))
    torch.testing.assert_close(cells, torch.ones_like(cells))
    assert (out.ground is None) == (ground == 0)
    loss = elbo(out, images)
    output = SimpleNamespace(**{name: x if x is None else x.detach().double().numpy() for name, x in vars(out).items()})
    expected = reference.elbo(output, images.double().numpy())
    # float32 sums of 3,072 squares, of which each is rounded a few times.
    assert loss.total.item() == pytest.approx(expected.total, rel=1e-5)
    assert (loss.kl_ground is None) == (ground == 0)
    loss.total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize(("made_for", "size"), [(32, 8), (32, 24), (32, 64), (8, 32), (16, 40)])
def test_with_a_ground_images_of_other_sizes_are_taken(made_for, size):
    model = PatchVAE(**OPTIONS | {"image_size": made_for}, ground=2)
    out = model(torch.rand(2, 3, size, size), noise=Noise(1))
    assert out.reconstruction.shape == (2, 3, size, size)
    assert out.reconstruction.isfinite().all()


def test_heads_compute_one_function(images):
    models = {head: build(head=head, ground=2) for head in ("pooled", "separate", "fused")}
    found = {head: model.eval()(images, noise=Noise(2)) for head, model in models.items()}
    for head in ("separate", "fused"):
        # float32, and sums of at most a few hundred terms in another order.
        torch.testing.assert_close(found[head].reconstruction, found["pooled"].reconstruction, atol=1e-4, rtol=0)
        torch.testing.assert_close(found[head].kl_occurrence, found["pooled"].kl_occurrence, atol=1e-4, rtol=1e-4)


def test_every_part_begins_at_its_prior(images):
    model = build(occurrence_prior=0.05)
    torch.nn.init.zeros_(model.occurrence_head.weight)
    posterior = model.encode(images)
    torch.testing.assert_close(posterior.occurrence, torch.full_like(posterior.occurrence, 0.05))
    torch.testing.assert_close(posterior.places, torch.full_like(posterior.places, 1 / 16))
    torch.testing.assert_close(posterior.kl_occurrence, torch.zeros(4), atol=1e-4, rtol=0)


def test_a_place_moves_a_template_by_the_encoders_cell():
    model = build(decoder="templates")
    code = torch.zeros(1, 6, 4, 4)
    code[0, 2, 1, 1] = 1  # part 1

    def drawn(row, column):
        places = torch.zeros(1, 3, 16, 16)
        places[0, 1, row, column] = 1
        return model.decode(code, places)

    with torch.no_grad():
        nothing, first, moved = model.decoder(torch.zeros(1, 6, 16, 16)), drawn(5, 6), drawn(6, 6)
    assert (first - nothing).abs().max() > 0.01
    torch.testing.assert_close(moved[:, :, 2:], first[:, :, :-2])


def test_without_parts_the_ground_is_seen():
    model = build(decoder="templates", ground=2)
    torch.nn.init.zeros_(model.decoder.output.weight)
    model.decoder.output.bias.data[:] = torch.tensor([0.0, 0.0, 0.0, -40.0])
    ground = torch.zeros(1, 3, 2, 2)
    ground[0, 1] = torch.tensor([[-1.0, 1.0], [-1.0, 1.0]])
    image = model.decode(torch.zeros(1, 6, 4, 4), ground=ground)
    torch.testing.assert_close(image[0, 1, :, [0, -1]], torch.tensor([[-1.0, 1.0]]).expand(32, 2).tanh())
    assert image[0, 0].abs().max() < 1e-6


def test_saving_sampling_and_reconstruction(images, tmp_path):
    model = build(decoder="templates", ground=2).eval()
    model.save_pretrained(tmp_path)
    again = PatchVAE.from_pretrained(tmp_path)
    assert torch.equal(again.reconstruct(images), model.reconstruct(images))
    assert torch.equal(again.sample(3, seed=4), model.sample(3, seed=4))
    assert model.sample(3, seed=4).shape == (3, 3, 32, 32)
    assert not torch.equal(model.sample(3, seed=5), model.sample(3, seed=4))


@pytest.mark.parametrize(
    ("options", "named"), [({"places": 0}, "places"), ({"decoder": "x"}, "decoder"), ({"ground": 1}, "ground")]
)
def test_refuses_by_name(options, named):
    with pytest.raises(ValueError, match=named):
        PatchVAE(**options)
