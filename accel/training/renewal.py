"""Renewal of parts during a run: unused parts restart as copies of overused ones, and duplicates are retired.

A pattern that one part explains gives no gradient to other parts, so the first part that reconstructs all types roughly
may keep all of them. Likewise, two parts may share a type forever, each in the places where the other does not occur.
Both are local optima: the loss of a better assignment is the same or lower. So, as in the training of codebooks (Linde,
Buzo and Gray 1980), in the first half of a run frequent parts are split while there are unused ones; in the second
half, of two parts with similar pictures, the less frequent one is retired.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn

from accel.models import PatchVAE
from accel.models.autoencoder import in_evaluation
from accel.training.held_out import evaluating, in_order

FEW = 512  # number of images for measuring how often parts occur
CONSIDERED = 0.1  # occurrences of lower probability do not count: early in a run every part has them everywhere
RARE = 0.02  # occurrences per image below which a part is unused
MUCH = 3.0  # parts that occur more often than this multiple of the mean may be split
SPREAD = 0.1  # noise added to a copy, in standard deviations of the weights
NEVER = -1e4  # logit of a retired part, whose probability is 0 in every precision


def use_of_parts(model: PatchVAE, images: np.ndarray) -> Tensor:
    """Expected occurrences per image of each part, (N,), over the first FEW of uint8 images (n, H, W, C)."""

    def counted(p: Tensor) -> Tensor:
        return torch.where(p > CONSIDERED, p, 0).sum((2, 3))

    with evaluating(model) as device:
        batches = in_order(images[:FEW], FEW, device)
        return torch.cat([counted(model.encode(batch).occurrence) for batch in batches]).mean(0)


@torch.no_grad()
def split_parts(model: PatchVAE, images: np.ndarray, seed: int) -> list[tuple[int, int]]:
    """Replaces each unused part by a copy of the most frequent part, with a little noise.

    The two parts then count as half as frequent each; this stops when no part is more frequent than MUCH times the
    mean. Returns pairs (new, original).
    """
    use = use_of_parts(model, images)
    generator = torch.Generator().manual_seed(seed)
    made = []
    for new in (use < RARE).nonzero().flatten().tolist():
        original = int(use.argmax())
        if use[original] < MUCH * use.mean():
            break
        for weights in _weights_of_parts(model):
            noise = torch.randn(weights[original].shape, generator=generator).to(weights)
            spread = weights[original].std(correction=0) if weights[original].numel() > model.part_dim else 0.0
            weights[new] = weights[original] + SPREAD * spread * noise
        model.occurrence_head.bias[[new, original]] -= math.log(2)
        use[original] /= 2
        use[new] = use[original]
        made.append((new, original))
    return made


def _weights_of_parts(model: PatchVAE) -> list[Tensor]:
    """All weights that belong to single parts, as views (N, …)."""
    heads = (model.occurrence_head, model.appearance_mean_head, model.appearance_log_variance_head)
    weights = [tensor for head in heads for tensor in (head.weight, head.bias)]
    return [tensor.detach().unflatten(0, (model.num_parts, -1)) for tensor in (*weights, model.decoder.of_channels())]


@torch.no_grad()
def part_pictures(model: PatchVAE) -> Tensor:
    """Each part's contribution to an empty image, (N, channels, H, W), with the prior's mean, in the centre."""
    height, width = model.grid
    row, column, parts = height // 2, width // 2, model.num_parts
    weight = model.occurrence_head.weight
    code = weight.new_zeros(parts + 1, parts, model.part_dim, height, width)  # the last image is empty
    each = torch.arange(parts, device=weight.device)
    code[each, each, :, row, column] = model.bottleneck.appearance_prior_mean
    setting = {}
    if model.places > 1:
        k = model.places
        setting["places"] = weight.new_zeros(parts + 1, parts, height * k, width * k)
        setting["places"][:, :, row * k + k // 2, column * k + k // 2] = 1
    with in_evaluation(model):
        images = model.decode(code.flatten(1, 2), **setting)
    return images[:-1] - images[-1:]


def similarities(pictures: Tensor, reach: int) -> Tensor:
    """Cosine similarities of pictures (N, C, H, W), each maximal over shifts by at most `reach` pixels: (N, N).

    0 for an empty picture.
    """
    height, width = pictures.shape[2:]
    around = nn.functional.pad(pictures, (reach,) * 4)
    unit = nn.functional.normalize(pictures.flatten(1), dim=1)
    best = torch.full((len(pictures), len(pictures)), -1.0, device=pictures.device)
    for row in range(2 * reach + 1):
        for column in range(2 * reach + 1):
            moved = around[:, :, row : row + height, column : column + width].flatten(1)
            best = torch.maximum(best, unit @ nn.functional.normalize(moved, dim=1).T)
    return torch.maximum(best, best.T)


@torch.no_grad()
def retire_duplicates(model: PatchVAE, images: np.ndarray, alike: float) -> list[tuple[int, int]]:
    """For every two used parts whose pictures have a similarity of at least `alike`, retires the less frequent one.

    A retired part occurs nowhere, so that the other part takes over. Returns pairs (retired part, remaining part), the
    most similar first.
    """
    use = use_of_parts(model, images)
    similar = similarities(part_pictures(model), model.scale // 2)
    retired = {}
    pairs = [(one, other) for one in range(len(use)) for other in range(one)]
    for one, other in sorted(pairs, key=lambda pair: -similar[pair].item()):
        if similar[one, other] < alike:
            break
        if {one, other} & retired.keys() or min(use[one], use[other]) < RARE:
            continue
        less, more = (one, other) if use[one] < use[other] else (other, one)
        model.occurrence_head.weight[less] = 0
        model.occurrence_head.bias[less] = NEVER
        retired[less] = more
    return list(retired.items())
