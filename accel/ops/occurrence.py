"""The two distributions of occurrences on tensors, as reference/occurrence.py states them on arrays.

Logits a, probabilities p and samples y are (B, N, L), or (B, N, …) where nothing is drawn; float32 or float64. An
argument is what a relaxation is applied to: (B, N, L), and for categorical occurrences (B, N + 1, L), none being last.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .noise import Noise, occurrence_noise


class Bernoulli:
    """Each part by itself: p = σ(a)."""

    @staticmethod
    def logits(probability: Tensor) -> Tensor:
        """The a of which p is the probability; infinite where p is 0 or 1."""
        return torch.log(probability / (1 - probability))

    @staticmethod
    def log_odds(logits: Tensor) -> Tensor:
        """log p − log(1 − p), which ranks occurrences also where p rounds to 0 or 1."""
        return logits

    @staticmethod
    def probability(logits: Tensor) -> Tensor:
        return torch.sigmoid(logits)

    @staticmethod
    def log_probability(logits: Tensor) -> Tensor:
        return F.logsigmoid(logits)

    @staticmethod
    def argument(logits: Tensor, noise: Noise) -> Tensor:
        """a + log u − log(1 − u)."""
        uniform = occurrence_noise(noise, *logits.shape, device=logits.device, dtype=logits.dtype)
        return logits + torch.log(uniform) - torch.log1p(-uniform)

    @staticmethod
    def relax(argument: Tensor) -> Tensor:
        """The binary Concrete sample of an argument that was divided by τ."""
        return torch.sigmoid(argument)

    @staticmethod
    def decide(argument: Tensor) -> Tensor:
        """A Bernoulli(p) sample, 0 or 1."""
        return (argument > 0).to(argument.dtype)

    @staticmethod
    def divergence(logits: Tensor, prior: float) -> Tensor:
        """KL_occ (B,) in nats."""
        log_p, log_not_p = F.logsigmoid(logits), F.logsigmoid(-logits)
        divergence = torch.sigmoid(logits) * (log_p - math.log(prior))
        divergence = divergence + torch.sigmoid(-logits) * (log_not_p - math.log1p(-prior))
        return divergence.sum((1, 2))


class Categorical:
    """One part a cell at most: p = softmax(a, 0), the 0 being the logit of none."""

    @staticmethod
    def logits(probability: Tensor) -> Tensor:
        """The a of which p is the probability, none having what the parts leave; infinite where p is 0."""
        none = 1 - probability.sum(1, keepdim=True)
        return torch.log(probability / none.clamp_min(torch.finfo(none.dtype).tiny))

    @staticmethod
    def log_odds(logits: Tensor) -> Tensor:
        """log p − log(1 − p); p = 1 has none, and gets a large one."""
        log_p = Categorical.log_probability(logits)
        log_p = log_p.clamp(max=-torch.finfo(log_p.dtype).tiny)
        return log_p - torch.log(-torch.expm1(log_p))

    @staticmethod
    def probability(logits: Tensor) -> Tensor:
        return Categorical.log_probability(logits).exp()

    @staticmethod
    def log_probability(logits: Tensor) -> Tensor:
        return _log_categories(logits)[:, :-1]

    @staticmethod
    def argument(logits: Tensor, noise: Noise) -> Tensor:
        """(log p, log p of none) + g with g = −log(−log u), which differ from (a, 0) + g by one number a cell."""
        log_p = _log_categories(logits)
        uniform = occurrence_noise(noise, *log_p.shape, device=logits.device, dtype=logits.dtype)
        return log_p - torch.log(-torch.log(uniform))

    @staticmethod
    def relax(argument: Tensor) -> Tensor:
        """The Gumbel-softmax sample of an argument that was divided by τ, without none."""
        return argument.softmax(1)[:, :-1]

    @staticmethod
    def decide(argument: Tensor) -> Tensor:
        """The one-hot of the largest, without none."""
        return torch.zeros_like(argument).scatter(1, argument.argmax(1, keepdim=True), 1.0)[:, :-1]

    @staticmethod
    def divergence(logits: Tensor, prior: float) -> Tensor:
        """KL_occ (B,) in nats."""
        log_p = _log_categories(logits)
        p, parts = log_p.exp(), logits.shape[1]
        nats = (p[:, :-1] * (log_p[:, :-1] - math.log(prior))).sum((1, 2))
        return nats + (p[:, -1] * (log_p[:, -1] - math.log1p(-parts * prior))).sum(1)


DISTRIBUTIONS = {"bernoulli": Bernoulli, "categorical": Categorical}


def _log_categories(logits):
    """(B, N, …) → (B, N + 1, …): log p of each part and of none."""
    return torch.cat([logits, torch.zeros_like(logits[:, :1])], dim=1).log_softmax(1)


def occurrence_weights(distribution, logits: Tensor, detach: bool) -> Tensor:
    """w (B, N, L), the share of each cell in a part's occurrence, formed in log space; sums to one over cells."""
    return distribution.log_probability(logits.detach() if detach else logits).softmax(-1)


def sample_occurrence(
    distribution, logits: Tensor, temperature: float | Tensor, noise: Noise | None, straight_through: bool
) -> Tensor:
    """The y (B, N, L) to place: the relaxed sample or its decision; without noise p."""
    if noise is None:
        return distribution.probability(logits)
    argument = distribution.argument(logits, noise)
    y = distribution.relax(argument / temperature)
    return distribution.decide(argument) + (y - y.detach()) if straight_through else y
