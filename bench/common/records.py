"""Files of results, with machine and versions."""

import datetime
import json
import platform
import subprocess
import sys
from pathlib import Path

import torch

from accel.common.files import write_whole
from bench.common.timing import CUDA


def commit():
    """The checked-out commit, marked where files differ from it."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:  # no git here
        return "unknown"
    return result.stdout.strip() or "unknown"


def machine():
    """Device and versions."""
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    try:
        import triton

        versions["triton"] = triton.__version__
    except ImportError:
        pass
    device = torch.cuda.get_device_name() if CUDA else f"CPU, {torch.get_num_threads()} threads"
    return {"device": device, "cuda": torch.version.cuda, **versions, "commit": commit()}


def write(path, description, rows, **facts):
    """Writes results as JSON, with machine and versions; called after every row, in case of an interruption."""
    document = {
        "description": description,
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **machine(),
        **facts,
        "results": rows,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole({path: (json.dumps(document, indent=1) + "\n").encode()})
