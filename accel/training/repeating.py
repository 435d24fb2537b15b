"""Repeats the first steps of a run, checks whether they are bit-identical, and reports differences of the setting."""

import math

import torch

from accel.common.describing import printable
from accel.data import Dataset
from accel.data.digests import difference
from accel.training.config import TrainingConfig
from accel.training.loop import Run
from accel.training.record import Record, digest_of, session


def differences(known: Record, device: torch.device) -> list[str]:
    """Sentences on all differences between this process and the sessions of the run."""
    here, found = session(device, 0), []
    for before in known["sessions"]:
        from_step = f"from step {before['step']}"
        for name in ("device", "threads", "processes"):
            if before[name] != here[name]:
                found.append(f"{from_step}: {name} was {printable(before[name])}, here {here[name]}")
        for name in before["versions"] | here["versions"]:
            if before["versions"].get(name) != here["versions"].get(name):
                was = printable(before["versions"].get(name))
                found.append(f"{from_step}: {printable(name)} was {was}, here {here['versions'].get(name)}")
    return list(dict.fromkeys(found))


def repeat(known: Record, config: TrainingConfig, dataset: Dataset) -> str | None:
    """Repeats the first steps of a run without writing files; returns the difference as text, or None."""
    run = Run(config, dataset)
    if found := difference(known["data"], run.data):
        return f"the data differ: {found}"
    first = known["first"]
    for number, batch in enumerate(run.batches.epoch(0), start=1):
        run.take_step(batch)
        if number == first["steps"]:
            break
    loss = run.step.ledger.means()["total"]
    if digest_of(run.system.networks) == first["weights"]:
        return None
    if first["loss"] is not None and math.isclose(loss, first["loss"], rel_tol=1e-3):
        return f"its first {first['steps']} steps differ only by rounding, the loss by {loss - first['loss']:.2g}"
    return f"the loss of its first {first['steps']} steps was {first['loss']}, here {loss:g}"
