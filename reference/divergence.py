"""The two Kullback-Leibler divergences of the bottleneck (paper, equations 9 and 11), element by element.

Equation 8 of the paper calls N(0, I) and Bern(π) the posteriors; they are the priors.
"""

import numpy as np

LARGEST = 1e38  # float32 holds it, and twice as much


def bounded(logits):
    """±inf becomes ±10³⁸, of which p is 0 or 1 as well; but 0 · log 0 is then 0 and ∞ − ∞ is 0, as for equal logits."""
    return np.clip(logits, -LARGEST, LARGEST)


def log_sigmoid(x):
    """log σ(x) = min(x, 0) − log(1 + exp(−|x|)): never overflows, never rounds to log 0."""
    return np.minimum(x, 0.0) - np.log1p(np.exp(-np.abs(x)))


def sigmoid(x):
    """σ(x) = exp(log σ(x))."""
    return np.exp(log_sigmoid(x))


def bernoulli_divergence(logits, prior):
    """KL(Bern(p) ‖ Bern(π)) = p (log p − log π) + (1 − p)(log(1 − p) − log(1 − π)),  p = σ(a).

    Both logarithms are computed from the logit a: log p = log σ(a), log(1 − p) = log σ(−a). A probability that is
    rounded to 0 or 1 would lose them, and a clamp would stop the gradient.
    logits: a, such as (B, N, L). prior: π, 0 < π < 1. Returns the divergence of each element in nats, in that shape.
    """
    logits = bounded(logits)
    return sigmoid(logits) * (log_sigmoid(logits) - np.log(prior)) + sigmoid(-logits) * (
        log_sigmoid(-logits) - np.log1p(-prior)
    )


def bernoulli_divergence_gradients(d_divergence, logits, prior):
    """∂KL/∂a = p (1 − p) (a − logit π).

    ∂KL/∂p = log p − log(1 − p) − log π + log(1 − π) = a − logit π, and ∂p/∂a = p (1 − p).
    d_divergence, logits and the result have the same shape, such as (B, N, L).
    """
    logits, prior_logit = bounded(logits), np.log(prior) - np.log1p(-prior)
    return d_divergence * sigmoid(logits) * sigmoid(-logits) * (logits - prior_logit)


def gaussian_divergence(mean, log_variance, prior_mean=0.0):
    """KL(N(m, v) ‖ N(c, 1)) = ½ ((m − c)² + v − 1 − log v), from m and log v; the paper's prior has c = 0.

    The decoder sees a part only through its code z · y. If c = 0, a part whose appearance is not yet learned has z ≈ 0,
    so the decoder cannot see where it occurs. It becomes visible only with an appearance m ≠ 0; since m and −m have the
    same divergence, it may represent two different patterns. If c ≠ 0, a part is visible at no cost in divergence, and
    only appearances that differ from c have a cost.
    mean, log_variance: m and log v of the same shape, such as (B, N, D). Returns the divergence of each element in
    nats, in that shape.
    """
    return 0.5 * ((mean - prior_mean) ** 2 + np.exp(log_variance) - 1.0 - log_variance)


def gaussian_divergence_gradients(d_divergence, mean, log_variance, prior_mean=0.0):
    """∂KL/∂m = m − c,  ∂KL/∂log v = ½ (v − 1). Returns (d_mean, d_log_variance) of their shape, such as (B, N, D)."""
    return d_divergence * (mean - prior_mean), d_divergence * 0.5 * (np.exp(log_variance) - 1.0)


def with_none(logits):
    """(B, N, L) → (B, N + 1, L): appends the logit 0 of "none", a cell without a part."""
    return np.concatenate([bounded(logits), np.zeros_like(logits[:, :1])], axis=1)


def category_log_probabilities(logits):
    """log p of each part and, last, of "none": (B, N, L) → (B, N + 1, L).

        p_n = exp(a_n) / (1 + Σ_j exp(a_j)),   p_none = 1 / (1 + Σ_j exp(a_j))

    A cell holds at most one part; "none" is a category with logit 0, so for a single part p = σ(a).
    """
    logits = with_none(logits)
    relative = logits - logits.max(1, keepdims=True)
    return relative - np.log(np.exp(relative).sum(1, keepdims=True))


def categorical_divergence(logits, prior):
    """KL(p ‖ (π, …, π, 1 − N π)) = Σ_n p_n (log p_n − log π) + p_none (log p_none − log(1 − N π)), (B, L) nats.

    logits: a (B, N, L). prior: π, 0 < π < 1/N.
    """
    log_p = category_log_probabilities(logits)
    return (np.exp(log_p) * (log_p - _log_category_prior(logits, prior))).sum(1)


def categorical_divergence_gradients(d_divergence, logits, prior):
    """∂KL/∂a_n = p_n (r_n − Σ_k p_k r_k)  with  r = log p − log prior: as for softmax, with Σ p ∂ log p = 0.

    d_divergence: (B, L). logits and the result: (B, N, L).
    """
    log_p = category_log_probabilities(logits)
    p, ratio = np.exp(log_p), log_p - _log_category_prior(logits, prior)
    return d_divergence[:, None] * (p * (ratio - (p * ratio).sum(1, keepdims=True)))[:, :-1]


def identity_information(p):
    """I = Σ_{b,n,l} p log((p / P) / q), the information of occurrences about which part occurs, a number in nats.

    p: probabilities of categorical parts (B, N, L). P_bl = Σ_n p is the probability that any part occurs, and
    q_n = Σ_{b,l} p / Σ_{b,l} P the average, over the batch, of which part it is. By the chain rule,

        Σ_{b,l} KL_occ = Σ KL(Bern(P) ‖ Bern(N π)) + Σ P KL(p / P ‖ 1/N)
        Σ P KL(p / P ‖ 1/N) = I + Σ P · KL(q ‖ 1/N)

    The last term is least if all parts are used equally often, and I if the image does not decide which part occurs.
    With a weight β, telling apart N parts that are used equally often costs β log N nats per occurrence, and is worth
    it only if it lowers the reconstruction error by more. A weight of its own for I (`elbo`), as β-TCVAE has for the
    information of a code (Chen et al. 2018), lets similar parts be told apart.
    """
    return (p * _log_identity_ratio(p)).sum()


def identity_information_gradients(d_information, p):
    """∂I/∂p = log((p / P) / q), since the derivatives of P and q cancel.

    d_information: a number. p and the result: (B, N, L).
    """
    return d_information * _log_identity_ratio(p)


def _log_identity_ratio(p):
    """log((p / P) / q), (B, N, L); probabilities below the smallest float32 count as that."""
    anyone, often = p.sum(1, keepdims=True), p.sum((0, 2), keepdims=True)
    tiny = np.finfo(np.float32).tiny
    log_p, log_any, log_often = (np.log(np.maximum(value, tiny)) for value in (p, anyone, often))
    return log_p - log_any - log_often + np.log(max(often.sum(), tiny))


def _log_category_prior(logits, prior):
    """(1, N + 1, 1)."""
    parts = logits.shape[1]
    return np.log(np.array([prior] * parts + [1.0 - parts * prior]))[None, :, None]
