"""Evaluation of trained models: reconstructions, and discovered parts."""

from accel.evaluation.discovery import Discovery, discover, discover_by_clustering, part_average_precision, untrained
from accel.evaluation.measures import measure, observe
from accel.evaluation.occurrences import (
    Locations,
    Occurrences,
    consistency,
    crop_patches,
    find_occurrences,
    locate_parts,
    occurrence_maps,
    receptive_field,
)
from accel.evaluation.quality import psnr, ssim
from accel.evaluation.summary import summary

__all__ = [
    "Discovery",
    "Locations",
    "Occurrences",
    "consistency",
    "crop_patches",
    "discover",
    "discover_by_clustering",
    "find_occurrences",
    "locate_parts",
    "measure",
    "observe",
    "occurrence_maps",
    "part_average_precision",
    "psnr",
    "receptive_field",
    "ssim",
    "summary",
    "untrained",
]
