"""The loss: its terms, the pairing of the two β, and its gradients."""

from types import SimpleNamespace

import numpy as np
import pytest

import reference


def draw_output(rng, batch=3):
    images, reconstruction = rng.uniform(-1, 1, (2, batch, 2, 16, 8))
    kl_appearance, kl_occurrence = rng.uniform(0, 5, (2, batch))
    output = SimpleNamespace(reconstruction=reconstruction, kl_appearance=kl_appearance, kl_occurrence=kl_occurrence)
    return output, images


@pytest.mark.parametrize("weighted", [True, False])
def test_total_pairs_each_beta_with_its_own_divergence(weighted):
    output, images = draw_output(np.random.default_rng(0))
    loss = reference.elbo(output, images, beta_app=2.0, beta_occ=7.0, weighted=weighted)
    if weighted:
        error = reference.weighted_squared_error(output.reconstruction, images)
    else:
        error = ((output.reconstruction - images) ** 2).sum((1, 2, 3))
    assert loss.reconstruction == pytest.approx(error.mean(), rel=1e-14)
    expected = error.mean() + 2.0 * output.kl_appearance.mean() + 7.0 * output.kl_occurrence.mean()
    assert loss.total == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("weighted", [True, False])
def test_gradients_equal_differences(weighted):
    rng = np.random.default_rng(1)
    output, images = draw_output(rng)
    options = {"beta_app": 2.0, "beta_occ": 7.0, "weighted": weighted}
    gradients = reference.elbo_gradients(1.5, output, images, **options)
    for name, gradient in zip(("reconstruction", "kl_appearance", "kl_occurrence"), gradients, strict=True):
        direction = rng.normal(size=gradient.shape)
        # At most quadratic in each argument, so central differences are exact but for rounding.
        above, below = (
            1.5
            * reference.elbo(
                SimpleNamespace(**vars(output) | {name: getattr(output, name) + s * direction}), images, **options
            ).total
            for s in (0.5, -0.5)
        )
        assert (gradient * direction).sum() == pytest.approx(above - below, rel=1e-10, abs=1e-10)
