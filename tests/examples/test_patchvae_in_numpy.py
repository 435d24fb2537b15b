"""The NumPy example agrees with accel.ops and autograd, and finds the drawn glyphs."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import fold, unfold

from accel import ops
from examples import patchvae_in_numpy as page
from tests.support import ROUNDOFF, assert_close, to_numpy

# A gradient is a sum over 32 images and 16 cells of what went through sums over 64 pixels and through some hundred
# operations, so its error is below 1000 unit roundoffs of the sum of the terms' sizes; the terms may cancel, and that
# sum is then larger than the gradient itself, by less than 1000. A term or a factor left out is off by 10⁻³ or more.
RELATIVE = 1e6 * ROUNDOFF[torch.float64]


def torch_loss(weights, images, noise):
    """The loss and its terms of the same model, with the operators of accel, on tensors."""
    E, e, T = weights
    maps = (E @ unfold(images, 8, stride=8) + e).unflatten(2, (page.GRID, page.GRID)).chunk(3, 1)
    latent = ops.patch_bottleneck(
        *maps, temperature=page.TEMPERATURE, noise=ops.Noise(noise.seed, noise.step), backend="torch"
    )
    reconstruction = fold(T @ latent.code.flatten(2), images.shape[-2:], 8, stride=8)
    error = ops.weighted_squared_error(reconstruction, images, backend="torch")
    terms = error.mean(), latent.kl_appearance.mean(), latent.kl_occurrence.mean()
    return terms[0] + page.BETA_APP * terms[1] + page.BETA_OCC * terms[2], *terms


def trained(seed, steps):
    """Weights after some steps, and the random generator that draws the next images."""
    rng = np.random.default_rng(seed)
    weights = page.initial_weights(rng)
    for _ in page.train(weights, seed, rng, steps):
        pass
    return weights, rng


def test_losses_and_gradients_of_a_training_are_autograds_and_its_updates_adams(monkeypatch):
    calls, original = [], page.loss_and_gradients

    def recorded(weights, images, noise):
        result = original(weights, images, noise)
        calls.append(([w.copy() for w in weights], images, noise, result))
        return result

    monkeypatch.setattr(page, "loss_and_gradients", recorded)
    final, _ = trained(seed=3, steps=12)
    assert [noise.step for _, _, noise, _ in calls] == list(range(12))
    # Adam is given the page's own gradients, for it divides by their size: rounding would count where they are tiny.
    parameters = [torch.tensor(w) for w in calls[0][0]]
    adam = torch.optim.Adam(parameters, page.RATE, betas=(0.9, 0.99))
    followers = [weights for weights, *_ in calls[1:]] + [final]
    for (weights, images, noise, (loss, gradients)), updated in zip(calls, followers, strict=True):
        leaves = [torch.tensor(w, requires_grad=True) for w in weights]
        expected = torch_loss(leaves, torch.tensor(images), noise)
        terms = loss.total, loss.reconstruction, loss.kl_appearance, loss.kl_occurrence
        assert_close(f"loss at step {noise.step}", terms, to_numpy(torch.stack(expected)), relative=RELATIVE)
        expected = torch.autograd.grad(expected[0], leaves)
        for name, got, gradient in zip(("d_E", "d_e", "d_T"), gradients, expected, strict=True):
            assert_close(f"{name} at step {noise.step}", got, gradient, relative=RELATIVE)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = torch.tensor(gradient)
        adam.step()
        for name, got, parameter in zip("EeT", updated, parameters, strict=True):
            # A few roundings a step, each of an update of at most 10 · RATE; weights grow to a tenth and more.
            assert_close(f"{name} after step {noise.step}", got, parameter, relative=1e-12)


def test_a_part_finds_each_glyph():
    found = []
    for seed in range(3):
        weights, rng = trained(seed, page.STEPS)
        scores = page.agreement(weights, *page.draw_images(rng, 128))
        found.append(scores.max(0).min() > page.FOUND and len(set(scores.argmax(0))) == len(page.NAMES))
    # With other draws, one training of 18 ended where glyphs share parts, with an agreement of 0.5.
    assert sum(found) >= 2


def test_without_training_no_part_finds_any():
    weights, rng = trained(seed=0, steps=0)
    assert (page.agreement(weights, *page.draw_images(rng, 128)) < 0.5).all()


def test_agreement_is_what_both_hold_of_what_either_holds():
    weights = page.initial_weights(np.random.default_rng(0))
    weights[0][:] = 0.0
    weights[1][:] = -1.0
    weights[0][5] = page.GLYPHS[2]  # part 5: where the ink of glyph 2 is
    images = page.to_images(np.stack([page.GLYPHS[2], page.GLYPHS[2], *np.zeros((14, 64))], axis=1)[None])
    present = np.zeros((1, 4, 16), bool)
    present[0, 2, [1, 2, 3]] = True
    present[0, [0, 1, 3], [5, 6, 7]] = True
    scores = page.agreement(weights, images, present)
    assert scores[5, 2] == 1 / 4
    assert np.count_nonzero(scores) == 1


def test_images_hold_what_they_are_said_to_hold():
    images, present = page.draw_images(np.random.default_rng(0), 200)
    assert (present.sum(1) <= 1).all()
    cells = page.to_cells(images)
    assert np.array_equal(page.to_images(cells), images)
    # The brightness that fits best, exp(N(0, ½²)), whose mean is 1.13, in noise whose mean is 0.
    fitted = np.einsum("gp,bpl->bgl", page.GLYPHS, cells) / page.GLYPHS.sum(1)[:, None]
    for glyph in range(4):
        assert 1.0 < fitted[:, glyph][present[:, glyph]].mean() < 1.3
    assert abs(cells.transpose(0, 2, 1)[~present.any(1)].mean()) < 0.01


def test_it_runs_as_the_docstring_says_with_numpy_and_the_specification_alone():
    script = (
        "import sys\n"
        "import examples.patchvae_in_numpy as page\n"
        "train = page.train\n"
        "page.train = lambda weights, seed, rng: train(weights, seed, rng, 3)\n"
        "page.main(0)\n"
        "assert not {'torch', 'triton', 'accel'} & set(sys.modules)\n"
    )
    root = Path(__file__).parents[2]
    output = subprocess.run([sys.executable, "-c", script], cwd=root, check=True, capture_output=True, text=True).stdout
    assert output.startswith("step   0   loss")
    assert all(f"{name}: part " in output for name in page.NAMES)
    assert output.endswith("0 of 4 glyphs found\n")
