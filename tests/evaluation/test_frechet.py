"""Moments in one pass, the Fréchet distance against the specification, and Inception against another implementation."""

import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import reference
from accel.evaluation.frechet import Moments, classifier_features, frechet_distance, inception_features
from accel.evaluation.inception import Inception
from accel.models import Classifier


def moments_of(vectors, *cuts):
    """Moments of vectors (m, M), added in pieces."""
    result = Moments()
    for piece in np.split(vectors, sorted(cuts)):
        if len(piece):
            result.add(torch.tensor(piece))
    return result


@given(seed=st.integers(0, 999), count=st.integers(2, 60), dim=st.integers(1, 6), cuts=st.lists(st.integers(0, 60)))
def test_moments_do_not_depend_on_how_vectors_come(seed, count, dim, cuts):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(count, dim)) * rng.uniform(0.1, 10) + 1e6  # sums of squares would lose 12 digits
    result = moments_of(vectors, *cuts)
    assert result.count == count
    np.testing.assert_allclose(result.mean, vectors.mean(0), rtol=1e-14)
    # Centred values carry the rounding of numbers of size 10⁶, about 10⁻¹⁰.
    expected = np.cov(vectors, rowvar=False).reshape(dim, dim)
    np.testing.assert_allclose(result.covariance, expected, atol=1e-8 * np.abs(vectors - 1e6).max())


@given(seed=st.integers(0, 999), dim=st.integers(1, 8), count=st.integers(2, 30))
def test_distance_is_the_references(seed, dim, count):
    rng = np.random.default_rng(seed)
    one, other = (rng.normal(size=(count, dim)) @ rng.normal(size=(dim, dim)) + rng.normal() for _ in range(2))
    a, b = moments_of(one), moments_of(other)
    expected = reference.frechet_distance(a.mean.numpy(), a.covariance.numpy(), b.mean.numpy(), b.covariance.numpy())
    # Roots of eigenvalues near zero, where vectors are fewer than dimensions, keep half of the digits.
    assert frechet_distance(a, b) == pytest.approx(max(0, expected), rel=1e-6, abs=1e-5)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-5)


def test_distance_is_that_of_pytorch_fid():
    """Golden value: calculate_frechet_distance of pytorch-fid 0.3.0, with np.cov and scipy's matrix square root."""
    rng = np.random.default_rng(2)
    one = rng.normal(size=(60, 7)) @ rng.normal(size=(7, 7))
    other = rng.normal(size=(80, 7)) @ rng.normal(size=(7, 7)) + 0.5
    assert frechet_distance(moments_of(one, 10), moments_of(other, 70)) == pytest.approx(34.49469972924568, rel=1e-10)


def test_too_few_or_different_vectors_are_refused():
    with pytest.raises(ValueError, match="at least two vectors, got 1"):
        frechet_distance(moments_of(np.ones((1, 2))), moments_of(np.ones((3, 2))))
    with pytest.raises(ValueError, match="must have the same dimension, got 3 and 2"):
        frechet_distance(moments_of(np.ones((4, 3))), moments_of(np.ones((3, 2))))


def drawn_weights(state):
    """A random state dict with the same names and shapes, drawn in the order of the names."""
    rng, result = np.random.default_rng(0), {}
    for name in sorted(state):
        shape = tuple(state[name].shape)
        if name.endswith("num_batches_tracked"):
            continue
        x = rng.standard_normal(shape, dtype=np.float32)
        if name.endswith("conv.weight"):
            x *= (2 / np.prod(shape[1:])) ** 0.5
        elif name.endswith("running_var"):
            x = 1 + 0.1 * np.abs(x)
        else:
            x = 0.1 * x + name.endswith("bn.weight")
        result[name] = torch.from_numpy(np.asarray(x, np.float32))
    return result


def test_inception_is_that_of_pytorch_fid(tmp_path):
    """Golden values: InceptionV3([3]) of pytorch-fid 0.3.0 with torchvision 0.29.2, these weights and images."""
    path = tmp_path / "weights.pth"
    torch.save(drawn_weights(Inception().state_dict()) | {"fc.weight": torch.zeros(1008, 2048)}, path)
    features = inception_features(path, torch.device("cpu"))
    images = torch.from_numpy(np.random.default_rng(1).uniform(-1, 1, (2, 3, 32, 32)).astype(np.float32))
    with torch.no_grad():
        result = features.extract(images).double()
    assert result.shape == (2, 2048)
    expected = [1.2521895170211792, 0.024006493389606476, 0.00725962407886982]
    np.testing.assert_allclose(result[0, 1:4], expected, atol=1e-5)
    assert result.sum().item() == pytest.approx(881.9439191718993, rel=1e-5)
    assert result.square().sum().item() == pytest.approx(527.8395849993688, rel=1e-5)
    grey = features.extract(images[:1, :1])
    assert torch.equal(grey, features.extract(images[:1, :1].expand(-1, 3, -1, -1)))
    assert features.name == "fid"


def test_other_files_are_not_taken_for_inception(tmp_path):
    torch.save({"conv.weight": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"other.pt: not the weights of FID's Inception network, 'Conv2d_1a_3x3"):
        inception_features(tmp_path / "other.pt", torch.device("cpu"))
    script = tmp_path / "script.pt"
    with zipfile.ZipFile(script, "w") as archive:
        archive.writestr("script/constants.pkl", b"")
    with pytest.raises(
        ValueError,
        match=r"script.pt: not a readable .*\(it is a TorchScript archive, which would execute code when opened",
    ):
        inception_features(script, torch.device("cpu"))
    with pytest.raises(FileNotFoundError, match=r"nothing.pth"):
        inception_features(tmp_path / "nothing.pth", torch.device("cpu"))


def test_classifier_features_are_its_penultimate_ones(tmp_path):
    model = Classifier(image_size=16, num_classes=3, encoder="small")
    model.save_pretrained(tmp_path / "conv5" / "model")
    features = classifier_features(tmp_path / "conv5" / "model", torch.device("cpu"))
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    assert torch.equal(features.extract(images), model.eval().penultimate(images))
    assert "fid" not in features.name
    assert "conv5/model" in features.network
