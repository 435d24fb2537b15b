"""Probes of a frozen encoder: features of whole sets, accuracies, and the vote of nearest neighbours."""

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from accel.data import Dataset
from accel.evaluation.splits import BATCH, Chosen, Examples, split
from accel.models.autoencoder import scaled_pixels
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


def extract(
    encoder: nn.Module, pool: Callable[[Tensor], Tensor], chosen: Chosen, device: torch.device, mirror: bool = False
) -> Tensor:
    """pool(φ(x)) of every image, (n, F) on the device, in evaluation mode; of mirrored images if `mirror`."""
    encoder.to(device, memory_format=torch.channels_last)
    parts = []
    with evaluating(encoder):
        for images, _ in chosen.batches(device):
            images = scaled_pixels(images, torch.float32)
            parts.append(pool(encoder(images.flip(3) if mirror else images)))
    return torch.cat(parts)


def cell_mean(features: Tensor) -> Tensor:
    """Features (B, C, h, w) averaged over cells, (B, C): the input of the probes."""
    return features.mean((2, 3))


def knn(
    encoder: nn.Module, train: Chosen, test: Chosen, num_classes: int, config: TransferConfig
) -> tuple[float, float]:
    """(top-1, top-5) in % of the weighted vote of the k nearest training images by cosine (Wu et al. 2018)."""
    device = next(encoder.parameters()).device
    bank, queries = (functional.normalize(extract(encoder, cell_mean, images, device)) for images in (train, test))
    labels = torch.as_tensor(train.labels, device=device)
    answers = torch.as_tensor(test.labels, device=device)

    def votes():
        for start in range(0, len(queries), BATCH):
            near = (queries[start : start + BATCH] @ bank.T).topk(min(config.neighbours, len(bank)), dim=1)
            weights = (near.values / config.knn_temperature).exp()
            votes = weights.new_zeros(len(weights), num_classes).scatter_add_(1, labels[near.indices], weights)
            yield votes, answers[start : start + BATCH]

    return top_accuracies(votes())


def vote(encoder: nn.Module, config: TransferConfig, dataset: Dataset) -> dict:
    """The entry of transfer.json for "knn", which uses all training images, since it selects nothing on them."""
    began, sets = time.monotonic(), split(dataset)
    top1, top5 = knn(encoder, sets["both"], sets["test"], dataset.num_classes, config)
    parameters = {"k": config.neighbours, "T": config.knn_temperature}
    parameters |= {"features": "mean over cells", "train_images": len(sets["both"])}
    entry = {"protocol": "knn", "data": dataset.name, "seed": config.seed, "epochs": 0, "parameters": parameters}
    entry |= {"last_top1": top1, "selected_top1": top1, "selected_epoch": 0}
    entry |= {"top5": top5} if dataset.num_classes > 5 else {}
    return entry | {"seconds": time.monotonic() - began}
