"""Files written whole or not at all, and JSON files read with one sentence about what is wrong with them."""

import json
import os
from pathlib import Path
from typing import Any


def write_whole(files: dict[Path, bytes]) -> None:
    """Replaces each file by new contents; whatever happens, each path holds all of the old or all of the new.

    Nothing is replaced before everything is on the disk, so a full one leaves all of the old files.
    Raises OSError with the file's name.
    """
    partials = {path: path.with_name(path.name + ".partial") for path in files}
    try:
        for path, partial in partials.items():
            with partial.open("wb") as file:
                file.write(files[path])
                file.flush()
                os.fsync(file.fileno())
        for path, partial in partials.items():
            partial.replace(path)
    except OSError as error:
        error.filename = str(path)  # writing to an open file that fails does not say which
        raise
    finally:
        for partial in partials.values():
            partial.unlink(missing_ok=True)


def parse_json(text: str | bytes, path: Path, what: str = "JSON") -> Any:
    """The value of a JSON text; ValueError says that the file `path`, from which it was read, is not `what`."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path} is not {what}: {error}") from None


def read_json(path: Path, kind: type, holds: str | None = None, *, may_be_missing: bool = False) -> Any:
    """The dict or list that a JSON file holds.

    kind: dict or list. holds: what that is, for the error, by default a dict or a list. may_be_missing: a file that is
    not there counts as an empty one. Raises FileNotFoundError, or ValueError that names the file if it is not JSON or
    holds something else.
    """
    if may_be_missing and not path.is_file():
        return kind()
    value = parse_json(path.read_bytes(), path)
    if not isinstance(value, kind):
        raise ValueError(f"{path} must hold {holds or f'a {kind.__name__}'}, got {type(value).__name__}")
    return value
