"""PatchVAE: unsupervised discovery of parts in images, with fused GPU kernels.

    from accel import PatchVAE, BetaVAE, Noise, elbo

Names are imported when they are first used, so that what needs no model does not wait for PyTorch.
"""

import importlib

__version__ = "0.1.0"
__all__ = ["BetaVAE", "BottleneckOptions", "Noise", "PatchVAE", "elbo"]

_ROOMS = {
    "BetaVAE": "models",
    "BottleneckOptions": "common.bottleneck",
    "Noise": "ops",
    "PatchVAE": "models",
    "elbo": "models",
}


def __getattr__(name: str):
    if name not in _ROOMS:
        raise AttributeError(f"module 'accel' has no attribute {name!r}")
    return getattr(importlib.import_module(f"accel.{_ROOMS[name]}"), name)


def __dir__():
    return [*__all__, "__version__"]
