"""k-means clustering, a baseline for discovered parts."""

import torch
from torch import Tensor

ROUNDS, SAMPLE = 30, 20_000  # of Lloyd's algorithm, and at most so many vectors, chosen at random


def k_means(vectors: Tensor, count: int, seed: int) -> Tensor:
    """Centres (count, M) of vectors (m, M) after Lloyd's rounds from a k-means++ start, on a random sample.

    The same seed gives the same centres. A centre that is not the nearest of any vector does not move.
    """
    generator = torch.Generator().manual_seed(seed)
    vectors = vectors[torch.randperm(len(vectors), generator=generator)[:SAMPLE]]
    centres = vectors[:1]
    squared = (vectors - centres).square().sum(1)
    while len(centres) < count:
        # If there are fewer than `count` distinct vectors, all distances are 0, and any vector can be chosen.
        weights = squared if squared.any() else torch.ones_like(squared)
        new = vectors[torch.multinomial(weights, 1, generator=generator)]
        centres = torch.cat([centres, new])
        squared = torch.minimum(squared, (vectors - new).square().sum(1))
    for _ in range(ROUNDS):
        nearest = torch.cdist(vectors, centres).argmin(1)
        sums = torch.zeros_like(centres).index_add_(0, nearest, vectors)
        sizes = torch.bincount(nearest, minlength=count)[:, None]
        centres = torch.where(sizes > 0, sums / sizes.clamp(min=1), centres)
    return centres
