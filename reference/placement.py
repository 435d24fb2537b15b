"""Places of parts within their cells: an occurrence lies at one of k × k places, each with its own logit.

A cell is wider than a pixel, but a part may be shifted by single pixels. Without places, a part at the left of its cell
and one at the right are different pictures for the decoder, and the model may use two parts for one type. With places,
the decoder knows the place and draws the same part there.

Logits are (B, N, L, K) for K = k² places of each part and cell, or (B, N, h·k, w·k) as a map of the finer grid. By the
chain rule q(n, o) = q(n) q(o | n), a joint distribution of parts and places consists of a distribution of parts, with
logits A = log Σ_o exp(a_o), and one of places given the part, q(o | n) = exp(a_o − A). So the bottleneck takes A as its
logits and is unchanged; places add:

    ẑ[n, l, o] = ẑ[n, l] · s[n, l, o]
    KL_place = Σ_{n,l} p[n, l] KL(q(· | n, l) ‖ 1/K)

A logit may be infinite, as in occurrence.py; several that are infinite and have the same sign are taken as equal.

KL_occ + KL_place is the divergence of the joint distribution of part and place from the prior π/K.
"""

import numpy as np

from .divergence import bounded
from .noise import place_noise


def places_of_cells(maps, k):
    """Rearranges a map of the finer grid (B, C, h·k, w·k) by cells and places: (B, C, h·w, k²), both row by row."""
    batch, channels, rows, columns = maps.shape
    cells = maps.reshape(batch, channels, rows // k, k, columns // k, k).transpose(0, 1, 2, 4, 3, 5)
    return cells.reshape(batch, channels, -1, k * k)


def map_of_places(cells, k, grid):
    """(B, C, h·w, k²) → (B, C, h·k, w·k): the inverse and vector-Jacobian product of `places_of_cells`; grid (h, w)."""
    batch, channels = cells.shape[:2]
    maps = cells.reshape(batch, channels, *grid, k, k).transpose(0, 1, 2, 4, 3, 5)
    return maps.reshape(batch, channels, grid[0] * k, grid[1] * k)


def split_places(logits):
    """(A, log q): A = log Σ_o exp(a_o), (B, N, L), and log q_o = a_o − A, (B, N, L, K)."""
    logits = bounded(logits)
    peak = logits.max(-1, keepdims=True)
    relative = logits - peak
    total = np.log(np.exp(relative).sum(-1, keepdims=True))
    return (peak + total)[..., 0], relative - total


def split_places_gradients(d_total, d_log_q, logits):
    """d_a_o = d_log q_o + q_o (d_A − Σ_j d_log q_j), (B, N, L, K); 0 for an infinite logit."""
    q = np.exp(split_places(logits)[1])
    return np.isfinite(logits) * (d_log_q + q * (d_total - d_log_q.sum(-1))[..., None])


def sample_place(log_q, temperature=1.0, noise=None, straight_through=False):
    """s (B, N, L, K): softmax((log q + g) / τ) with Gumbel noise g, or the discrete sample; q without noise."""
    if noise is None:
        return np.exp(log_q)
    argument = log_q - np.log(-np.log(place_noise(noise, *log_q.shape)))
    if straight_through:
        return np.eye(log_q.shape[-1])[argument.argmax(-1)]
    relaxed = np.exp((argument - argument.max(-1, keepdims=True)) / temperature)
    return relaxed / relaxed.sum(-1, keepdims=True)


def sample_place_gradients(d_s, log_q, temperature=1.0, noise=None):
    """d_log q_o = s_o (d_s_o − Σ_j s_j d_s_j) / τ, (B, N, L, K), for both kinds of samples; q d_s without noise."""
    s = sample_place(log_q, temperature, noise)
    if noise is None:
        return s * d_s
    return s * (d_s - (s * d_s).sum(-1, keepdims=True)) / temperature


def place_divergence(probability, log_q):
    """KL_place = Σ_{n,l} p Σ_o q_o (log q_o + log K), (B,); p (B, N, L) is the probability that the part occurs."""
    return (probability * _divergences(log_q)).sum((1, 2))


def place_divergence_gradients(d_divergence, probability, log_q):
    """(d_p, d_log q):  d_p = KL of the places in the cell,  d_log q_o = p q_o (log q_o + log K + 1); d (B,)."""
    incoming = d_divergence[:, None, None]
    inner = np.exp(log_q) * (log_q + np.log(log_q.shape[-1]) + 1.0)
    return incoming * _divergences(log_q), (incoming * probability)[..., None] * inner


def _divergences(log_q):
    return (np.exp(log_q) * (log_q + np.log(log_q.shape[-1]))).sum(-1)


def place(code, s):
    """ẑ[n, d, l, o] = ẑ[n, d, l] s[n, l, o]: (B, N, D, L) and (B, N, L, K) → (B, N, D, L, K)."""
    return code[..., None] * s[:, :, None]


def place_gradients(d_placed, code, s):
    """(d_ẑ, d_s):  d_ẑ = Σ_o d s_o,  d_s_o = Σ_d d ẑ_d, of d (B, N, D, L, K)."""
    return (d_placed * s[:, :, None]).sum(-1), (d_placed * code[..., None]).sum(2)
