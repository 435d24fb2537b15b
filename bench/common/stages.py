"""Stages of a benchmark run: commands with time limits, the most important first, until the total time is over."""

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from accel.common.files import write_whole

ROOT = Path(__file__).parents[2]
GPU = "a CUDA device"
SHOWN = 40  # last lines of a stage's log that are printed
LEAST = 5.0  # seconds, less than which no stage is begun


@dataclass(frozen=True)
class Stage:
    """A command, run from the repository's root. seconds: its time limit. output: the file of its results, written
    continuously. needs: GPU, programs, modules and files without which it is skipped."""

    name: str
    command: list[str]
    seconds: float
    output: Path
    needs: tuple[str, ...] = ()


def lacking(need):
    """Whether a requirement is missing on this machine."""
    if need == GPU:
        return not torch.cuda.is_available()
    if os.sep in need:
        return not Path(need).exists()
    return shutil.which(need) is None and importlib.util.find_spec(need) is None


def end_group(leader):
    """Kills a process and its children."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader.pid, signal.SIGKILL)
    leader.wait()


def perform(stage, seconds, log):
    """(status, reason) of a stage with a time limit; its output goes to the file `log`."""
    with log.open("wb") as file:
        # A session of its own, by which its children can be ended with it.
        process = subprocess.Popen(
            stage.command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            return "timed out", f"after {seconds:.0f} s"
        finally:
            end_group(process)
    return ("failed", last_line(log) or f"exit status {status}") if status else ("done", "")


def last_line(log):
    lines = log.read_text(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def run(stages, folder, total):
    """Runs stages for at most `total` seconds and returns a row for each; the file of rows is always up to date."""
    began, rows = time.monotonic(), []
    for number, stage in enumerate(stages):
        start = time.monotonic()
        seconds = min(stage.seconds, total - (start - began))
        log = folder / f"{number:02}-{stage.name.replace(' ', '-')}.log"
        missing = [need for need in stage.needs if lacking(need)]
        if missing:
            status, why = "skipped", f"needs {' and '.join(missing)}"
        elif seconds < LEAST:
            status, why = "skipped", "no time is left"
        else:
            print(f"{stage.name}: $ {' '.join(stage.command)}", flush=True)
            status, why = perform(stage, seconds, log)
            print(*log.read_text(errors="replace").splitlines()[-SHOWN:], sep="\n", flush=True)
        found = next((path for path in (stage.output, log) if status != "skipped" and path.exists()), None)
        row = {"stage": stage.name, "status": status, "why": why, "seconds": time.monotonic() - start}
        rows.append(row | {"output": str(found) if found else None})
        write_whole({folder / "stages.json": (json.dumps(rows, indent=1) + "\n").encode()})
        print(f"{stage.name}: {status}{f' ({why})' if why else ''}, {row['seconds']:.0f} s", flush=True)
    return rows


def table(rows):
    lines = [f"\n{'stage':28} {'status':9} {'seconds':>7}  result, or why there is none"]
    for row in rows:
        told = "; ".join(filter(None, (row["why"][:90], row["output"])))
        lines.append(f"{row['stage']:28} {row['status']:9} {row['seconds']:7.0f}  {told}")
    return "\n".join(lines)
