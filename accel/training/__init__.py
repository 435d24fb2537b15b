"""Training runs: their configuration, the step, the loop, and folders that can be resumed."""

from typing import TYPE_CHECKING

from accel.training.config import TrainingConfig

if TYPE_CHECKING:
    from accel.training.loop import load_run, train

__all__ = ["TrainingConfig", "load_run", "train"]


def __getattr__(name: str):
    # PyTorch takes seconds to import, and neither `--help` nor a misspelled option needs it.
    if name in ("load_run", "train"):
        from accel.training import loop

        return getattr(loop, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
