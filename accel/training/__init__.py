"""Training: configuration, training step, training loop, and run folders that can be resumed."""

import importlib
from typing import TYPE_CHECKING, Any

from accel.training.config import TrainingConfig

if TYPE_CHECKING:
    from accel.training.loop import train
    from accel.training.recipes import config_for
    from accel.training.run_folder import load_run

__all__ = ["TrainingConfig", "config_for", "load_run", "train"]


_MODULES = {"config_for": "recipes", "load_run": "run_folder", "train": "loop"}


def __getattr__(name: str) -> Any:
    # PyTorch takes seconds to import, and neither `--help` nor a misspelled option needs it.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
