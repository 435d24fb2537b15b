"""Renewal of parts during a run: parts are centred, overused ones split, and duplicates retired.

A pattern that one part explains gives no gradient to other parts, so the first part that reconstructs all types roughly
may keep all of them. Likewise, two parts may share a type forever, each in the places where the other does not occur.
Both are local optima: the loss of a better assignment is the same or lower. So, as in the training of codebooks (Linde,
Buzo and Gray 1980), in the first half of a run frequent parts are split while there are unused ones; in the second
half, of two parts with similar pictures, the less frequent one is retired.

Copies that differ by noise alone merge again, or come to differ in where the object lies between two places. A split
therefore clusters what the part shows: the pieces of images where it occurs, aligned to the pixel. Each cluster gets a
part, whose logits are fitted to the cluster's occurrences, and whose picture is fitted to the images.

A part may draw objects at its left, half a cell away, and then occurs in another cell than the object. So in the first
half of a run, parts are also moved to the centre of their pictures.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from accel.models import PatchVAE
from accel.models.autoencoder import in_evaluation, scaled_pixels
from accel.models.decoder import Templates
from accel.models.patchvae import PatchPosterior
from accel.ops.placement import places_of_cells
from accel.training.clustering import k_means
from accel.training.held_out import evaluating, in_order

FEW, PIXELS = 512, 2**21  # images for measuring how often parts occur and for splitting them; more, if they are small
SURE = 0.5  # probability above which an occurrence counts; that of an unused part may be lower, but not 0, everywhere
RARE = 0.02  # such occurrences per image below which a part is unused
OFTEN = 1.5  # parts are split into shares with at most this multiple of the mean occurrences
MUCH = 2.5  # no part is formed by retirement that has more than this multiple of the mean of used parts
FEWEST = 10  # such occurrences per share of a part
MOST = 8000  # such occurrences of a part that are clustered, for bounded memory
PIECE = 1.5  # side of a piece, in cells
BELL = 0.3  # standard deviation of the weights of a piece's pixels, in sides of a piece
ALIGNMENTS = 3  # number of times that pieces are aligned with their mean
OTHERS = 6000  # number of other places, where no share of the part is to occur
PENALTY = 0.01  # on the squared distance between the weights of a share and of the part, for standardised features
FITTED = 256  # number of images to which pictures are fitted
FITTING_STEPS, FITTING_RATE = 40, 0.02  # of Adam, for the pictures
SPREAD = 0.1  # noise added to a copy, in standard deviations of the weights
NEVER = -1e4  # logit of a retired part, whose probability is 0 in every precision

Places = tuple[Tensor, Tensor, Tensor]  # image, row and column on the encoder's grid of m places: int64, (m,) each


class Split(NamedTuple):
    """How a part is moved and split: m occurrences as they are and as they shall be, and the cluster of each (m,).

    occupied: where the part shall occur, including occurrences beyond MOST.
    """

    occupied: Places
    found: Places
    at: Places
    cluster: Tensor
    parts: Tensor  # of each cluster; the first is the part itself
    step: tuple[int, int]  # places from `found` to `at`, downwards and to the right


def evenly_spaced(count: int, most: int) -> np.ndarray:
    """Indices of at most `most` of `count` images; the first ones may all be of one class."""
    return np.linspace(0, count - 1, min(most, count)).round().astype(int)


def encode_few(model: PatchVAE, images: np.ndarray) -> tuple[Tensor, PatchPosterior]:
    """FEW of uint8 images (n, H, W, C), evenly spaced, as a batch on the model's device, and their posterior.

    Of small images there are more, up to PIXELS.
    """
    chosen = images[evenly_spaced(len(images), max(FEW, PIXELS // (images.shape[1] * images.shape[2])))]
    with evaluating(model) as device:
        (batch,) = in_order(chosen, len(chosen), device)
        return batch, model.encode(batch)


def use_of_parts(posterior: PatchPosterior) -> Tensor:
    """Sure occurrences per image of each part, (N,)."""
    return (posterior.occurrence > SURE).float().sum((2, 3)).mean(0)


@torch.no_grad()
def centre_and_split_parts(
    model: PatchVAE, optimiser: torch.optim.Optimizer, images: np.ndarray, seed: int
) -> list[tuple[int, int]]:
    """Moves used parts to the centres of their pictures, and splits overused ones, on uint8 images (n, H, W, C).

    `steps_to_centres` says where to, and `shares_of_parts` between which. A part with fewer than FEWEST sure
    occurrences per share stays as it is. optimiser: the model's Adam, see `restart_moments`. Returns a pair
    (new, original) for each part that was unused.
    """
    batch, posterior = encode_few(model, images)
    use = use_of_parts(posterior)
    shares, steps = shares_of_parts(use), steps_to_centres(model)
    changed = [part for part in (use >= RARE).nonzero().flatten().tolist() if part in shares or any(steps[part])]
    if not changed:
        return []
    generator = torch.Generator().manual_seed(seed)
    with evaluating(model) as device:
        features = model.features(batch)
    pixels = scaled_pixels(batch, torch.float32)
    splits = []
    for original in changed:
        new, step = shares.get(original, []), steps[original]
        found, at = moved(sure_occurrences(model, posterior, original), step, features.shape[2:])
        occupied = at
        if len(at[0]) > MOST:
            some = torch.randperm(len(at[0]), generator=generator)[:MOST].to(device)
            found, at = (tuple(index[some] for index in places) for places in (found, at))
        if len(at[0]) < FEWEST * (1 + len(new)):
            continue
        # On the CPU, where the random generator is.
        pieces = aligned_pieces(pixels, at, model.encoder.scale, round(PIECE * model.scale) // 2).cpu()
        cluster = torch.cdist(pieces, k_means(pieces, 1 + len(new), seed)).argmin(1).to(device)
        split = Split(occupied, found, at, cluster, torch.tensor([original, *new], device=device), step)
        splits.append(split)
        weight, bias = fitted_logits(model, features, split, generator)
        if any(step):
            pictures = _pictures(model, model.decoder.reading())
            pictures[original] = shifted(pictures[original], *(-places * model.encoder.scale for places in step))
        for weights in _by_part(model, nn.Parameter.detach):
            spread = weights[original].std(correction=0) if weights[original].numel() > model.part_dim else 0.0
            noise = torch.randn(weights[new].shape, generator=generator).to(weights)
            weights[new] = weights[original] + SPREAD * spread * noise
        model.occurrence_head.weight[split.parts], model.occurrence_head.bias[split.parts] = weight, bias
        restart_moments(model, optimiser, split.parts)
    if splits:
        fit_pictures(model, pixels, posterior, splits)
    return [(new, original) for original, *others in (split.parts.tolist() for split in splits) for new in others]


def shares_of_parts(use: Tensor) -> dict[int, list[int]]:
    """Which unused parts take an equal share of which part, so that no share exceeds OFTEN times the mean of use (N,).

    There are fewer if the unused parts do not suffice.
    """
    shares: dict[int, list[int]] = {}
    share = use.clone()
    for new in (use < RARE).nonzero().flatten().tolist():
        original = int(share.argmax())
        if share[original] < OFTEN * use.mean():
            break
        shares.setdefault(original, []).append(new)
        share[original] = use[original] / (1 + len(shares[original]))
    return shares


def sure_occurrences(model: PatchVAE, posterior: PatchPosterior, part: int) -> Places:
    """Of each cell in which the part occurs with a probability above SURE, the most probable place."""
    image, row, column = (posterior.occurrence[:, part] > SURE).nonzero().T
    if posterior.places is None:
        return image, row, column
    k, width = model.places, posterior.occurrence.shape[3]
    place = places_of_cells(posterior.places[:, [part]], k)[image, 0, row * width + column].argmax(1)
    return image, row * k + place // k, column * k + place % k


def steps_to_centres(model: PatchVAE) -> list[tuple[int, int]]:
    """For each part, how many places its picture's centre lies below and to the right of the place that draws it.

    The centre is the centroid of squared contributions. (0, 0) with a decoder that has no templates, whose pictures
    cannot be shifted.
    """
    if not isinstance(model.decoder, Templates):
        return [(0, 0)] * model.num_parts
    energy = part_pictures(model).square().sum(1)
    share = energy / energy.sum((1, 2), keepdim=True).clamp_min(torch.finfo(energy.dtype).tiny)
    steps = []
    for axis, cells in ((2, model.grid[0]), (1, model.grid[1])):
        pixels = torch.arange(share.shape[3 - axis], device=share.device) + 0.5
        drawn = (cells // 2 * model.places + model.places // 2 + 0.5) * model.encoder.scale
        steps.append((share.sum(axis) * (pixels - drawn)).sum(1).div(model.encoder.scale).round().int().tolist())
    return list(zip(*steps, strict=True))


def moved(places: Places, step: tuple[int, int], grid: Sequence[int]) -> tuple[Places, Places]:
    """Places and the same places moved by a step, without those that would leave a grid (h, w)."""
    image, row, column = places
    inside = (row + step[0] >= 0) & (row + step[0] < grid[0]) & (column + step[1] >= 0) & (column + step[1] < grid[1])
    image, row, column = image[inside], row[inside], column[inside]
    return (image, row, column), (image, row + step[0], column + step[1])


def shifted(weights: Tensor, down: int, right: int) -> Tensor:
    """Kernels or templates (…, h, w) shifted by pixels, with zeros where there were none."""
    height, width = weights.shape[-2:]
    padded = functional.pad(weights, (abs(right), abs(right), abs(down), abs(down)))
    row, column = abs(down) - down, abs(right) - right
    return padded[..., row : row + height, column : column + width]


def aligned_pieces(images: Tensor, at: Places, scale: int, reach: int) -> Tensor:
    """Squares of 2 · reach pixels around m places of a grid with `scale` pixels a place: (m, 4 · reach² · C).

    Each square is shifted by up to half of `scale`, so that it correlates best with the mean of all squares. The colour
    and the contrast of an object vary between images, so each square has mean 0 in each channel and norm 1, before its
    pixels are weighted by a bell.
    """
    image, row, column = at
    side = torch.arange(-reach, reach, device=images.device)
    bell = torch.exp(-(((side + 0.5) / (BELL * 2 * reach)) ** 2) / 2)
    border = reach + scale
    padded = functional.pad(images, (border,) * 4)

    def cut(down: int, right: int) -> Tensor:
        rows = (row * scale + scale // 2 + down + border)[:, None] + side
        columns = (column * scale + scale // 2 + right + border)[:, None] + side
        squares = padded[image[:, None, None], :, rows[:, :, None], columns[:, None, :]]  # (m, 2·reach, 2·reach, C)
        squares = squares - squares.mean((1, 2), keepdim=True)
        unit = functional.normalize(squares.flatten(1), dim=1).view_as(squares)
        return (unit * (bell[:, None] * bell)[..., None]).flatten(1)

    shifts = range(-(scale // 2), scale // 2 + 1)
    aligned = cut(0, 0)
    for _ in range(ALIGNMENTS):
        mean, best = aligned.mean(0), aligned.new_full((len(aligned),), -math.inf)
        for down, right in itertools.product(shifts, shifts):  # one shift at a time: all at once can exceed memory
            squares = cut(down, right)
            score = squares @ mean
            better = score > best
            aligned, best = torch.where(better[:, None], squares, aligned), torch.where(better, score, best)
    return aligned


def fitted_logits(model: PatchVAE, features: Tensor, split: Split, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Weight (K, C, k, k) and bias (K,) of the occurrence logits of a part's K shares, by logistic regression.

    Features (n, C, h, w) at each occurrence of the part predict its cluster, and at OTHERS random places that no share
    occurs there: one regression of K + 1 classes for categorical occurrences, K of two classes for independent ones.
    The penalty is on the difference from the part's own weights.
    """
    head, categorical = model.occurrence_head, model.bottleneck.occurrence == "categorical"
    count, size = len(split.parts), head.kernel_size[0]
    windows = functional.pad(features, (size // 2,) * 4).unfold(2, size, 1).unfold(3, size, 1)
    occupied = torch.zeros(len(features), *features.shape[2:], dtype=torch.bool)
    occupied[tuple(index.cpu() for index in split.occupied)] = True
    free = (~occupied).nonzero()
    free = free[torch.randperm(len(free), generator=generator)[:OTHERS]].to(features.device)
    image, row, column = (torch.cat(pair) for pair in zip(split.at, free.T, strict=True))
    read = windows[image, :, row, column].float().flatten(1)
    target = torch.cat([split.cluster, split.cluster.new_full((len(free),), count)])
    own_weight, own_bias = head.weight[split.parts[0]], head.bias[split.parts[0]]
    down, right = split.step
    own_weight = shifted(own_weight, -down, -right)  # reads the same places, where it reaches them
    own = read @ own_weight.flatten() + own_bias
    occurring = read[: len(split.cluster)]
    mean, deviation = occurring.mean(0), occurring.std(0, correction=0).clamp_min(1e-3)
    read = (read - mean) / deviation
    weight = read.new_zeros(count, read.shape[1]).requires_grad_()
    bias = read.new_full((count,), -math.log(count)).requires_grad_()
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=60, line_search_fn="strong_wolfe")

    @torch.enable_grad()
    def loss() -> Tensor:
        optimiser.zero_grad()
        logits = own[:, None] + functional.linear(read, weight, bias)
        if categorical:
            value = functional.cross_entropy(functional.pad(logits, (0, 1)), target)  # 0 for none of them
        else:
            each = functional.one_hot(target, count + 1)[:, :count].to(logits)
            value = functional.binary_cross_entropy_with_logits(logits, each) * count
        value = value + PENALTY * weight.square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    weight = weight.detach() / deviation
    return own_weight + weight.unflatten(1, head.weight.shape[1:]), own_bias + bias.detach() - weight @ mean


def first_of_each(keys: Tensor) -> Tensor:
    """The index of the first of each group of equal keys (m,)."""
    values, group = keys.unique(return_inverse=True)
    return torch.full_like(values, len(keys)).scatter_reduce(
        0, group, torch.arange(len(keys), device=keys.device), "amin"
    )


def fit_pictures(model: PatchVAE, pixels: Tensor, posterior: PatchPosterior, splits: list[Split]) -> None:
    """Fits the decoder's weights of the split parts to pixels (n, C, H, W), with each cluster drawn by its own part.

    posterior: of the same images, before the split. Minimises the squared error.
    """
    k, (height, width) = model.places, model.grid
    code = posterior.code.unflatten(1, (model.num_parts, -1)).clone()
    setting = {name: value.clone() for name, value in model.setting(posterior).items()}
    fitted = torch.zeros(model.num_parts, dtype=torch.bool, device=code.device)
    for _, (image, row, column), (_, to_row, to_column), cluster, parts, _ in splits:
        # A cell has one occurrence of a part: of two that are moved into it, the first one.
        part = parts[cluster]
        first = first_of_each(((image * model.num_parts + part) * height + to_row // k) * width + to_column // k)
        drawn = code[image, parts[0], :, row // k, column // k][first]
        image, part, to_row, to_column = (x[first] for x in (image, part, to_row, to_column))
        code[:, parts] = 0
        code[image, part, :, to_row // k, to_column // k] = drawn
        if "places" in setting:
            setting["places"][:, parts] = 0
            setting["places"][image, part, to_row, to_column] = 1
        fitted[parts] = True
    few = evenly_spaced(len(pixels), FITTED)
    code, pixels = code[few].flatten(1, 2), pixels[few]
    setting = {name: value[few] for name, value in setting.items()}
    weight = model.decoder.reading()
    optimiser = torch.optim.Adam([weight], lr=FITTING_RATE)
    for _ in range(FITTING_STEPS):
        with torch.enable_grad(), in_evaluation(model):
            error = (model.decode(code, **setting) - pixels).square().sum() / len(pixels)
            (weight.grad,) = torch.autograd.grad(error, weight)
        _pictures(model, weight.grad)[~fitted] = 0
        optimiser.step()
    weight.grad = None


def restart_moments(model: PatchVAE, optimiser: torch.optim.Optimizer, parts: Tensor) -> None:
    """Sets Adam's moments of a part's shares: the first to 0, the second to that of the part, which is the first share.

    Gradients of unused parts are about 0, so with their own second moments, Adam's first steps would be far too long.
    """

    def moments(name: str) -> list[Tensor]:
        return _by_part(model, lambda parameter: optimiser.state.get(parameter, {}).get(name))

    for first in moments("exp_avg"):
        first[parts] = 0
    for second in moments("exp_avg_sq"):
        second[parts] = second[parts[0]].clone()


def _by_part(model: PatchVAE, of: Callable[[nn.Parameter], Tensor | None]) -> list[Tensor]:
    """of(parameter) for all parameters that consist of weights of single parts, as views (N, …); without any None."""
    heads = (model.occurrence_head, model.appearance_mean_head, model.appearance_log_variance_head)
    tensors = [of(parameter) for head in heads for parameter in head.parameters()]
    views = [tensor.unflatten(0, (model.num_parts, -1)) for tensor in tensors if tensor is not None]
    pictures = of(model.decoder.reading())
    return views if pictures is None else [*views, _pictures(model, pictures)]


def _pictures(model: PatchVAE, weights: Tensor) -> Tensor:
    """The decoder's weights, their gradient or a moment of it, by the part that they draw: a view (N, …)."""
    return model.decoder.of_channels(weights).unflatten(0, (model.num_parts, -1))


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
            aside = around[:, :, row : row + height, column : column + width].flatten(1)
            best = torch.maximum(best, unit @ nn.functional.normalize(aside, dim=1).T)
    return torch.maximum(best, best.T)


@torch.no_grad()
def retire_duplicates(model: PatchVAE, images: np.ndarray, alike: float) -> list[tuple[int, int]]:
    """For every two used parts whose pictures have a similarity of at least `alike`, retires the less frequent one.

    The mean picture, weighted by use, is subtracted first: what all parts have in common, such as one palette, does not
    make any two of them duplicates. Nor are two parts that together occur more than MUCH times as often as the mean of
    used parts: they would show several patterns. A retired part occurs nowhere, so that the other part takes over.
    Returns pairs (retired part, remaining part), the most similar first.
    """
    use, pictures = use_of_parts(encode_few(model, images)[1]), part_pictures(model)
    common = torch.einsum("n,nchw->chw", use / use.sum().clamp_min(RARE), pictures)
    similar = similarities(pictures - common, model.scale // 2)
    most = MUCH * use[use >= RARE].mean()  # NaN if there are none, and then there are no pairs
    retired: dict[int, int] = {}
    pairs = [(one, other) for one in range(len(use)) for other in range(one)]
    for one, other in sorted(pairs, key=lambda pair: -similar[pair].item()):
        if similar[one, other] < alike:
            break
        if {one, other} & retired.keys() or min(use[one], use[other]) < RARE or use[one] + use[other] > most:
            continue
        less, more = (one, other) if use[one] < use[other] else (other, one)
        use[more] += use[less]
        model.occurrence_head.weight[less] = 0
        model.occurrence_head.bias[less] = NEVER
        retired[less] = more
    return list(retired.items())
