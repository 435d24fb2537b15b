"""Atomic file writes, safe reading of untrusted files, and locks on folders."""

import contextlib
import errno
import json
import os
import socket
import stat
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from accel.common.describing import printable
from accel.common.schema import plain_type, refuse_other

LARGEST_TEXT = 1 << 28  # bytes of a file that is read as text or JSON
KINDS = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))
LOCK = ".lock"
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)


def write_whole(files: dict[Path, bytes]) -> None:
    """Replaces the content of each file atomically: a path always holds all of the old or all of the new content.

    No file is replaced before all new content is on the disk, so a full disk leaves all old files intact.
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
        error.filename = str(path)  # a failed write to an open file does not name the file
        raise
    finally:
        for partial in partials.values():
            with contextlib.suppress(OSError):  # of the folder, which has been reported already
                partial.unlink()


@contextlib.contextmanager
def writing_whole(path: Path) -> Iterator[TextIO]:
    """A text file to write, which replaces `path` at the end of the context, and leaves no trace after an error.

    Names of files may be written even if they are not Unicode. Raises OSError with the file's name.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        error.filename = error.filename if error.filename not in (None, str(partial)) else str(path)
        raise
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def is_zip(path: Path) -> bool:
    """Whether the file ends like a zip archive of one part; zipfile.is_zipfile raises BadZipFile for several."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:
        return False


def refuse_unusual(path: Path, largest: int | None = None) -> None:
    """Raises ValueError for a pipe, a device or a folder, a file of more than `largest` bytes, and an impossible name.

    Raises OSError, which names the path, if there is no such file, or for circular links.
    """
    try:
        status = os.stat(path)
    except ValueError as error:
        raise ValueError(f"{printable(path)} cannot be the name of a file: {error}") from None
    if not stat.S_ISREG(status.st_mode):
        kind = next((words for holds, words in KINDS if holds(status.st_mode)), "a device")
        raise ValueError(f"{path} is {kind}, expected a file")
    if largest is not None and status.st_size > largest:
        raise ValueError(f"{path} has {status.st_size:,} bytes, expected at most {largest:,}")


def read_file(path: Path, largest: int | None = LARGEST_TEXT) -> bytes:
    """The content of a file; raises as `refuse_unusual` before reading."""
    refuse_unusual(path, largest)
    return path.read_bytes()


def read_text(path: Path) -> str:
    """The content of a UTF-8 text file; ValueError, which names the file, for other encodings; else as `read_file`."""
    try:
        return read_file(path).decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text in UTF-8: {error.reason} at byte {error.start}") from None


def parse_json(text: str | bytes, path: Path, what: str = "JSON") -> Any:
    """Parses a JSON text that was read from `path`; ValueError says that the file is not `what`."""
    try:
        return json.loads(text)
    except ValueError as error:
        reason = str(error).split(";")[0]  # without advice to programmers
        raise ValueError(f"{path} is not {what}: {reason}") from None
    except RecursionError:
        raise ValueError(f"{path} is not {what}: it is nested too deeply") from None


def read_json(path: Path, kind: Any, *, may_be_missing: bool = False) -> Any:
    """The value that a JSON file holds.

    kind: its type, as in `schema.refuse_other`. may_be_missing: return an empty value if there is no such file.
    Raises OSError, or ValueError, which names the file, if it is not JSON or has another type.
    """
    if may_be_missing and not os.path.lexists(path):
        return plain_type(kind)()
    value = parse_json(read_file(path), path)
    refuse_other(value, kind, path)
    return value


@contextlib.contextmanager
def held(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """A lock on a folder: only one process at a time can be in this context; the lock of a dead process is released.

    wait: wait for the lock instead of raising an error. Without support for locks in Python or the file system, this
    does nothing. Raises BlockingIOError, which names the process that holds the lock, or OSError if the folder is not
    writable.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    path = folder / LOCK
    while True:
        try:
            file = path.open("a+")
        except OSError as error:
            raise OSError(f"{folder} cannot be written to ({error.strerror})") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.seek(0)
            holder = file.read(200).strip() or "another process"
            file.close()
            raise BlockingIOError(f"{folder} is in use by {holder}: wait for it or stop it") from None
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                raise
            break
        if _same(file.fileno(), path):
            break
        file.close()  # whose holder has removed it meanwhile
    with file:
        holder = f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}"
        with contextlib.suppress(OSError):  # a full disk, where the lock works nevertheless
            os.truncate(file.fileno(), 0)
            os.write(file.fileno(), holder.encode())
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # the folder may have been removed
                path.unlink()


def _same(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
