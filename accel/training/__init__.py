"""Training: configuration, training step, training loop, and run folders that can be resumed."""

from typing import TYPE_CHECKING, Any

from accel.training.config import TrainingConfig

if TYPE_CHECKING:
    from accel.training.loop import train
    from accel.training.recipes import config_for
    from accel.training.run_folder import load_run

__all__ = ["TrainingConfig", "config_for", "load_run", "train"]


def __getattr__(name: str) -> Any:
    # PyTorch takes seconds to import, and neither `--help` nor a misspelled option needs it.
    if name == "train":
        from accel.training.loop import train

        return train
    if name == "config_for":
        from accel.training.recipes import config_for

        return config_for
    if name == "load_run":
        from accel.training.run_folder import load_run

        return load_run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
