"""transfer.json: what was recorded of the transfers from a run."""

import json
from pathlib import Path

from accel.common.files import parse_json, write_whole

NAME = "transfer.json"
RECORDED = {"protocol", "data", "seed", "epochs", "last_top1"}  # in every entry at least


def results(folder: str | Path) -> list[dict]:
    """What `transfer` has recorded in a run folder, the oldest first."""
    path = Path(folder) / NAME
    if not path.is_file():
        return []
    values = parse_json(path.read_bytes(), path)
    try:
        entries = values["results"]
        if lacking := set().union(*(RECORDED - entry.keys() for entry in entries)):
            raise ValueError(f"an entry lacks {', '.join(sorted(lacking))}")
        return entries
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not the record of a run's transfers ({error})") from None


def record(folder: Path, entry: dict) -> None:
    """Adds an entry to transfer.json, in place of one of the same protocol, data, seed, length and parameters."""
    same = ("protocol", "data", "seed", "epochs", "parameters")
    kept = [old for old in results(folder) if any(old.get(name) != entry[name] for name in same)]
    text = json.dumps({"results": [*kept, entry]}, indent=2) + "\n"
    write_whole({folder / NAME: text.encode()})
