"""PatchVAE on one page: find the glyphs that recur in images, without labels, with gradients derived by hand.

    python -m examples.patchvae_in_numpy [SEED]

Four glyphs are scattered over a grid of cells. All copies of a glyph in an image have the same brightness, which
differs between images, and there is noise. The model knows none of this. For each of its N parts and every cell l, it
predicts from the cell's pixels x_l whether the part occurs there (logit a) and how it looks (mean μ, log-variance s).
It must reconstruct the image from these predictions alone:

    encode    (a_l, μ_l, s_l) = E x_l + e                          linear here, a deep network in the paper
    pool      m = Σ_l w_l μ_l,  log v = Σ_l w_l s_l                w_l = p_l / Σ_j p_j,  p = σ(a): one per image
    sample    z = m + √v ε,  y_l = σ((a_l + log u_l − log(1 − u_l)) / τ)                         equation 4
    place     ẑ_l = z · y_l                                        the patch latent code
    decode    x̂_l = T ẑ_l                                          one column of T, a template, for each part
    loss      Σ ω (x − x̂)² + β_app KL(N(m, v) ‖ N(0, 1)) + β_occ Σ_l KL(Bern(p_l) ‖ Bern(1/N))   equation 11

The middle three lines are reference.patch_bottleneck (sections 3.2 and 3.3 of the paper), and the last is
reference.elbo, where ω weighs each cell by its gradient energy (section 3.4). About one training run in a few dozen
ends in a local minimum where glyphs share parts; another SEED then helps.
"""

import sys
from types import SimpleNamespace

import numpy as np

import reference

DRAWING = """
...##...  ..####..  ##....##  .#..#..#
...##...  .#....#.  ###..###  .#..#..#
...##...  #......#  .######.  .#..#..#
########  #......#  ...##...  .#..#..#
########  #......#  ...##...  .#..#..#
...##...  #......#  .######.  .#..#..#
...##...  .#....#.  ###..###  .#..#..#
...##...  ..####..  ##....##  .#..#..#
"""
NAMES = ("plus", "ring", "cross", "bars")
INK = np.array([[list(piece) for piece in line.split()] for line in DRAWING.split("\n")[1:-1]]) == "#"
GLYPHS = INK.swapaxes(0, 1).reshape(4, 64).astype(float)

GRID, PARTS = 4, 8  # twice as many parts as glyphs: the others should stay unused
TEMPERATURE, BETA_APP, BETA_OCC = 0.5, 1.0, 1.5
STEPS, BATCH, RATE = 400, 32, 0.03
FOUND = 0.75  # agreement; above one half, a part can agree with one glyph only


def draw_images(rng, count):
    """Images (B, 1, 32, 32), and where each glyph is, (B, 4, L): 30% of the cells hold one."""
    glyph = np.where(rng.random((count, GRID**2)) < 0.3, rng.integers(0, 4, (count, GRID**2)), -1)
    present = glyph[:, None] == np.arange(4)[:, None]
    brightness = np.exp(0.5 * rng.normal(size=(count, 4)))
    cells = np.einsum("bgl,bg,gp->bpl", present, brightness, GLYPHS)
    return to_images(cells + 0.4 * rng.normal(size=cells.shape)), present


def to_cells(images):
    """The 8 × 8 pixels of every cell: (B, 1, 32, 32) → (B, 64, L)."""
    return images.reshape(-1, GRID, 8, GRID, 8).transpose(0, 2, 4, 1, 3).reshape(-1, 64, GRID**2)


def to_images(cells):
    return cells.reshape(-1, 8, 8, GRID, GRID).transpose(0, 3, 1, 4, 2).reshape(-1, 1, 8 * GRID, 8 * GRID)


def encode(weights, images):
    """a, μ and s, each (B, N, h, w); appearances have one dimension here."""
    E, e, _ = weights
    return np.split((E @ to_cells(images) + e).reshape(-1, 3 * PARTS, GRID, GRID), 3, axis=1)


def loss_and_gradients(weights, images, noise):
    """(loss and its terms, derivatives (d_E, d_e, d_T)); both kinds of weights, w and ω, are treated as constants."""
    _, _, T = weights
    maps, options = encode(weights, images), {"temperature": TEMPERATURE, "noise": noise}
    latent = reference.patch_bottleneck(*maps, **options)
    code = latent.code.reshape(-1, PARTS, GRID**2)
    output = SimpleNamespace(
        reconstruction=to_images(T @ code), kl_appearance=latent.kl_appearance, kl_occurrence=latent.kl_occurrence
    )
    loss = reference.elbo(output, images, BETA_APP, BETA_OCC)

    # Backward pass: a linear map y = W x has d_x = Wᵀ d_y and d_W = Σ d_y xᵀ, over images and cells.
    d_reconstruction, *d_divergences = reference.elbo_gradients(1.0, output, images, BETA_APP, BETA_OCC)
    d_cells = to_cells(d_reconstruction)
    d_code = (T.T @ d_cells).reshape(latent.code.shape)
    d_latent = reference.PatchBottleneck(d_code, 0.0, 0.0, *d_divergences)
    d_maps = np.concatenate(reference.patch_bottleneck_gradients(d_latent, *maps, **options), axis=1)
    d_maps = d_maps.reshape(-1, 3 * PARTS, GRID**2)
    d_E = np.einsum("bkl,bpl->kp", d_maps, to_cells(images))
    d_T = np.einsum("bpl,bnl->pn", d_cells, code)
    return loss, (d_E, d_maps.sum((0, 2))[:, None], d_T)


def initial_weights(rng):
    """E, e and T."""
    return [0.01 * rng.normal(size=(3 * PARTS, 64)), np.zeros((3 * PARTS, 1)), 0.01 * rng.normal(size=(64, PARTS))]


def train(weights, seed, rng, steps=STEPS):
    """Adam on new images at each step: yields the loss, then updates the weights in place."""
    moments = [(0.0, 0.0)] * len(weights)
    for step in range(steps):
        images, _ = draw_images(rng, BATCH)
        loss, gradients = loss_and_gradients(weights, images, reference.Noise(seed, step))
        yield loss
        moments = [(0.9 * m + 0.1 * d, 0.99 * v + 0.01 * d**2) for (m, v), d in zip(moments, gradients, strict=True)]
        for w, (m, v) in zip(weights, moments, strict=True):
            w -= RATE * m / (1 - 0.9 ** (step + 1)) / (np.sqrt(v / (1 - 0.99 ** (step + 1))) + 1e-8)


def agreement(weights, images, present):
    """(N, 4): intersection over union of the cells where a part is likely (p > ½) and those that hold a glyph."""
    found = encode(weights, images)[0].reshape(-1, PARTS, GRID**2) > 0
    both = np.einsum("bnl,bgl->ng", found, present, dtype=float)
    return both / (found.sum((0, 2))[:, None] + present.sum((0, 2)) - both)


def show(template):
    """A template in eight lines of text. The signs of T and m are ambiguous: total ink is made positive."""
    ink = template * np.sign(template.sum()) / np.abs(template).max()
    return ["".join(" .:+#"[round(4 * max(pixel, 0.0))] * 2 for pixel in row) for row in ink.reshape(8, 8)]


def main(seed):
    rng = np.random.default_rng(seed)
    weights = initial_weights(rng)
    for step, loss in enumerate(train(weights, seed, rng)):
        if step % 50 == 0 or step == STEPS - 1:
            print(
                f"step {step:3}   loss {loss.total:5.1f}   R {loss.reconstruction:5.1f}"
                f"   KL_app {loss.kl_appearance:4.1f}   KL_occ {loss.kl_occurrence:4.1f}"
            )
    scores = agreement(weights, *draw_images(rng, 256))
    print("\nThe best part for each glyph on new images, its agreement, and its template:\n")
    columns = [
        [f"{name}: part {n}, {scores[n].max():.2f}", "", *show(weights[2][:, n])]
        for name, n in zip(NAMES, scores.argmax(0), strict=True)
    ]
    for line in zip(*columns, strict=True):
        print("    ".join(f"{piece:19}" for piece in line).rstrip())
    print(f"\n{(scores.max(0) > FOUND).sum()} of 4 glyphs found")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
