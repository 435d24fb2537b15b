"""The loss agrees with the specification, applies each β to its term, and is float32 for any dtype."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import reference
from accel import elbo
from accel.models import identity_cross_entropy
from tests.support import assert_close, to_numpy

TERMS = ("total", "reconstruction", "kl_appearance", "kl_occurrence")


def output(batch=3, channels=3, height=16, width=8, dtype=torch.float64):
    return SimpleNamespace(
        reconstruction=(torch.rand(batch, channels, height, width, dtype=torch.float64) * 2 - 1).to(dtype),
        kl_appearance=torch.rand(batch, dtype=torch.float64),
        kl_occurrence=torch.rand(batch, dtype=torch.float64),
    )


def as_arrays(out):
    return SimpleNamespace(**{name: to_numpy(value) for name, value in vars(out).items()})


@given(
    weighted=st.booleans(),
    betas=st.tuples(st.floats(0, 10), st.floats(0, 10)),
    batch=st.integers(1, 4),
    channels=st.sampled_from([1, 3]),
    grid=st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
def test_values_and_gradients_are_the_specification_s(weighted, betas, batch, channels, grid):
    out = output(batch, channels, 8 * grid[0], 8 * grid[1])
    images = torch.rand_like(out.reconstruction) * 2 - 1
    leaves = [value.requires_grad_() for value in vars(out).values()]
    got = elbo(out, images, *betas, weighted=weighted)
    expected = reference.elbo(as_arrays(out), to_numpy(images), *betas, weighted=weighted)
    for name in TERMS:
        assert getattr(got, name).ndim == 0
        assert_close(name, getattr(got, name), getattr(expected, name), relative=1e-12)
    gradients = torch.autograd.grad(got.total, leaves)
    wanted = reference.elbo_gradients(1.0, as_arrays(out), to_numpy(images), *betas, weighted=weighted)
    for name, gradient, want in zip(vars(out), gradients, wanted, strict=True):
        assert_close(f"d_{name}", gradient, want, relative=1e-12)


@given(
    seed=st.integers(0, 999),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3)),
    beta_occ=st.floats(0, 10),
    beta_identity=st.floats(0, 1, exclude_max=True),
    rare=st.booleans(),
)
def test_information_about_the_part_is_the_specification_s(seed, shape, beta_occ, beta_identity, rare):
    rng = np.random.default_rng(seed)
    out = output(shape[0], 1, 8, 8)
    logits = rng.normal(size=(shape[0], shape[1] + 1, *shape[2:])) * (30 if rare else 1)
    p = torch.from_numpy(logits).softmax(1)[:, :-1].requires_grad_()
    out.occurrence = p
    images = torch.rand_like(out.reconstruction)
    got = elbo(out, images, 2.0, beta_occ, True, beta_identity)
    expected = reference.elbo(as_arrays(out), to_numpy(images), 2.0, beta_occ, True, beta_identity)
    for name in (*TERMS, "identity"):
        assert_close(name, getattr(got, name), getattr(expected, name), relative=1e-12, absolute=1e-13)
    (gradient,) = torch.autograd.grad(got.total, p)
    *_, wanted = reference.elbo_gradients(1.0, as_arrays(out), to_numpy(images), 2.0, beta_occ, True, beta_identity)
    assert_close("d_occurrence", gradient, wanted, relative=1e-12, absolute=1e-13)


@given(seed=st.integers(0, 999), half=st.integers(1, 3), parts=st.integers(1, 4), beta_identity=st.floats(0, 0.9))
def test_information_of_shares_is_that_of_the_whole_batch(seed, half, parts, beta_identity):
    rng = np.random.default_rng(seed)
    out = output(2 * half, 1, 8, 8)
    p = torch.from_numpy(rng.normal(size=(2 * half, parts + 1, 2, 3)) * 5).softmax(1)[:, :-1].requires_grad_()
    images = torch.rand_like(out.reconstruction)
    used = p.detach().sum((0, 2, 3)).view(1, -1, 1)

    def of(images_of, over_processes=None):
        fields = {name: value[images_of] for name, value in vars(out).items() if value is not None}
        share = SimpleNamespace(**fields | {"occurrence": p[images_of]})
        return elbo(share, images[images_of], 2.0, 3.0, True, beta_identity, over_processes)

    whole = of(slice(None))
    shares = [of(images_of, lambda own: used) for images_of in (slice(half), slice(half, None))]
    for name in ("total", "identity"):
        mean = sum(getattr(share, name) for share in shares) / 2
        assert_close(name, mean, getattr(whole, name), relative=1e-12, absolute=1e-13)
    (expected,) = torch.autograd.grad(whole.total, p)
    (gradient,) = torch.autograd.grad(sum(share.total for share in shares) / 2, p)
    assert_close("d_occurrence", gradient, expected, relative=1e-12, absolute=1e-13)


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sums_are_float32_however_the_reconstruction_is_stored(weighted, dtype):
    out = output(2, 3, 64, 64, dtype)
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    exact = output()
    exact.__dict__.update(vars(out) | {"reconstruction": out.reconstruction.double()})
    got, expected = elbo(out, images, weighted=weighted), elbo(exact, images.double(), weighted=weighted)
    assert got.reconstruction.dtype == torch.float32
    assert_close("reconstruction", got.reconstruction, expected.reconstruction, relative=1e-6)


@pytest.mark.parametrize("weighted", [True, False])
def test_bytes_are_the_images_that_the_model_saw(weighted):
    out = output(dtype=torch.float32)
    images = torch.randint(0, 256, out.reconstruction.shape, dtype=torch.uint8)
    floats = images.float() / 127.5 - 1
    assert torch.equal(elbo(out, images, weighted=weighted).total, elbo(out, floats, weighted=weighted).total)


def test_betas_may_be_tensors_that_a_schedule_moves():
    out = output()
    images = torch.zeros_like(out.reconstruction)
    got = elbo(out, images, torch.tensor(2.0), torch.tensor(3.0)).total
    assert_close("total", got, elbo(out, images, 2.0, 3.0).total, relative=1e-12)


def test_images_of_another_shape_are_refused_instead_of_broadcast():
    with pytest.raises(ValueError, match=r"images are \(1, 3, 16, 8\), the reconstruction \(3, 3, 16, 8\)"):
        elbo(output(), torch.zeros(1, 3, 16, 8), weighted=False)


def test_images_of_integers_other_than_bytes_are_refused():
    with pytest.raises(ValueError, match="images must be uint8, or floating point"):
        elbo(output(), torch.zeros(3, 3, 16, 8, dtype=torch.int64))


def test_sizes_without_whole_patches_are_refused_if_weighted():
    out = SimpleNamespace(**vars(output()) | {"reconstruction": torch.zeros(3, 3, 20, 8)})
    with pytest.raises(ValueError, match="elbo: weighted=True needs a height and width that 8 divides, got 20x8"):
        elbo(out, torch.zeros(3, 3, 20, 8))
    elbo(out, torch.zeros(3, 3, 20, 8), weighted=False)


def test_information_about_the_part_needs_parts():
    out = output()
    with pytest.raises(ValueError, match="beta_identity 0 needs a model with parts, got SimpleNamespace"):
        elbo(out, torch.zeros_like(out.reconstruction), beta_identity=0.0)


@given(seed=st.integers(0, 999), extreme=st.booleans())
def test_cross_entropy_of_identities_is_the_references(seed, extreme):
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(size=(2, 4, 3, 2)) * (20 if extreme else 2)).requires_grad_()
    identities = rng.integers(-1, 4, (2, 3, 2)).astype(np.int16)
    got = identity_cross_entropy(logits, torch.from_numpy(identities))
    p = logits.detach().sigmoid()
    expected = reference.identity_cross_entropy(p.numpy(), identities)
    # Sums and logarithms of float64, some ten roundings of at most 100 nats.
    assert got.item() == pytest.approx(expected, rel=1e-12, abs=1e-12)
    (gradient,) = torch.autograd.grad(got, logits)
    wanted = torch.from_numpy(reference.identity_cross_entropy_gradients(1.0, p.numpy(), identities)) * p * (1 - p)
    torch.testing.assert_close(gradient, wanted, rtol=1e-9, atol=1e-9)


def test_parts_that_never_occur_leave_the_cross_entropy_of_identities_finite():
    logits = torch.full((1, 3, 2, 2), -1e4)
    logits[:, 0] = 0.0
    logits.requires_grad_()
    known = torch.zeros(1, 2, 2, dtype=torch.int16)
    loss = identity_cross_entropy(logits, known)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.item() == 0.0
    assert gradient.isfinite().all()
    assert identity_cross_entropy(logits, known - 1).item() == 0.0


def test_identities_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"identities must be \(2, 4, 4\), got \(2, 4, 3\)"):
        identity_cross_entropy(torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 3, dtype=torch.int16))
