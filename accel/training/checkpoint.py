"""Checkpoints: the state of an unfinished run in one file, which is written atomically."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict

from torch import Tensor

from accel.common.files import write_whole
from accel.common.schema import refuse_other
from accel.models.storage import load_tensors, tensors_to_bytes

NAME = "checkpoint.pt"
FORMAT = "patchvae training 6"  # to be increased when an older reader would misunderstand new files


class Moments(TypedDict):
    """The state of an optimiser, {index of a parameter: its state}, which `load_optimiser` checks."""

    state: dict[int, dict[str, Tensor]]


class Training(TypedDict):
    """The state of a `TrainingStep`."""

    number: int
    sums: Tensor
    networks: dict[str, Tensor]
    optimisers: dict[str, Moments]


class State(TypedDict):
    """The content of a checkpoint."""

    config: dict[str, str | float | bool | None]
    data: dict[str, str]
    epoch: int
    batch: int
    seconds: float
    history: list[dict[str, int | float | bool | None]]
    training: Training
    identities: Tensor | None


def exists(folder: Path) -> bool:
    """Whether the folder holds a run: its first checkpoint is written before anything else."""
    return (folder / NAME).exists()


@contextlib.contextmanager
def writing(path: Path, folder: Path | None = None) -> Iterator[None]:
    """Converts a failure to write a file of a run, such as a full disk, into an OSError that names the file.

    folder: of the run, if it is being trained, for a sentence on its last checkpoint.
    """
    try:
        yield
    except OSError as error:
        rest = "; the last checkpoint is intact, --resume continues from it" if folder and exists(folder) else ""
        raise OSError(f"could not write {error.filename or path} ({error.strerror or error}){rest}") from error


def write(folder: Path, state: dict[str, Any]) -> None:
    """Writes tensors, numbers, strings and plain containers of them; raises OSError with a sentence."""
    path = folder / NAME
    with writing(path, folder):
        write_whole({path: tensors_to_bytes({"format": FORMAT, **state})})


def read(folder: Path) -> State:
    """Reads a checkpoint onto the CPU, without executing code from the file.

    Raises FileNotFoundError if there is none, and ValueError if it is damaged or not a checkpoint. Model and optimisers
    check the shapes of their tensors when they load them.
    """
    path = folder / NAME
    if not exists(folder):
        raise FileNotFoundError(f"{path}: no such file, so there is no run to resume in {folder}")
    state = load_tensors(path)
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ValueError(f"{path} is not a training checkpoint of this version (format {FORMAT!r})")
    refuse_other(state, State, path)
    return state
