"""The lines of metrics.jsonl as event files for TensorBoard, if it is installed."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = "tensorboard"  # in a run's
IMAGES = ("train", "held_out")  # a chart's name begins with these, so that TensorBoard groups them


def summary_writer() -> Any:
    """The class that writes event files; ImportError with the command that installs it."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError("tensorboard is missing: pip install tensorboard") from error
    return SummaryWriter


def tag(name: str) -> str:
    """The name of a quantity's chart: train_total → train/total; temperature is unchanged."""
    group = next((images for images in IMAGES if name.startswith(f"{images}_")), None)
    return name if group is None else f"{group}/{name.removeprefix(f'{group}_')}"


class EventFiles:
    """Event files of a run, in `folder`/tensorboard: rewritten when a run starts or resumes, then extended every epoch.

    Rewriting removes points of steps that a killed run has lost, so that a resumed run has each point once.
    Raises ImportError with the command that installs tensorboard, or OSError.
    """

    def __init__(self, folder: Path, history: Sequence[Mapping[str, Any]]):
        writer = summary_writer()
        for old in (folder / FOLDER).glob("events.out.tfevents.*"):
            old.unlink()
        self.writer = writer(str(folder / FOLDER))
        for line in history:
            self.add(line)

    def add(self, line: Mapping[str, Any]) -> None:
        """Adds the numbers of a line of metrics.jsonl at its step, except those that were not finite."""
        for name, value in line.items():
            if name not in ("epoch", "step") and isinstance(value, (int, float)) and not isinstance(value, bool):
                self.writer.add_scalar(tag(name), value, line["step"])
        self.writer.flush()

    def close(self) -> None:
        """Closes the file. If the disk is full, the numbers are still in metrics.jsonl."""
        with contextlib.suppress(OSError):
            self.writer.close()
