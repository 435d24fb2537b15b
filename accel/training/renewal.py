"""Renewal of parts during a run: parts are given patterns anew, and duplicates retired.

A pattern that one part explains gives no gradient to other parts, so the first part that reconstructs all types roughly
may keep all of them. Likewise, two parts may share a type forever, each in the places where the other does not occur.
Both are local optima: the loss of a better assignment is the same or lower. So in the first third of a run, the pieces
of images where any part occurs are clustered (accel/training/patterns.py), and each cluster gets a part, whose logits
are fitted to the cluster's occurrences, and whose picture is fitted to the images. Each time is a new assignment of all
parts, by what they have found until then.

Such parts differ little at first, and would come to differ in something else, such as the contrast of objects. So for
the rest of the run, the loss has one more term, the cross-entropy between a cell's cluster and the part that occurs
there (reference/patterns.py), as networks learn from clusters of their own features in Caron et al. (ECCV 2018). A cell
has at most one cluster, as for categorical occurrences. After the last assignment, of two parts with similar pictures,
the less frequent one is retired.

A part may draw objects at its left, half a cell away, and then occurs in another cell than the object. So parts that
are assigned anew are also moved to the centre of their pictures.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from accel.common.progress import progress
from accel.models import PatchVAE
from accel.models.autoencoder import in_evaluation, scaled_pixels
from accel.models.decoder import Templates
from accel.models.patchvae import PatchPosterior
from accel.ops.placement import most_probable_places
from accel.training import processes
from accel.training.held_out import evaluating, in_order
from accel.training.patterns import FEWEST, Patterns, Pieces, Places, find_patterns

FEW, PIXELS = 512, 2**21  # images for measuring how often parts occur and for fitting them; more, if they are small
SURE = 0.5  # probability above which an occurrence counts; that of an unused part may be lower, but not 0, everywhere
RARE = 0.02  # such occurrences per image below which a part is unused
MUCH = 2.5  # no part is formed by retirement that has more than this multiple of the mean of used parts
ROUNDS = 2  # of assigning all parts anew in a run
MOST = 8000  # such occurrences from which logits and pictures are fitted, for bounded memory
PIECE = 1.5  # side of a piece, in cells
FINEST = 8  # pixels per side of a cell, at most, to which images are reduced for clustering
OTHERS = 6000  # number of other places, where no part is to occur
PENALTY = 0.01  # on the squared distance between the weights of a part and of the commonest, for standardised features
FITTED = 256  # number of images to which pictures are fitted
FITTING_STEPS, FITTING_RATE = 40, 0.02  # of Adam, for the pictures
SPREAD = 0.1  # noise added to a copy, in standard deviations of the weights
NEVER = -1e4  # logit of a retired part, whose probability is 0 in every precision
UNKNOWN = -1  # in a map of identities: no part is known to occur in the cell


class SureOccurrences(NamedTuple):
    """Sure occurrences of used parts at m places, which part each is, and where its picture's centre lies."""

    part: Tensor  # (m,) int64
    found: Places
    at: Places

    def some(self, index: Tensor) -> "SureOccurrences":
        """Those with the given indices."""
        found, at = (tuple(numbers[index] for numbers in places) for places in (self.found, self.at))
        return SureOccurrences(self.part[index], found, at)


def rounds_of_assignment(epochs: int) -> set[int]:
    """The epochs after which parts are assigned anew: spread over the first third of a run, and at least one."""
    return {max(1, number * epochs // (3 * ROUNDS)) for number in range(1, ROUNDS + 1)}


def evenly_spaced(count: int, most: int) -> np.ndarray:
    """Indices of at most `most` of `count` images; the first ones may all be of one class."""
    return np.linspace(0, count - 1, min(most, count)).round().astype(int)


def encode_few(model: PatchVAE, images: np.ndarray) -> tuple[Tensor, PatchPosterior]:
    """FEW of uint8 images (n, H, W, C), evenly spaced, as a batch on the model's device, and their posterior.

    Of small images there are more, up to PIXELS.
    """
    chosen = images[evenly_spaced(len(images), images_at_once(images))]
    with evaluating(model) as device:
        (batch,) = in_order(chosen, len(chosen), device)
        return batch, model.encode(batch)


def images_at_once(images: np.ndarray) -> int:
    """Number of images of the size of these that are processed together."""
    return max(FEW, PIXELS // (images.shape[1] * images.shape[2]))


def use_of_parts(posterior: PatchPosterior) -> Tensor:
    """Sure occurrences per image of each part, (N,)."""
    return (posterior.occurrence > SURE).float().sum((2, 3)).mean(0)


@torch.no_grad()
def reassign_parts(
    model: PatchVAE, optimiser: torch.optim.Optimizer, images: np.ndarray, seed: int, identities: Tensor
) -> int:
    """Clusters all that parts have found in uint8 images (n, H, W, C), and gives each cluster a part.

    Writes into `identities` (n, h, w) the part of the cluster in each cell where a part occurs, elsewhere UNKNOWN.
    Parts without a cluster occur nowhere. With fewer than FEWEST sure occurrences for each of two parts, or only one
    cluster, nothing changes. optimiser: the model's Adam, see `restart_moments`. Returns the number of clusters, 0 if
    nothing changes.
    """
    batch, posterior = encode_few(model, images)
    use, steps = use_of_parts(posterior), steps_to_centres(model)
    used, commonest = (use >= RARE).nonzero().flatten().tolist(), int(use.argmax())
    if not used:
        return 0
    with evaluating(model) as device:
        features = model.features(batch)
    found = occurrences(model, posterior, used, steps)
    most = min(model.num_parts, len(found.part) // FEWEST)
    if most < 2:
        return 0
    generator = torch.Generator().manual_seed(seed)
    pieces = pieces_of(model, batch)
    patterns = find_patterns(pieces, on_cpu(found.at), most, generator)
    clusters = int(patterns.cluster.max()) + 1
    if clusters == 1:
        return 0
    parts = [commonest, *(part for part in range(model.num_parts) if part != commonest)]
    parts = torch.tensor(parts[:clusters], device=device)
    name_occurrences(model, images, patterns, parts, used, steps, identities)

    occupied = found.at
    if len(found.part) > MOST:
        found = found.some(torch.randperm(len(found.part), generator=generator)[:MOST].to(device))
    image, row, column = on_cpu(found.at)
    chosen, k = torch.from_numpy(evenly_spaced(len(images), len(batch))), model.places
    part = identities[chosen[image], row // k, column // k].to(device, torch.int64)
    known = (part != UNKNOWN).nonzero()[:, 0]  # a probability may be rounded to just below SURE in another batch
    found, part = found.some(known), part[known]
    read = read_by_logits(model, features, found.at, occupied, generator)
    logits = fitted_logits(model, read, part, parts, steps[commonest])
    become_variants(model, parts, steps[commonest], generator)
    model.occurrence_head.weight.zero_()
    model.occurrence_head.bias.fill_(NEVER)
    model.occurrence_head.weight[parts], model.occurrence_head.bias[parts] = logits
    restart_moments(model, optimiser, parts)
    fit_pictures(model, scaled_pixels(batch, torch.float32), posterior, found, part)
    return clusters


def occurrences(
    model: PatchVAE, posterior: PatchPosterior, used: list[int], steps: list[tuple[int, int]]
) -> SureOccurrences:
    """The sure occurrences of the used parts, at least one, without those whose centres lie outside of the image.

    steps: `steps_to_centres` of the model, since the centre of what a part draws is to be its place.
    """
    grid = [side * model.places for side in posterior.occurrence.shape[2:]]
    part, found, at = [], [], []
    for one in used:
        before, after = moved(sure_occurrences(model, posterior, one), steps[one], grid)
        part.append(torch.full_like(before[0], one))
        found.append(before)
        at.append(after)
    return SureOccurrences(torch.cat(part), *(tuple(map(torch.cat, zip(*p, strict=True))) for p in (found, at)))


def on_cpu(places: Places) -> Places:
    """The places on the CPU, where the random generator is, and where pieces are clustered."""
    image, row, column = (index.cpu() for index in places)
    return image, row, column


def pieces_of(model: PatchVAE, batch: Tensor) -> Pieces:
    """The pieces of uint8 images (B, C, H, W) around the encoder's places, PIECE cells wide, on the CPU.

    Images whose cells are wider than FINEST pixels are reduced first.
    """
    pixels = scaled_pixels(batch.cpu(), torch.float32)
    factor = max(1, min(model.encoder.scale, model.scale // FINEST))
    pixels = functional.avg_pool2d(pixels, factor)
    return Pieces(pixels, model.encoder.scale // factor, round(PIECE * model.scale / factor) // 2)


def name_occurrences(
    model: PatchVAE,
    images: np.ndarray,
    patterns: Patterns,
    parts: Tensor,
    used: list[int],
    steps: list[tuple[int, int]],
    identities: Tensor,
) -> None:
    """Writes into `identities` (n, h, w) the part of the cluster in each cell where one of the used parts occurs.

    Of two occurrences whose centres lie in one cell, that of the part with the larger number counts.
    """
    identities.fill_(UNKNOWN)
    first, k = 0, model.places
    bar = progress(len(images), shown=processes.rank() == 0, desc="assigning parts", unit="image")
    with evaluating(model) as device, bar as advance:
        for batch in in_order(images, images_at_once(images), device):
            at = on_cpu(occurrences(model, model.encode(batch), used, steps).at)
            part = parts.cpu()[patterns.of(pieces_of(model, batch), at)]
            image, row, column = at
            cell = (image * identities.shape[1] + row // k) * identities.shape[2] + column // k
            last = len(cell) - 1 - first_of_each(cell.flip(0))  # an assignment with equal indices has no order
            identities.view(-1)[first * identities[0].numel() + cell[last]] = part[last].to(identities.dtype)
            first += len(batch)
            advance(len(batch))


def sure_occurrences(model: PatchVAE, posterior: PatchPosterior, part: int) -> Places:
    """Of each cell in which the part occurs with a probability above SURE, the most probable place."""
    image, row, column = (posterior.occurrence[:, part] > SURE).nonzero().T
    if posterior.places is None:
        return image, row, column
    return image, *most_probable_places(posterior.places[:, [part]], model.places, image, 0, row, column)


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


def read_by_logits(
    model: PatchVAE, features: Tensor, at: Places, occupied: Places, generator: torch.Generator
) -> Tensor:
    """What a logit is computed from, (m + o, F): features (n, C, h, w) around m places and at o random other ones.

    There are OTHERS of these, or fewer, and none of them is occupied.
    """
    size = model.occurrence_head.kernel_size[0]
    windows = functional.pad(features, (size // 2,) * 4).unfold(2, size, 1).unfold(3, size, 1)
    taken = torch.zeros(len(features), *features.shape[2:], dtype=torch.bool)
    taken[on_cpu(occupied)] = True
    free = (~taken).nonzero()
    free = free[torch.randperm(len(free), generator=generator)[:OTHERS]].to(features.device)
    image, row, column = (torch.cat(pair) for pair in zip(at, free.T, strict=True))
    return windows[image, :, row, column].float().flatten(1)


def fitted_logits(
    model: PatchVAE, read: Tensor, part: Tensor, parts: Tensor, step: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Weight (K, C, k, k) and bias (K,) of the occurrence logits of K parts, by logistic regression.

    Of the rows of `read` (m + o, F), the first m show their part (m,), one of the parts (K,), and the others none: one
    regression of K + 1 classes for categorical occurrences, K of two classes for independent ones. The penalty is on
    the difference from the weights of the first of the parts, which are shifted by a step.
    """
    head, categorical = model.occurrence_head, model.bottleneck.occurrence == "categorical"
    count = len(parts)
    target = part.new_full((len(read),), count)
    target[: len(part)] = (part[:, None] == parts).int().argmax(1)
    own_weight, own_bias = head.weight[parts[0]], head.bias[parts[0]]
    down, right = step
    own_weight = shifted(own_weight, -down, -right)  # reads the same places, where it reaches them
    own = read @ own_weight.flatten() + own_bias
    occurring = read[: len(part)]
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


def become_variants(model: PatchVAE, parts: Tensor, step: tuple[int, int], generator: torch.Generator) -> None:
    """Gives parts (K,) the weights of the first of them, with noise, and all of them its picture moved by a step."""
    first, others = parts[0], parts[1:]
    if any(step):
        pictures = _pictures(model, model.decoder.code_weight)
        pictures[first] = shifted(pictures[first], *(-places * model.encoder.scale for places in step))
    for weights in _by_part(model, nn.Parameter.detach):
        spread = weights[first].std(correction=0) if weights[first].numel() > model.part_dim else 0.0
        noise = torch.randn(weights[others].shape, generator=generator).to(weights)
        weights[others] = weights[first] + SPREAD * spread * noise


def first_of_each(keys: Tensor) -> Tensor:
    """The index of the first of each group of equal keys (m,)."""
    values, group = keys.unique(return_inverse=True)
    return torch.full_like(values, len(keys)).scatter_reduce(
        0, group, torch.arange(len(keys), device=keys.device), "amin"
    )


def fit_pictures(
    model: PatchVAE, pixels: Tensor, posterior: PatchPosterior, found: SureOccurrences, part: Tensor
) -> None:
    """Fits the decoder's weights to pixels (n, C, H, W), with m occurrences drawn by new parts (m,) at their centres.

    posterior: of the same images, before parts were assigned anew. Minimises the squared error.
    """
    k, (height, width) = model.places, model.grid
    before = posterior.code.unflatten(1, (model.num_parts, -1))
    setting = {name: value.clone() for name, value in model.setting(posterior).items()}
    image, (_, row, column), (_, to_row, to_column) = found.found[0], found.found, found.at
    # A cell has one occurrence of a part: of two that are moved into it, the first one.
    first = first_of_each(((image * model.num_parts + part) * height + to_row // k) * width + to_column // k)
    drawn = before[image, found.part, :, row // k, column // k][first]
    image, part, to_row, to_column = (x[first] for x in (image, part, to_row, to_column))
    code = torch.zeros_like(before)
    code[image, part, :, to_row // k, to_column // k] = drawn
    if "places" in setting:
        setting["places"].zero_()
        setting["places"][image, part, to_row, to_column] = 1
    few = evenly_spaced(len(pixels), FITTED)
    code, pixels = code[few].flatten(1, 2), pixels[few]
    setting = {name: value[few] for name, value in setting.items()}
    weight = model.decoder.code_weight
    optimiser = torch.optim.Adam([weight], lr=FITTING_RATE)
    for _ in range(FITTING_STEPS):
        with torch.enable_grad(), in_evaluation(model):
            error = (model.decode(code, **setting) - pixels).square().sum() / len(pixels)
            (weight.grad,) = torch.autograd.grad(error, weight)
        optimiser.step()
    weight.grad = None


def restart_moments(model: PatchVAE, optimiser: torch.optim.Optimizer, parts: Tensor) -> None:
    """Sets Adam's moments of parts that were assigned anew: the first to 0, the second to those of the first part.

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
    pictures = of(model.decoder.code_weight)
    return views if pictures is None else [*views, _pictures(model, pictures)]


def _pictures(model: PatchVAE, weights: Tensor) -> Tensor:
    """The decoder's weights, their gradient or a moment of it, by the part that they draw: a view (N, …)."""
    return weights.transpose(0, model.decoder.code_axis).unflatten(0, (model.num_parts, -1))


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
def retire_duplicates(model: PatchVAE, images: np.ndarray, alike: float, identities: Tensor) -> list[tuple[int, int]]:
    """For every two used parts whose pictures have a similarity of at least `alike`, retires the less frequent one.

    The mean picture, weighted by use, is subtracted first: what all parts have in common, such as one palette, does not
    make any two of them duplicates. Nor are two parts that together occur more than MUCH times as often as the mean of
    used parts: they would show several patterns. A retired part occurs nowhere, so that the other part takes over,
    in `identities` (n, h, w), too. Returns pairs (retired part, remaining part), the most similar first.
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
        identities[identities == less] = more
        retired[less] = more
    return list(retired.items())
