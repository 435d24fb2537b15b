"""The two distributions of occurrences on tensors, as reference/occurrence.py states them on arrays.

Logits a, probabilities p and samples y are (B, N, L), or (B, N, …) where nothing is drawn; float32 or float64. All else
is read from logits that `normalise` has prepared, once: for Bernoulli parts the logits themselves, for categorical ones
log p of the N parts and, last, of none, (B, N + 1, …). An argument, which is what a relaxation is applied to, has the
shape of normalised logits. Infinite logits are those of the specification.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .noise import Noise, occurrence_noise

LARGEST = 1e38  # what an infinite logit counts as: a float32, as are differences of two


class Bernoulli:
    """Each part by itself: p = σ(a)."""

    @staticmethod
    def logits(probability: Tensor) -> Tensor:
        """The a of which p is the probability; infinite where p is 0 or 1."""
        return torch.log(probability / (1 - probability))

    @staticmethod
    def normalise(logits: Tensor) -> Tensor:
        return logits.clamp(-LARGEST, LARGEST)

    @staticmethod
    def log_odds(normalised: Tensor) -> Tensor:
        """log p − log(1 − p), which ranks occurrences also where p rounds to 0 or 1."""
        return normalised

    @staticmethod
    def probability(normalised: Tensor) -> Tensor:
        return torch.sigmoid(normalised)

    @staticmethod
    def log_probability(normalised: Tensor) -> Tensor:
        return F.logsigmoid(normalised)

    @staticmethod
    def argument(normalised: Tensor, noise: Noise) -> Tensor:
        """a + log u − log(1 − u)."""
        uniform = _uniform(normalised, noise)
        return normalised + torch.log(uniform) - torch.log1p(-uniform)

    @staticmethod
    def relax(argument: Tensor) -> Tensor:
        """The binary Concrete sample of an argument that was divided by τ."""
        return torch.sigmoid(argument)

    @staticmethod
    def decide(argument: Tensor) -> Tensor:
        """A Bernoulli(p) sample, 0 or 1."""
        return (argument > 0).to(argument.dtype)

    @staticmethod
    def divergence(normalised: Tensor, prior: float) -> Tensor:
        """KL_occ (B,) in nats."""
        log_p, log_not_p = F.logsigmoid(normalised), F.logsigmoid(-normalised)
        divergence = torch.sigmoid(normalised) * (log_p - math.log(prior))
        divergence = divergence + torch.sigmoid(-normalised) * (log_not_p - math.log1p(-prior))
        return divergence.sum((1, 2))


class Categorical:
    """One part a cell at most: p = softmax(a, 0), the 0 being the logit of none."""

    @staticmethod
    def logits(probability: Tensor) -> Tensor:
        """The a of which p is the probability, none having what the parts leave; infinite where p is 0."""
        none = 1 - probability.sum(1, keepdim=True)
        return torch.log(probability / none.clamp_min(torch.finfo(none.dtype).tiny))

    @staticmethod
    def normalise(logits: Tensor) -> Tensor:
        logits = logits.clamp(-LARGEST, LARGEST)
        return torch.cat([logits, torch.zeros_like(logits[:, :1])], dim=1).log_softmax(1)

    @staticmethod
    def log_odds(normalised: Tensor) -> Tensor:
        """log p − log(1 − p), where 1 − p of a cell's likeliest part is the sum of all others', none's among them."""
        log_p = normalised[:, :-1]
        likeliest = log_p.argmax(1, keepdim=True)
        others = normalised.scatter(1, likeliest, -torch.inf).logsumexp(1, keepdim=True)
        # The others have p ≤ ½, where 1 − p keeps its digits.
        log_absent = torch.log1p(-log_p.clamp(max=-math.log(2)).exp())
        return log_p - log_absent.scatter(1, likeliest, others)

    @staticmethod
    def probability(normalised: Tensor) -> Tensor:
        return normalised[:, :-1].exp()

    @staticmethod
    def log_probability(normalised: Tensor) -> Tensor:
        return normalised[:, :-1]

    @staticmethod
    def argument(normalised: Tensor, noise: Noise) -> Tensor:
        """log p + g with g = −log(−log u), which differs from (a, 0) + g by one number a cell."""
        return normalised - torch.log(-torch.log(_uniform(normalised, noise)))

    @staticmethod
    def relax(argument: Tensor) -> Tensor:
        """The Gumbel-softmax sample of an argument that was divided by τ, without none."""
        return argument.softmax(1)[:, :-1]

    @staticmethod
    def decide(argument: Tensor) -> Tensor:
        """The one-hot of the largest, without none."""
        return torch.zeros_like(argument).scatter(1, argument.argmax(1, keepdim=True), 1.0)[:, :-1]

    @staticmethod
    def divergence(normalised: Tensor, prior: float) -> Tensor:
        """KL_occ (B,) in nats."""
        p, parts = normalised.exp(), normalised.shape[1] - 1
        nats = (p[:, :-1] * (normalised[:, :-1] - math.log(prior))).sum((1, 2))
        return nats + (p[:, -1] * (normalised[:, -1] - math.log1p(-parts * prior))).sum(1)


Distribution = type[Bernoulli] | type[Categorical]
DISTRIBUTIONS: dict[str, Distribution] = {"bernoulli": Bernoulli, "categorical": Categorical}


def _uniform(normalised: Tensor, noise: Noise) -> Tensor:
    return occurrence_noise(noise, *normalised.shape, device=normalised.device, dtype=normalised.dtype)


def occurrence_weights(distribution: Distribution, normalised: Tensor) -> Tensor:
    """w (B, N, L), the share of each cell in a part's occurrence, formed in log space; sums to one over cells."""
    return distribution.log_probability(normalised).softmax(-1)


def sample_occurrence(
    distribution: Distribution,
    normalised: Tensor,
    temperature: float | Tensor,
    noise: Noise | None,
    straight_through: bool,
) -> Tensor:
    """The y (B, N, L) to place: the relaxed sample or its decision; without noise p."""
    if noise is None:
        return distribution.probability(normalised)
    argument = distribution.argument(normalised, noise)
    y = distribution.relax(argument / temperature)
    return distribution.decide(argument) + (y - y.detach()) if straight_through else y
