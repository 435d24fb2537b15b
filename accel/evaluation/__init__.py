"""How good a trained model is: its reconstructions, and the parts that it has found."""

from accel.evaluation.discovery import Discovery, discover, occurrence_maps, part_average_precision
from accel.evaluation.quality import psnr, ssim
from accel.evaluation.summary import reconstruction_quality, summary

__all__ = [
    "Discovery",
    "discover",
    "occurrence_maps",
    "part_average_precision",
    "psnr",
    "reconstruction_quality",
    "ssim",
    "summary",
]
