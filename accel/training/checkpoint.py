"""The state of an unfinished run as one file, whole whatever happens while it is written."""

from pathlib import Path
from typing import Any

from accel.models.storage import load_tensors, tensors_to_bytes, write_whole

NAME = "checkpoint.pt"
FORMAT = "patchvae training 1"  # changes when an older reader would misunderstand what is written


def exists(folder: Path) -> bool:
    """Whether the folder holds a run: its first checkpoint is written before anything else."""
    return (folder / NAME).exists()


def write(folder: Path, state: dict[str, Any]) -> None:
    """Writes tensors, numbers, strings and plain containers of them; raises OSError with a sentence."""
    path = folder / NAME
    try:
        write_whole({path: tensors_to_bytes({"format": FORMAT, **state})})
    except OSError as error:
        previous = "the previous checkpoint is whole" if path.exists() else "there is no earlier checkpoint"
        raise OSError(f"could not write {path} ({error.strerror}); {previous}") from error


def read(folder: Path) -> dict[str, Any]:
    """What `write` wrote, on the CPU, without executing anything from the file.

    Raises FileNotFoundError if there is none, ValueError if it is damaged or something else.
    """
    path = folder / NAME
    if not exists(folder):
        raise FileNotFoundError(f"{path}: no such file, so there is no run to resume in {folder}")
    state = load_tensors(path)
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ValueError(f"{path} is not a checkpoint of this version's training ({FORMAT!r})")
    return state
