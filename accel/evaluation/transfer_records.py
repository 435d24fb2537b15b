"""transfer.json: what was recorded of the transfers from a run."""

import json
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from accel.common.files import held, read_json, write_whole

NAME = "transfer.json"


class Entry(TypedDict):
    """What every entry holds at least."""

    protocol: str
    data: str
    seed: int
    epochs: int
    last_top1: float
    top5: NotRequired[float]
    selected_top1: NotRequired[float]
    selected_top5: NotRequired[float]
    selected_epoch: NotRequired[int]
    parameters: NotRequired[dict[str, Any]]
    seconds: NotRequired[float]


class Records(TypedDict):
    """transfer.json."""

    results: list[Entry]


def results(folder: str | Path) -> list[Entry]:
    """What `transfer` has recorded in a run folder, the oldest first; ValueError names the file if it is another."""
    return read_json(Path(folder) / NAME, Records, may_be_missing=True).get("results", [])


def record(folder: Path, entry: Entry) -> None:
    """Adds an entry to transfer.json, in place of one of the same protocol, data, seed, length and parameters."""
    same = ("protocol", "data", "seed", "epochs", "parameters")
    (folder / "transfer").mkdir(exist_ok=True)
    with held(folder / "transfer", wait=True):
        kept = [old for old in results(folder) if any(old.get(name) != entry[name] for name in same)]
        text = json.dumps({"results": [*kept, entry]}, indent=2) + "\n"
        write_whole({folder / NAME: text.encode()})
