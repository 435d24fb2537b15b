"""The public files of a run folder: config.json, metrics.jsonl and model/. See `checkpoint` for the others."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

from accel.common.files import parse_json, read_text, write_whole
from accel.common.schema import refuse_other
from accel.models.pretrained import Pretrained
from accel.training.checkpoint import writing
from accel.training.config import TrainingConfig
from accel.training.systems import model_class


class Line(TypedDict):
    """The required entries of each line of metrics.jsonl, besides the terms of the loss."""

    epoch: int
    seconds: float


CONFIG, HISTORY, MODEL = "config.json", "metrics.jsonl", "model"
LEFT_OUT = "left-out.txt"  # files of the data that could not be read, if there are any


def load_run(folder: str | Path) -> tuple[Pretrained, TrainingConfig]:
    """Loads (model, configuration) of a run: the model of its last complete epoch, on the CPU, in evaluation mode.

    No code in the files is executed. Raises FileNotFoundError if there is no such run, or ValueError, which names the
    file, if a file is damaged or has unexpected content.
    """
    folder = Path(folder)
    config = TrainingConfig.from_json_file(folder / CONFIG)
    return model_class(config.system).from_pretrained(folder / MODEL), config


def read_history(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl, one per epoch; an empty list if there is no such file.

    Raises ValueError, which names the file, if it has unexpected content.
    """
    path = folder / HISTORY
    texts = read_text(path).splitlines() if path.exists() else []
    lines = [parse_json(text, path, "one line of JSON per epoch") for text in texts]
    for number, line in enumerate(lines, start=1):
        refuse_other(line, dict[str, float | bool | None], f"{path}, line {number},")
        refuse_other(line, Line, f"{path}, line {number},")
    return lines


def write_texts(folder: Path, config: TrainingConfig, history: list[dict[str, Any]]) -> None:
    """Writes the configuration and one line per epoch; raises OSError that names the file."""
    lines = "".join(json.dumps(line) + "\n" for line in history)
    texts = {CONFIG: config.to_json(), HISTORY: lines}
    with writing(folder / HISTORY, folder):
        write_whole({folder / name: text.encode() for name, text in texts.items()})


def write_left_out(folder: Path, sentences: Sequence[str]) -> None:
    """Writes a line for each file of the data that was left out, if there are any; raises OSError with a sentence."""
    if sentences:
        with writing(folder / LEFT_OUT, folder):
            text = "".join(f"{sentence}\n" for sentence in sentences)
            write_whole({folder / LEFT_OUT: text.encode(errors="backslashreplace")})


def write_model(folder: Path, model: Pretrained) -> None:
    """Writes the model, for `load_run` and from_pretrained; raises OSError with a sentence."""
    with writing(folder / MODEL, folder):
        model.save_pretrained(folder / MODEL)
