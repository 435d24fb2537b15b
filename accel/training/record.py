"""record.json: versions, devices and data of a run, and digests that show whether it can be repeated."""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import NotRequired, TypedDict

import torch
from torch import nn

from accel.common.files import read_json, write_whole
from accel.data import Dataset
from accel.data.digests import difference, digests
from accel.training import processes
from accel.training.checkpoint import writing

NAME = "record.json"
FIRST = 3  # number of first steps whose result is recorded
PACKAGES = ("torch", "numpy", "triton", "pillow")
SOURCE = Path(__file__).parents[2]


class Session(TypedDict):
    """One session of a run: a process, or a group of processes, that trained for some time.

    began: local time. step: first step. versions: of Python, of packages and of this code (`git`, None outside of a
    repository). device: name of the device; threads: on a CPU; processes: their number.
    """

    began: str
    step: int
    command: list[str]
    device: str
    threads: int
    processes: int
    versions: dict[str, str | None]


class Steps(TypedDict):
    """The number of first steps, their mean loss, and the SHA-256 of all weights after them."""

    steps: int
    loss: float | None
    weights: str


class Record(TypedDict):
    """record.json."""

    data: dict[str, str]
    sessions: list[Session]
    first: NotRequired[Steps]


def processor() -> str:
    """The name of the CPU, if the system reports it."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(": ")[1] for line in lines if line.startswith("model name")), model)
    return model


def machine() -> dict[str, str]:
    """Device and versions."""
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "device": f"{len(gpus)} × {gpus[0]}" if gpus else f"{os.cpu_count()} cores of {processor()}",
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def session(device: torch.device, step: int) -> Session:
    """A record of this process as a session that begins at a step."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    versions["git"] = commit()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else machine()["device"]
    return {
        "began": time.strftime("%Y-%m-%d %H:%M:%S"),
        "step": step,
        "command": sys.argv,
        "device": name,
        "threads": torch.get_num_threads(),
        "processes": processes.count(),
        "versions": versions,
    }


def commit() -> str | None:
    """The git commit of this code, with a + if files differ from it; None outside of a repository, or without git."""

    def ask(*words: str) -> str:
        command = ["git", "-C", str(SOURCE), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        if not (SOURCE / ".git").exists():
            return None
        return ask("rev-parse", "HEAD") + ("+" if ask("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def digest_of(networks: nn.Module) -> str:
    """SHA-256 of all parameters and buffers, names included."""
    code = hashlib.sha256()
    for name, value in networks.state_dict().items():
        code.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        code.update(value.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return code.hexdigest()


def read(folder: Path) -> Record | None:
    """The record of a run; None for runs of earlier versions."""
    return read_json(folder / NAME, Record) if (folder / NAME).exists() else None


def refuse_other_images(folder: Path, dataset: Dataset) -> None:
    """Raises ValueError unless a data set has the images that the run in the folder was trained on."""
    known = read(folder)
    if known is None:  # runs of earlier versions have no record of their images
        return
    images = {name: value for name, value in known["data"].items() if name.endswith("images")}
    if found := difference(images, digests(dataset, labels=False)):
        raise ValueError(f"{dataset.name} does not hold the images that the run in {folder} was trained on: {found}")


def write(folder: Path, record: Record) -> None:
    """Replaces the record; raises OSError with a sentence."""
    with writing(folder / NAME, folder):
        write_whole({folder / NAME: (json.dumps(record, indent=2) + "\n").encode()})
