"""Places of parts within their cells, on tensors; the equations are in reference/placement.py."""

import math

import torch
from torch import Tensor

from .noise import Noise, place_noise
from .occurrence import bounded


def places_of_cells(maps: Tensor, k: int) -> Tensor:
    """Rearranges a map of the finer grid (B, C, h·k, w·k) by cells and places: (B, C, h·w, k²), both row by row."""
    cells = maps.unflatten(3, (-1, k)).unflatten(2, (-1, k))  # (B, C, h, k, w, k)
    return cells.transpose(3, 4).flatten(4).flatten(2, 3)


def map_of_places(cells: Tensor, k: int, grid: tuple[int, int]) -> Tensor:
    """The inverse of `places_of_cells` for h × w = grid cells."""
    return cells.unflatten(3, (k, k)).unflatten(2, grid).transpose(3, 4).flatten(4).flatten(2, 3)


def most_probable_places(
    places: Tensor, k: int, image: Tensor, part: Tensor | int, row: Tensor, column: Tensor
) -> tuple[Tensor, Tensor]:
    """For m cells, the row and column of the most probable place in each on the finer grid: int64 (m,) each.

    places: a map (B, N, h·k, w·k). image, part, row, column: the cells' indices, (m,) each; part may be a number.
    """
    cell = row * (places.shape[3] // k) + column
    place = places_of_cells(places, k)[image, part, cell].argmax(1)
    return row * k + place // k, column * k + place % k


def split_places(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (B, N, L, K) of places → logits of parts, A (B, N, L), and log q (B, N, L, K) of their places."""
    logits = bounded(logits)
    peak = logits.detach().amax(3, keepdim=True)
    relative = logits - peak
    total = relative.logsumexp(3, keepdim=True)
    return (peak + total).squeeze(3), relative - total


def sample_place(log_q: Tensor, temperature: float | Tensor, noise: Noise | None, straight_through: bool) -> Tensor:
    """s (B, N, L, K): the relaxed sample, or the discrete one with the relaxed gradient; q without noise."""
    if noise is None:
        return log_q.exp()
    argument = log_q - torch.log(-torch.log(place_noise(noise, *log_q.shape, device=log_q.device, dtype=log_q.dtype)))
    s = (argument / temperature).softmax(3)
    if straight_through:
        s = torch.zeros_like(s).scatter(3, argument.argmax(3, keepdim=True), 1.0) + (s - s.detach())
    return s


def place_divergence(probability: Tensor, log_q: Tensor) -> Tensor:
    """KL_place (B,) in nats; probability (B, N, L) that the part occurs."""
    return (probability * (log_q.exp() * (log_q + math.log(log_q.shape[3]))).sum(3)).sum((1, 2))


def place(code: Tensor, places: Tensor) -> Tensor:
    """Multiplies a code (B, N·D, h, w) by a map of places (B, N, h·k, w·k): (B, N·D, h·k, w·k)."""
    k, parts = places.shape[2] // code.shape[2], places.shape[1]
    finer = code.repeat_interleave(k, 2).repeat_interleave(k, 3)
    return (finer.unflatten(1, (parts, -1)) * places[:, :, None].to(code.dtype)).flatten(1, 2)
