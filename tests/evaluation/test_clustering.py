"""k-means: separate clusters are found, and the result depends on the seed alone."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from accel.evaluation.clustering import k_means


@given(seed=st.integers(0, 99), count=st.integers(1, 5))
def test_k_means_finds_separate_clusters_and_repeats_itself(seed, count):
    generator = torch.Generator().manual_seed(seed)
    # Far corners of a simplex: a seeding with probabilities by squared distance cannot take one twice (1 in 10⁶).
    clusters = torch.eye(5)[:count] * 1000
    vectors = (clusters[:, None] + torch.randn(count, 40, 5, generator=generator)).flatten(0, 1)
    centres = k_means(vectors, count, seed)
    assert torch.equal(centres, k_means(vectors, count, seed))
    assert sorted(torch.cdist(clusters, centres).argmin(1).tolist()) == list(range(count))
    # A mean of 40 draws of deviation 1 lies within five of its own deviations.
    assert (torch.cdist(clusters, centres).min(1).values < 5 * (5 / 40) ** 0.5).all()


def test_k_means_of_fewer_vectors_than_centres():
    centres = k_means(torch.ones(3, 2), 4, seed=0)
    assert torch.equal(centres, torch.ones(4, 2))
