"""Files of results, with machine and versions."""

import datetime
import json
import platform
import sys

import torch

from accel.common.files import write_whole
from accel.training.record import commit
from bench.common.timing import CUDA


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
