"""Effects of appearances: swaps between images, interpolations, and traversals of dimensions (paper, figure 5)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from accel.evaluation import Occurrences, find_occurrences
from accel.figures.canvas import enlarge, heat, mosaic
from accel.figures.parts import overlay
from accel.figures.reconstructions import as_images, code_of
from accel.training.held_out import OCCURS, evaluating, in_order

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@torch.no_grad()
def swap_appearance(model: nn.Module, source: Tensor, targets: Tensor, part: int) -> tuple[Tensor, Tensor]:
    """Reconstructions of targets, and reconstructions with the appearance of `part` in the source.

    source: (1, C, H, W); targets: (B, C, H, W), uint8 or in [−1, 1]. Occurrences do not change. Returns two tensors
    (B, C, H, W) in [−1, 1].
    """
    new, posterior = model.encode(source).appearance_mean, model.encode(targets)
    appearance = posterior.appearance_mean.clone()
    appearance[:, part] = new[:, part]
    codes = posterior.code, code_of(appearance, posterior.occurrence).to(posterior.code.dtype)
    before, after = (model.decode(code, **model.setting(posterior)) for code in codes)
    return before, after


@torch.no_grad()
def vary_appearance(model: nn.Module, image: Tensor, part: int, appearances: Tensor) -> Tensor:
    """Reconstructions of an image with each of several appearances of one part.

    image: (1, C, H, W), uint8 or in [−1, 1]; appearances: (K, D). Returns (K, C, H, W) in [−1, 1].
    """
    posterior = model.encode(image)
    every = posterior.appearance_mean.repeat(len(appearances), 1, 1)
    every[:, part] = appearances
    code = code_of(every, posterior.occurrence.expand(len(every), -1, -1, -1)).to(posterior.code.dtype)
    setting = {name: x.expand(len(every), -1, -1, -1) for name, x in model.setting(posterior).items()}
    return model.decode(code, **setting)


def most_different(vectors: np.ndarray) -> tuple[int, np.ndarray]:
    """Of vectors (K, M), the first of the two most distant, and the order of all by distance from it, descending."""
    squared = ((vectors[:, None] - vectors) ** 2).sum(-1)
    first = int(np.unravel_index(squared.argmax(), squared.shape)[0])
    return first, np.argsort(-squared[first], kind="stable")


def _live(found: Occurrences) -> list[int]:
    """Parts that occur, by descending information; the first of all parts if none occurs."""
    return [int(part) for part in found.order if not found.dead[part]] or [int(found.order[0])]


def _where_it_occurs(found: Occurrences, part: int) -> np.ndarray:
    """Indices of the images where a part is most probable; only those where it occurs, if there are at least two."""
    images = found.image[part]
    occurs = images[found.probability[part] > OCCURS]
    return occurs if len(occurs) > 1 else images


def _posteriors(model: nn.Module, images: np.ndarray):
    with evaluating(model) as device:
        (batch,) = in_order(images, len(images), device)
        return batch, model.encode(batch)


def swaps(
    model: nn.Module, images: np.ndarray, *, rows: int = 6, targets: int = 2, found: Occurrences | None = None
) -> "Figure":
    """A Figure like the paper's figure 5: a part's appearance in a source image, transferred to target images.

    model: a PatchVAE. images: uint8 (n, H, W, C), n ≥ 2. For each of at most `rows` parts, source and targets are the
    images with the most different appearances, among those where the part is most probable and occurs. found: the
    result of `find_occurrences` on the images, if available. Raises ImportError if matplotlib is missing.
    """
    found = found or find_occurrences(model, images)
    tiles, labels, changes = [], [], []
    for part in _live(found)[:rows]:
        surest = images[_where_it_occurs(found, part)]
        batch, posterior = _posteriors(model, surest)
        source, others = most_different(posterior.appearance_mean[:, part].cpu().numpy())
        chosen = torch.as_tensor(others[: min(targets, len(surest) - 1)].copy(), device=batch.device)
        with evaluating(model):
            before, after = swap_appearance(model, batch[source : source + 1], batch[chosen], part)
        change = (after - before).float().abs().mean(1).cpu().numpy() / 2
        maps = posterior.occurrence[:, part].cpu().numpy()
        for row, target in enumerate(chosen.tolist()):
            pictures = [as_images(x[row : row + 1])[0] for x in (before, after)]
            seen = [enlarge(surest[source]), overlay(surest[source], maps[source])]
            seen += [enlarge(surest[target]), overlay(surest[target], maps[target])]
            tiles.append(seen + [enlarge(picture) for picture in pictures])
            changes.append(change[row])
            labels.append(f"part {part}")
    largest = max(max(change.max() for change in changes), 1e-6)
    for row, change in zip(tiles, changes, strict=True):
        row.append(enlarge(heat(change / largest)))
    return mosaic(
        tiles,
        labels,
        headers=["source", "source map", "target", "target map", "before", "after", "difference"],
        title="Appearance of one part transferred to other images",
        text="The appearance of the part in the source image replaces its appearance in the target image; its "
        "occurrences stay the same. Before and after are reconstructions of the target. Difference: from black (none) "
        f"to white ({largest:.2f} of the pixel range).",
    )


def interpolations(
    model: nn.Module, images: np.ndarray, *, rows: int = 8, steps: int = 8, found: Occurrences | None = None
) -> "Figure":
    """A Figure of reconstructions that interpolate between two appearances, one row per part.

    Each row takes the two most different appearances among the images where the part is most probable; the first image
    is reconstructed with appearances between the two. For models without parts, like BetaVAE, it interpolates between
    the codes of two images. images: uint8 (n, H, W, C), n ≥ 2. Raises ImportError if matplotlib is missing.
    """
    tiles, labels = [], []
    if model.has_parts:
        found = found or find_occurrences(model, images)
        for part in _live(found)[:rows]:
            surest = images[_where_it_occurs(found, part)]
            batch, posterior = _posteriors(model, surest)
            appearance = posterior.appearance_mean[:, part]
            first, others = most_different(appearance.cpu().numpy())
            way = torch.linspace(0, 1, steps, device=batch.device)[:, None]
            between = appearance[first] + way * (appearance[int(others[0])] - appearance[first])
            with evaluating(model):
                drawn = vary_appearance(model, batch[first : first + 1], part, between)
            tiles.append([surest[first], *as_images(drawn), surest[int(others[0])]])
            labels.append(f"part {part}")
        text = (
            "Reconstructions of the first image in which the appearance of one part moves in equal steps to its "
            "appearance in the last image; everything else stays the same."
        )
    else:
        batch, posterior = _posteriors(model, images[: 2 * rows])
        way = torch.linspace(0, 1, steps, device=batch.device, dtype=posterior.code.dtype)[:, None]
        for one in range(0, len(batch) - 1, 2):
            between = posterior.code[one] + way * (posterior.code[one + 1] - posterior.code[one])
            with evaluating(model):
                tiles.append([images[one], *as_images(model.decode(between)), images[one + 1]])
            labels.append(f"pair {one // 2 + 1}")
        text = "Decoded codes, in equal steps from the code of the first image to that of the last."
    return mosaic(
        [[enlarge(image) for image in row] for row in tiles],
        labels,
        headers=["from", *[f"{share:.0%}" for share in np.linspace(0, 1, steps)], "to"],
        title="From one appearance to another" if found else "From one image to another",
        text=text,
    )


def traversals(
    model: nn.Module,
    images: np.ndarray,
    *,
    rows: int = 12,
    values: Sequence[float] = range(-3, 4),
    found: Occurrences | None = None,
) -> "Figure":
    """A Figure with a row for each dimension of an appearance, which varies over the range of the prior.

    Parts are sorted by information, each in the image where it is most probable. For models without parts, like
    BetaVAE, it shows the code dimensions with the largest deviation, in the first image. values: in standard deviations
    of the prior from its mean. images: uint8 (n, H, W, C). Raises ImportError if matplotlib is missing.
    """
    tiles, labels = [], []
    amounts = torch.tensor([float(value) for value in values])
    if model.has_parts:
        found = found or find_occurrences(model, images)
        for part in _live(found):
            image = images[found.image[part, :1]]
            batch, posterior = _posteriors(model, image)
            for number in range(min(model.part_dim, rows - len(tiles))):
                every = posterior.appearance_mean[0, part].repeat(len(amounts), 1)
                every[:, number] = model.bottleneck.appearance_prior_mean + amounts.to(every)
                with evaluating(model):
                    tiles.append([image[0], *as_images(vary_appearance(model, batch, part, every))])
                labels.append(f"part {part}" + (f"\ndimension {number}" if model.part_dim > 1 else ""))
    else:
        batch, posterior = _posteriors(model, images[:256])
        spread = posterior.code.std(0, correction=0)
        for number in spread.argsort(descending=True, stable=True)[:rows].tolist():
            code = posterior.code[:1].repeat(len(amounts), 1)
            code[:, number] = amounts.to(code)
            with evaluating(model):
                tiles.append([images[0], *as_images(model.decode(code))])
            labels.append(f"dimension {number}\ndeviation {spread[number]:.2f}")
    return mosaic(
        [[enlarge(image) for image in row] for row in tiles],
        labels,
        headers=["image", *[f"{value:+g} σ".replace("-", "−") if value else "mean" for value in values]],
        title="Effect of single code dimensions" if not found else "Effect of single appearance dimensions",
        text="Reconstructions of the image on the left in which one dimension of its code is set to the given number "
        "of standard deviations from the mean of the prior, and all others stay the same.",
    )
