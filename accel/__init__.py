"""PatchVAE: unsupervised discovery of parts in images, with fused GPU kernels.

    from accel import PatchVAE, BetaVAE, Noise, elbo
    model = PatchVAE.from_pretrained("parts")  # trained, and part of the package

Names are imported on first use, so that code without models does not import PyTorch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accel.common.bottleneck import BottleneckOptions
    from accel.models import BetaVAE, PatchVAE, elbo
    from accel.ops import Noise

__version__ = "0.1.0"
__all__ = ["BetaVAE", "BottleneckOptions", "Noise", "PatchVAE", "elbo"]

_ROOMS = {
    "BetaVAE": "models",
    "BottleneckOptions": "common.bottleneck",
    "Noise": "ops",
    "PatchVAE": "models",
    "elbo": "models",
}


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module 'accel' has no attribute {name!r}")
    return getattr(importlib.import_module(f"accel.{_ROOMS[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
