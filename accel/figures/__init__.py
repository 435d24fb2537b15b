"""Figures of models and runs, made with matplotlib; they need the extra `images`."""

from accel.figures.appearances import interpolations, swap_appearance, swaps, traversals, vary_appearance
from accel.figures.curves import discovery_bars, reproduction_bars, training_curves, transfer_bars
from accel.figures.parts import gallery, part_statistics, parts
from accel.figures.pictures import closing_pictures, pictures, write_pictures
from accel.figures.reconstructions import aggregated_samples, reconstructions, samples, weight_masks

__all__ = [
    "aggregated_samples",
    "closing_pictures",
    "discovery_bars",
    "gallery",
    "interpolations",
    "part_statistics",
    "parts",
    "pictures",
    "reconstructions",
    "reproduction_bars",
    "samples",
    "swap_appearance",
    "swaps",
    "training_curves",
    "transfer_bars",
    "traversals",
    "vary_appearance",
    "weight_masks",
    "write_pictures",
]
