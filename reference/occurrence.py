"""Two distributions of the occurrences in a cell, each with gradients derived by hand.

Bernoulli (as in the paper): parts occur independently, p = σ(a). Categorical: a cell holds at most one part, and "none"
has the logit 0, p = softmax(a₁, …, a_N, 0). For N = 1 the two are the same.

Logits, probabilities and samples of parts are (B, N, L). The argument of a relaxation is (B, N, L) for Bernoulli
occurrences and (B, N + 1, L) for categorical ones, with "none" as the last row. The rest of the model (pooling, placing
and the loss) uses only p and y, and is the same for both distributions.

A logit may be infinite; p is then exactly 0 or 1. Where the limit depends on the relative size of several infinite
logits, they are taken as equal: a part with p = 0 in every cell has equal weights, and categorical parts with logit ∞
share their cell. No finite step changes an infinite logit, so its gradient is 0.
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
    """Independent parts: p = σ(a), prior Bern(π) for each part and cell."""

    @staticmethod
    def default_prior(parts):
        """π = 1/N, so that one part per cell is expected; ½ for a single part, since 1 has no logit."""
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
        """a; or, with logistic noise, a + log u − log(1 − u), which is positive with probability p."""
        if noise is None:
            return logits
        u = occurrence_noise(noise, *logits.shape)
        return logits + np.log(u) - np.log1p(-u)

    @staticmethod
    def relax(argument):
        """y = σ(x): p for x = a, and binary Concrete for x = (a + logistic noise) / τ (Maddison et al. 2017)."""
        return sigmoid(argument)

    @staticmethod
    def relax_gradients(d_y, argument):
        """d_x = σ(x) σ(−x) d_y."""
        return sigmoid(argument) * sigmoid(-argument) * d_y

    @staticmethod
    def decide(argument):
        """1[x > 0], a Bernoulli(p) sample: the limit of y as τ → 0."""
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
    """At most one part per cell: p = softmax(a, 0), prior π for each part and 1 − N·π for "none"."""

    @staticmethod
    def default_prior(parts):
        """π = 1/(N + 1), which is also the prior of "none"."""
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
        """(a, 0); or, with Gumbel noise g = −log(−log u) for each part and "none", (a, 0) + g.

        The largest is that of part n with probability p_n. Only differences within a cell matter, so all values are
        relative to the cell's largest logit: adding g to a logit of 10⁴ would lose four digits.
        """
        logits = with_none(logits)
        logits = logits - logits.max(1, keepdims=True)
        if noise is None:
            return logits
        return logits - np.log(-np.log(occurrence_noise(noise, *logits.shape)))

    @staticmethod
    def relax(argument):
        """y = softmax(x) over the N + 1 categories, without "none".

        For x = (a, 0) this is p, for x = (a + g) / τ the Gumbel-softmax (Jang et al. 2017, Maddison et al. 2017).
        """
        relative = np.exp(argument - argument.max(1, keepdims=True))
        return (relative / relative.sum(1, keepdims=True))[:, :-1]

    @staticmethod
    def relax_gradients(d_y, argument):
        """d_x_n = y_n (d_y_n − Σ_k y_k d_y_k), without "none", whose logit is constant and whose y is not used."""
        y = Categorical.relax(argument)
        return y * (d_y - (y * d_y).sum(1, keepdims=True))

    @staticmethod
    def decide(argument):
        """One-hot of the largest, without "none": the limit of y as τ → 0. Ties go to the first."""
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


# Functions for both distributions


def sample_occurrence(distribution, logits, temperature, noise, straight_through):
    """Returns (y, x, dx/da): the relaxed sample y = relax(x) with x = argument(a) / τ, or the discrete sample.

    Without noise, y is p, and τ and straight_through have no effect. dx/da is a number.
    """
    argument = distribution.argument(logits, noise)
    if noise is None:
        return distribution.relax(argument), argument, 1.0
    relaxed = argument / temperature
    y = distribution.decide(argument) if straight_through else distribution.relax(relaxed)
    return y, relaxed, 1.0 / temperature


def occurrence_log_weights(distribution, logits):
    """log w_l = log p_l − log Σ_j exp(log p_j), with w_l = p_l / Σ_j p_j of each part. (B, N, L) → (B, N, L).

    If every p rounds to zero, the logarithms still differ. So a part that occurs nowhere has an exact average as well,
    and the denominator needs no ε.
    """
    log_probability = distribution.log_probability(logits)
    relative = log_probability - log_probability.max(-1, keepdims=True)
    return relative - np.log(np.exp(relative).sum(-1, keepdims=True))


def occurrence_log_weights_gradients(distribution, d_log_weights, logits):
    """d_log p_l = d_log w_l − w_l Σ_j d_log w_j, the gradient of the log-softmax, propagated to the logits (B, N, L).

    A function of w has d_log w_l = w_l d_w_l.
    """
    weights = np.exp(occurrence_log_weights(distribution, logits))
    centred = d_log_weights - weights * d_log_weights.sum(-1, keepdims=True)
    return distribution.log_probability_gradients(centred, logits)
