"""Which pattern a piece of an image shows, and the loss by which a posterior learns it.

Let pieces of images at random places have mean μ (M,) and covariance Σ (M, M). A piece x that shows a template t (M,)
with contrast a ≥ 0 in such surroundings is N(μ + a t, Σ), and one that shows nothing is N(μ, Σ). The logarithm of their
ratio is

    a tᵀΣ⁻¹(x − μ) − ½ a² tᵀΣ⁻¹t,

which is largest for a = max(0, tᵀΣ⁻¹(x − μ)) / tᵀΣ⁻¹t. The evidence for the template is the ratio with this contrast:

    e(x, t) = ½ max(0, tᵀΣ⁻¹(x − μ))² / tᵀΣ⁻¹t.

It does not depend on the length of t. Σ⁻¹ takes away what neighbouring pixels have in common in all images, as in
detectors by linear discriminant analysis (Hariharan, Malik and Ramanan, ECCV 2012): without it, smooth surroundings
count more than the outline of a small object.
"""

import numpy as np


def evidence(pieces: np.ndarray, templates: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """e(x, t) in nats for pieces (m, M) and templates (K, M): (m, K). covariance must be positive definite."""
    filters = np.linalg.solve(covariance, templates.T)  # Σ⁻¹t, (M, K)
    length = np.einsum("km,mk->k", templates, filters)
    return 0.5 * np.maximum(0, (pieces - mean) @ filters) ** 2 / length


def exchangeability(evidence: np.ndarray, cluster: np.ndarray) -> np.ndarray:
    """How well the templates of two clusters explain each other's pieces, from 0 to 1, symmetric: (K, K).

    evidence: (m, K), of each piece for each template. cluster: (m,), which template a piece belongs to; each has one.
    For clusters i and j, the mean evidence of the pieces of i for j, divided by that for i itself; or the same with i
    and j exchanged, whichever is smaller.
    """
    mean = np.stack([evidence[cluster == k].mean(0) for k in range(evidence.shape[1])])
    ratio = mean / np.diagonal(mean)[:, None]
    return np.minimum(ratio, ratio.T)


def identity_cross_entropy(occurrence: np.ndarray, identities: np.ndarray) -> float:
    """−Σ log(pᵢ / Σⱼ pⱼ) over all cells whose part i is known, divided by the number of images, in nats.

    occurrence: p in (0, 1], (B, N, h, w). identities: i in [0, N), or −1 if none is known, (B, h, w). It says which
    part occurs if one does, and leaves to the evidence lower bound whether one does.
    """
    share = occurrence / occurrence.sum(axis=1, keepdims=True)
    chosen = np.take_along_axis(share, np.maximum(identities, 0)[:, None], axis=1)[:, 0]
    return float(-np.log(chosen[identities >= 0]).sum() / len(occurrence))


def identity_cross_entropy_gradients(d_output: float, occurrence: np.ndarray, identities: np.ndarray) -> np.ndarray:
    """The gradient for `occurrence`, (B, N, h, w): (1 / Σⱼ pⱼ − [k = i] / pᵢ) / B in cells whose part i is known."""
    known = (identities >= 0)[:, None]
    is_chosen = np.arange(occurrence.shape[1])[:, None, None] == identities[:, None]
    gradient = 1 / occurrence.sum(axis=1, keepdims=True) - is_chosen / occurrence
    return d_output * known * gradient / len(occurrence)
