"""Where parts occur: two distributions of the parts of a cell, side by side, each with its gradients by hand.

Bernoulli (the paper's): each part occurs by itself, p = σ(a). Categorical: a cell holds one part at most, and the
logits of its N parts stand beside a logit 0 for none, p = softmax(a₁, …, a_N, 0). With N = 1 the two are the same.

Logits, probabilities and samples of parts are (B, N, L); an argument is what a relaxation is applied to, (B, N, L) for
Bernoulli and (B, N + 1, L) for categorical occurrences, whose last row is none. Whatever follows a distribution, which
is pooling, placing and the loss, reads its p and y and does not know which one it was.

A logit may be infinite: p is then exactly 0 or 1. Where the limit depends on how several get there, they are equals: a
part of which p is 0 in every cell weighs all cells alike, and categorical parts of logit ∞ share their cell. No finite
step changes an infinite logit, so its gradient is 0.
"""

import numpy as np

from .divergence import (
    bernoulli_divergence,
    bernoulli_divergence_gradients,
    bounded,
    categorical_divergence,
    categorical_divergence_gradients,
    category_log_probabilities,
    log_sigmoid,
    sigmoid,
    with_none,
)
from .noise import occurrence_noise


class Bernoulli:
    """Each part by itself: p = σ(a), prior Bern(π) for each part and cell."""

    @staticmethod
    def default_prior(parts):
        """π = 1/N: one part a cell is expected. A single part would get 1, which has no logit, so ½."""
        return 1.0 / max(parts, 2)

    @staticmethod
    def log_probability(logits):
        """log p = log σ(a)."""
        return log_sigmoid(bounded(logits))

    @staticmethod
    def log_probability_gradients(d_log_p, logits):
        """d_a = σ(−a) d_log p."""
        return sigmoid(-logits) * d_log_p

    @staticmethod
    def argument(logits, noise=None):
        """a, or perturbed by a logistic draw a + log u − log(1 − u), which is positive with probability exactly p."""
        if noise is None:
            return logits
        u = occurrence_noise(noise, *logits.shape)
        return logits + np.log(u) - np.log1p(-u)

    @staticmethod
    def relax(argument):
        """y = σ(x). With x = a it is p; with x = (a + logistic draw) / τ the binary Concrete (Maddison et al. 2017)."""
        return sigmoid(argument)

    @staticmethod
    def relax_gradients(d_y, argument):
        """d_x = σ(x) σ(−x) d_y."""
        return sigmoid(argument) * sigmoid(-argument) * d_y

    @staticmethod
    def decide(argument):
        """1[x > 0], a Bernoulli(p) sample: what y becomes as τ → 0."""
        return (argument > 0).astype(np.float64)

    @staticmethod
    def divergence(logits, prior):
        """KL_occ = Σ_{n,l} KL(Bern(p) ‖ Bern(π)), (B,)."""
        return bernoulli_divergence(logits, prior).sum((1, 2))

    @staticmethod
    def divergence_gradients(d_divergence, logits, prior):
        """d_a of KL_occ, from d_divergence (B,)."""
        return bernoulli_divergence_gradients(d_divergence[:, None, None], logits, prior)


class Categorical:
    """One part a cell at most: p = softmax(a, 0), prior π for each part and 1 − N·π for none."""

    @staticmethod
    def default_prior(parts):
        """π = 1/(N + 1): each part and none alike."""
        return 1.0 / (parts + 1)

    @staticmethod
    def log_probability(logits):
        """log p_n = a_n − log(1 + Σ_k exp(a_k))."""
        return category_log_probabilities(logits)[:, :-1]

    @staticmethod
    def log_probability_gradients(d_log_p, logits):
        """d_a_n = d_log p_n − p_n Σ_k d_log p_k."""
        p = np.exp(Categorical.log_probability(logits))
        return d_log_p - p * d_log_p.sum(1, keepdims=True)

    @staticmethod
    def argument(logits, noise=None):
        """(a, 0), or perturbed by Gumbel draws, one for each part and none: a + g with g = −log(−log u).

        The largest of them is part n's with probability exactly p_n. Only differences within a cell count, so all are
        given relative to the cell's largest logit: g added to a logit of 10⁴ would lose four digits.
        """
        logits = with_none(logits)
        logits = logits - logits.max(1, keepdims=True)
        if noise is None:
            return logits
        return logits - np.log(-np.log(occurrence_noise(noise, *logits.shape)))

    @staticmethod
    def relax(argument):
        """y = softmax(x) over the N + 1, without none's.

        With x = (a, 0) it is p; with x = (a + g) / τ the Gumbel-softmax (Jang et al. 2017, Maddison et al. 2017).
        """
        relative = np.exp(argument - argument.max(1, keepdims=True))
        return (relative / relative.sum(1, keepdims=True))[:, :-1]

    @staticmethod
    def relax_gradients(d_y, argument):
        """d_x_n = y_n (d_y_n − Σ_k y_k d_y_k), without none's, whose logit is a constant and whose y is not placed."""
        y = Categorical.relax(argument)
        return y * (d_y - (y * d_y).sum(1, keepdims=True))

    @staticmethod
    def decide(argument):
        """The one-hot of the largest, without none's: what y becomes as τ → 0. Of equals the first is taken."""
        return np.eye(argument.shape[1])[argument.argmax(1)].transpose(0, 2, 1)[:, :-1]

    @staticmethod
    def divergence(logits, prior):
        """KL_occ = Σ_l KL(p ‖ (π, …, π, 1 − N·π)), (B,)."""
        return categorical_divergence(logits, prior).sum(1)

    @staticmethod
    def divergence_gradients(d_divergence, logits, prior):
        """d_a of KL_occ, from d_divergence (B,)."""
        d_cells = np.broadcast_to(d_divergence[:, None], (logits.shape[0], logits.shape[2]))
        return categorical_divergence_gradients(d_cells, logits, prior)


DISTRIBUTIONS = {"bernoulli": Bernoulli, "categorical": Categorical}


# What is the same for both


def sample_occurrence(distribution, logits, temperature, noise, straight_through):
    """(y to place, x, dx/da): the relaxed sample y = relax(x) with x = argument(a) / τ, or its decision.

    Without noise y is p, and τ and straight_through have no meaning. dx/da is a number.
    """
    argument = distribution.argument(logits, noise)
    if noise is None:
        return distribution.relax(argument), argument, 1.0
    relaxed = argument / temperature
    y = distribution.decide(argument) if straight_through else distribution.relax(relaxed)
    return y, relaxed, 1.0 / temperature


def occurrence_weights(distribution, logits):
    """w_l = p_l / Σ_j p_j of each part, formed in log space. (B, N, L) → (B, N, L).

        log w_l = log p_l − log Σ_j exp(log p_j)

    Where every p rounds to zero the logarithms still differ, so a part that is nowhere has an exact average
    too, and no ε is needed in the denominator.
    """
    log_probability = distribution.log_probability(logits)
    relative = np.exp(log_probability - log_probability.max(-1, keepdims=True))
    return relative / relative.sum(-1, keepdims=True)


def occurrence_weights_gradients(distribution, d_weights, logits):
    """d_log p_l = w_l (d_w_l − Σ_j w_j d_w_j), the softmax over cells, and from there to the logits."""
    weights = occurrence_weights(distribution, logits)
    centred = d_weights - (weights * d_weights).sum(-1, keepdims=True)
    return distribution.log_probability_gradients(weights * centred, logits)
