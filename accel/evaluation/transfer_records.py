"""transfer.json: recorded results of transfers from a run."""

import json
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from accel.common.files import held, read_json, write_whole

NAME = "transfer.json"
# Accuracies, and the keys under which those of the untrained encoder stand.
UNTRAINED_KEYS = {
    "last_top1": "untrained_top1",
    "selected_top1": "untrained_selected_top1",
    "top5": "untrained_top5",
}


class Entry(TypedDict):
    """An entry of transfer.json."""

    protocol: str
    data: str
    seed: int
    epochs: int
    last_top1: float
    top5: NotRequired[float]
    selected_top1: NotRequired[float]
    selected_top5: NotRequired[float]
    selected_epoch: NotRequired[int]
    untrained_top1: NotRequired[float]
    untrained_selected_top1: NotRequired[float]
    untrained_top5: NotRequired[float]
    parameters: NotRequired[dict[str, Any]]
    seconds: NotRequired[float]


class Records(TypedDict):
    """transfer.json."""

    results: list[Entry]


def results(folder: str | Path) -> list[Entry]:
    """The recorded results of `transfer` in a run folder, the oldest first; ValueError, which names an invalid file."""
    return read_json(Path(folder) / NAME, Records, may_be_missing=True).get("results", [])


def record(folder: Path, entry: Entry) -> None:
    """Adds an entry to transfer.json, replacing one with the same protocol, data, seed, epochs and parameters."""
    same = ("protocol", "data", "seed", "epochs", "parameters")
    (folder / "transfer").mkdir(exist_ok=True)
    with held(folder / "transfer", wait=True):
        kept = [old for old in results(folder) if any(old.get(name) != entry[name] for name in same)]
        text = json.dumps({"results": [*kept, entry]}, indent=2) + "\n"
        write_whole({folder / NAME: text.encode()})
