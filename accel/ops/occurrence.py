"""The two distributions of occurrences on tensors; reference/occurrence.py specifies them.

Logits a, probabilities p and samples y are (B, N, L), or (B, N, …) without sampling; float32 or float64. Other methods
take the result of `normalise`: for Bernoulli occurrences the logits themselves, for categorical ones log p of the N
parts and, last, of "none", (B, N + 1, …). The argument of a relaxation has the shape of normalised logits. Infinite
logits are treated as in reference/occurrence.py.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .noise import Noise, occurrence_noise

LARGEST = 1e38  # what an infinite logit counts as: a float32, as are differences of two


def bounded(logits: Tensor) -> Tensor:
    """The logits with ±1e38 in place of infinite ones, whose gradient is 0."""
    return logits.clamp(-LARGEST, LARGEST)


def identity_information(probability: Tensor, over_processes: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """I of reference/divergence.py, 0-d in nats; p: probabilities (B, N, …) of categorical parts.

    over_processes: sums a tensor over the processes whose images p describes together. I is the share of this process.
    """
    p = probability.flatten(2)
    with torch.no_grad():  # as the derivatives of the ratio cancel
        anyone, often = p.sum(1, keepdim=True), p.sum((0, 2), keepdim=True)
        if over_processes is not None:
            often = over_processes(often)
        log_p, log_any, log_often, log_all = (
            value.clamp_min(torch.finfo(torch.float32).tiny).log()
            for value in (p, anyone, often, often.sum(1, keepdim=True))
        )
        ratio = log_p - log_any - log_often + log_all
    return (p * ratio).sum()


class Bernoulli:
    """Independent parts: p = σ(a)."""

    @staticmethod
    def logits(probability: Tensor) -> Tensor:
        """The logits of probabilities p; infinite if p is 0 or 1."""
        return torch.log(probability / (1 - probability))

    @staticmethod
    def normalise(logits: Tensor) -> Tensor:
        """The logits (B, N, …) themselves, with ±1e38 in place of infinite ones."""
        return bounded(logits)

    @staticmethod
    def log_odds(normalised: Tensor) -> Tensor:
        """log p − log(1 − p), which ranks occurrences even if p is rounded to 0 or 1."""
        return normalised

    @staticmethod
    def probability(normalised: Tensor) -> Tensor:
        """p (B, N, …) = σ(a)."""
        return torch.sigmoid(normalised)

    @staticmethod
    def log_probability(normalised: Tensor) -> Tensor:
        """log p (B, N, …)."""
        return F.logsigmoid(normalised)

    @staticmethod
    def argument(normalised: Tensor, noise: Noise) -> Tensor:
        """a + log u − log(1 − u)."""
        uniform = _uniform(normalised, noise)
        return normalised + torch.log(uniform) - torch.log1p(-uniform)

    @staticmethod
    def relax(argument: Tensor) -> Tensor:
        """The binary Concrete sample, from the argument divided by τ."""
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
    """At most one part per cell: p = softmax(a, 0), where 0 is the logit of "none"."""

    @staticmethod
    def logits(probability: Tensor) -> Tensor:
        """The logits of probabilities p, where "none" has the remaining probability; infinite if p is 0."""
        none = 1 - probability.sum(1, keepdim=True)
        return torch.log(probability / none.clamp_min(torch.finfo(none.dtype).tiny))

    @staticmethod
    def normalise(logits: Tensor) -> Tensor:
        """Logits (B, N, …) → log p of the N parts and, last, of none, (B, N + 1, …)."""
        logits = bounded(logits)
        return torch.cat([logits, torch.zeros_like(logits[:, :1])], dim=1).log_softmax(1)

    @staticmethod
    def log_odds(normalised: Tensor) -> Tensor:
        """log p − log(1 − p); for the most probable part, 1 − p is the sum of all others, including "none"."""
        log_p = normalised[:, :-1]
        index = torch.arange(normalised.shape[1], device=log_p.device).view(-1, *[1] * (log_p.ndim - 2))
        likeliest = index == log_p.argmax(1, keepdim=True)
        others = normalised.masked_fill(likeliest, -torch.inf).logsumexp(1, keepdim=True)
        # The others have p ≤ ½, so 1 − p is precise.
        log_absent = torch.log1p(-log_p.clamp(max=-math.log(2)).exp())
        return log_p - torch.where(likeliest[:, :-1], others, log_absent)

    @staticmethod
    def probability(normalised: Tensor) -> Tensor:
        """p (B, N, …), without none."""
        return normalised[:, :-1].exp()

    @staticmethod
    def log_probability(normalised: Tensor) -> Tensor:
        """log p (B, N, …), without none."""
        return normalised[:, :-1]

    @staticmethod
    def argument(normalised: Tensor, noise: Noise) -> Tensor:
        """log p + g with g = −log(−log u), which differs from (a, 0) + g by a constant per cell."""
        return normalised - torch.log(-torch.log(_uniform(normalised, noise)))

    @staticmethod
    def relax(argument: Tensor) -> Tensor:
        """The Gumbel-softmax sample, from the argument divided by τ, without "none"."""
        return argument.softmax(1)[:, :-1]

    @staticmethod
    def decide(argument: Tensor) -> Tensor:
        """One-hot of the largest, without "none"."""
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


def sample_occurrence(
    distribution: Distribution,
    normalised: Tensor,
    temperature: float | Tensor,
    noise: Noise | None,
    straight_through: bool,
) -> Tensor:
    """y (B, N, L): the relaxed or discrete sample; p without noise."""
    if noise is None:
        return distribution.probability(normalised)
    argument = distribution.argument(normalised, noise)
    y = distribution.relax(argument / temperature)
    return distribution.decide(argument) + (y - y.detach()) if straight_through else y
