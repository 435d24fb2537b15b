"""Loading of images from all sources as arrays, and batches of them on a device."""

from accel.data.batches import Batch, Batches, epoch_flips, epoch_order
from accel.data.images import Dataset, ImageSet
from accel.data.parts import draw_parts
from accel.data.sources import load
from accel.data.torch_sets import from_torch

__all__ = ["Batch", "Batches", "Dataset", "ImageSet", "draw_parts", "epoch_flips", "epoch_order", "from_torch", "load"]
