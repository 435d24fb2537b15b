"""BetaVAE: a baseline of PatchVAE's size, with the same calls."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import reference
from accel import BetaVAE, Noise, PatchVAE, elbo
from tests.support import assert_close, to_numpy


def pictures(*shape, dtype=torch.float32):
    return torch.rand(*shape, dtype=dtype) * 2 - 1


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_parameter_counts_are_comparable():
    assert BetaVAE().latent_dim == 16 * 6
    assert 0.75 < parameters(BetaVAE()) / parameters(PatchVAE()) < 1.5
    assert [p.shape for p in BetaVAE().encoder.parameters()] == [p.shape for p in PatchVAE().encoder.parameters()]
    assert [p.shape for p in BetaVAE().decoder.parameters()] == [p.shape for p in PatchVAE().decoder.parameters()]


@settings(max_examples=10)
@given(
    grid=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    channels=st.sampled_from([1, 3]),
    latent_dim=st.integers(1, 9),
)
def test_shapes_on_any_grid(grid, channels, latent_dim):
    size = (8 * grid[0], 8 * grid[1])
    model = BetaVAE(image_size=size, channels=channels, latent_dim=latent_dim).eval()
    out = model(pictures(2, channels, *size), noise=Noise(0))
    assert model.grid == grid
    assert model.coarse_grid == (min(grid[0], 4), min(grid[1], 4))
    assert out.reconstruction.shape == (2, channels, *size)
    assert out.code.shape == out.mean.shape == out.variance.shape == (2, latent_dim)
    assert out.kl_appearance.shape == (2,)
    assert torch.equal(out.kl_occurrence, torch.zeros(2))
    assert model.sample(3).shape == (3, channels, *size)


def test_posterior_divergence_and_draw_are_the_specification_s():
    model = BetaVAE(image_size=16, latent_dim=5).double().eval()
    images = pictures(3, 3, 16, 16, dtype=torch.float64)
    out = model(images, noise=Noise(4, 2, first_image=6))
    normal = torch.distributions.Normal
    divergence = torch.distributions.kl_divergence(normal(out.mean, out.variance.sqrt()), normal(0.0, 1.0)).sum(1)
    assert_close("divergence", out.kl_appearance, divergence, relative=1e-9)
    epsilon = reference.appearance_noise(reference.Noise(4, 2, first_image=6), 3, 1, 5)[:, 0]
    code = to_numpy(out.mean) + to_numpy(out.variance) ** 0.5 * epsilon
    assert_close("code", out.code, code, relative=1e-12)


def test_features_are_averaged_over_the_cells_that_a_linear_input_stands_for():
    model = BetaVAE(image_size=(64, 32), latent_dim=2).double().eval()
    images = pictures(1, 3, 64, 32, dtype=torch.float64)
    features = model.features(images)  # (1, 128, 8, 4): rows are averaged in pairs
    expected = model.mean(features.unflatten(2, (4, 2)).mean(3).flatten(1))
    assert_close("mean", model.encode(images).mean, expected, relative=1e-12)


@pytest.mark.parametrize("sample", [True, False])
def test_the_loss_reaches_every_parameter(sample):
    model = BetaVAE(image_size=16, latent_dim=4)
    images = pictures(4, 3, 16, 16)
    elbo(model(images, noise=Noise(1), sample=sample), images).total.backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]


def test_nothing_is_drawn_unless_noise_is_given():
    model = BetaVAE(image_size=16, latent_dim=4)
    images = pictures(3, 3, 16, 16)
    state = torch.get_rng_state()
    out = model(images)
    assert torch.equal(out.code, out.mean)
    assert torch.equal(out.code, model.encode(images).code)
    assert torch.equal(model.eval()(images).reconstruction, model.reconstruct(images))
    model.train()
    sampled = model(images, noise=Noise(1)).code
    assert torch.equal(sampled, model(images, temperature=0.1, noise=Noise(1)).code)
    assert not torch.equal(sampled, out.code)
    assert torch.equal(model.sample(2, seed=3), model.sample(2, seed=3))
    assert torch.equal(state, torch.get_rng_state())


def test_samples_are_decoded_standard_normals(monkeypatch):
    model = BetaVAE(image_size=8, latent_dim=20)
    monkeypatch.setattr(model, "decode", lambda code: code)
    code = model.sample(500, seed=3)
    assert code.mean().abs() < 0.03
    assert code.std().item() == pytest.approx(1, abs=0.02)
    assert_close("code", code[:2], reference.appearance_noise(reference.Noise(3), 2, 1, 20)[:, 0], relative=1e-5)


def test_autocast_keeps_the_posterior_in_float32():
    model = BetaVAE(image_size=16, latent_dim=4).eval()
    with torch.autocast("cpu", torch.bfloat16):
        out = model(pictures(2, 3, 16, 16), noise=Noise(0))
    assert out.code.dtype == out.reconstruction.dtype == torch.bfloat16
    assert out.mean.dtype == out.variance.dtype == out.kl_appearance.dtype == torch.float32


def test_compiles_as_one_graph():
    model = BetaVAE(image_size=16, latent_dim=4)
    images = pictures(2, 3, 16, 16)

    def step(images, noise):
        return elbo(model(images, noise=noise), images).total

    noise = Noise(torch.tensor(3), torch.tensor(4))
    expected = step(images, noise)
    assert torch.equal(torch.compile(step, fullgraph=True, backend="eager")(images, noise), expected)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda m: BetaVAE(latent_dim=0), "latent_dim must be a positive integer, got 0"),
        (lambda m: m(torch.zeros(2, 3, 32, 32)), r"\(H, W\) = \(16, 16\), got \(2, 3, 32, 32\)"),
        (lambda m: m(torch.zeros(2, 1, 16, 16)), r"images must be \(B, 3, H, W\), got \(2, 1, 16, 16\)"),
        (lambda m: m.encode(torch.zeros(16)), r"got \(16,\)"),
        (lambda m: m.decode(torch.zeros(2, 5)), r"code must be a tensor \(B, 4\), got Tensor \(2, 5\)"),
        (lambda m: m.sample(-1), "count must be a positive integer, got -1"),
        (lambda m: m(torch.zeros(2, 3, 16, 16), sample=True), "sample=True needs noise"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call(BetaVAE(image_size=16, latent_dim=4))
