"""Pictures of what a model does, as matplotlib Figures; they need the extra `images`."""

from accel.figures.parts import parts
from accel.figures.reconstructions import reconstructions

__all__ = ["parts", "reconstructions"]
