"""Images from anywhere, as arrays, and from arrays to batches on a device."""

from .images import Dataset, ImageSet
from .parts import draw_parts

__all__ = ["Dataset", "ImageSet", "draw_parts"]
