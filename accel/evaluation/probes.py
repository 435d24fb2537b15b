"""Probes of a frozen encoder: features of whole sets, accuracies, and the vote of nearest neighbours."""

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from accel.data import Dataset
from accel.evaluation.splits import Examples, Subset, split
from accel.models.autoencoder import scaled_pixels
from accel.models.encoder import coarse_vector
from accel.training.held_out import evaluating
from accel.training.protocols import TransferConfig


def top_accuracies(batches: Examples) -> tuple[float, float]:
    """(top-1, top-5) in % of batches of scores (B, classes) and labels (B,)."""
    count, hits = 0, [0, 0]
    for scores, labels in batches:
        best = scores.topk(min(5, scores.shape[1]), dim=1).indices == labels[:, None]
        hits[0] += best[:, 0].sum()
        hits[1] += best.any(1).sum()
        count += len(labels)
    return tuple(100 * int(hit) / count for hit in hits)


def featured(
    encoder: nn.Module, pool: Callable[[Tensor], Tensor], chosen: Subset, device: torch.device, mirror: bool = False
) -> Examples:
    """pool(φ(x)), (B, F), and labels of each batch on the device, in evaluation mode; mirrored if `mirror`."""
    encoder.to(device, memory_format=torch.channels_last)
    for images, labels in chosen.batches(device):
        images = scaled_pixels(images, torch.float32)
        with evaluating(encoder):
            features = pool(encoder(images.flip(3) if mirror else images))
        yield features, labels


def extract(
    encoder: nn.Module, pool: Callable[[Tensor], Tensor], chosen: Subset, device: torch.device, mirror: bool = False
) -> Tensor:
    """pool(φ(x)) of every image, (n, F); see `featured`."""
    return torch.cat([features for features, _ in featured(encoder, pool, chosen, device, mirror)])


def knn(
    encoder: nn.Module, train: Subset, test: Subset, num_classes: int, config: TransferConfig
) -> tuple[float, float]:
    """(top-1, top-5) in % of the weighted vote of the k nearest training images by cosine (Wu et al. 2018).

    Images are compared cell by cell, on the grid of `coarse_vector`, as the paper's classifier sees them. Of the
    training images, only the nearest so far are kept, so that memory does not grow with their number.
    """
    device = next(encoder.parameters()).device
    queries = functional.normalize(extract(encoder, coarse_vector, test, device))
    nearest, voters = queries.new_empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.int64, device=device)
    for features, labels in featured(encoder, coarse_vector, train, device):
        cosines = torch.cat([nearest, queries @ functional.normalize(features).T], dim=1)
        nearest, index = cosines.topk(min(config.neighbours, cosines.shape[1]), dim=1)
        voters = torch.cat([voters, labels.expand(len(queries), -1)], dim=1).gather(1, index)
    weights = (nearest / config.knn_temperature).exp()
    votes = weights.new_zeros(len(queries), num_classes).scatter_add_(1, voters, weights)
    return top_accuracies(iter([(votes, torch.as_tensor(test.labels, device=device))]))


def vote(encoder: nn.Module, config: TransferConfig, dataset: Dataset) -> dict:
    """The entry of transfer.json for "knn", which uses all training images, since it selects nothing on them."""
    began, sets = time.monotonic(), split(dataset)
    top1, top5 = knn(encoder, sets["both"], sets["test"], dataset.num_classes, config)
    parameters = {"k": config.neighbours, "T": config.knn_temperature}
    parameters |= {"features": "averaged to at most 4 × 4 cells", "train_images": len(sets["both"])}
    entry = {"protocol": "knn", "data": dataset.name, "seed": config.seed, "epochs": 0, "parameters": parameters}
    entry |= {"last_top1": top1, "selected_top1": top1, "selected_epoch": 0}
    entry |= {"top5": top5} if dataset.num_classes > 5 else {}
    return entry | {"seconds": time.monotonic() - began}
