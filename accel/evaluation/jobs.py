"""The runs that a table of the paper needs, and the missing steps of each.

The state of a run is in its folder, so an interrupted `reproduce` continues when the same command is given again.
"""

import dataclasses
from pathlib import Path
from typing import Any

from accel.evaluation import transfer_records
from accel.evaluation.tables import Row, Table, epochs_of
from accel.training.catalogue import SYSTEMS
from accel.training.config import TrainingConfig
from accel.training.refusals import refuse_other_options
from accel.training.run_folder import read_history

END_TO_END = "end-to-end"  # in place of a protocol of transfer


@dataclasses.dataclass(frozen=True)
class Job:
    """One run of training and the transfers from it.

    row: the row of the table, with the paper's figures. protocols: transfer protocols, or END_TO_END.
    """

    row: Row
    config: TrainingConfig
    protocols: tuple[str, ...]
    transfer_epochs: int

    @property
    def name(self) -> str:
        """Name for the terminal and the record of failures."""
        return f"{self.row.name}, seed {self.config.seed}"

    def results(self) -> dict[str, dict[str, Any]]:
        """{protocol: recorded result} of finished transfers."""
        asked = {"data": str(Path(self.config.data)), "seed": self.config.seed, "epochs": self.transfer_epochs}
        found = {}
        for entry in transfer_records.results(self.config.folder):
            if entry["protocol"] in self.protocols and asked.items() <= entry.items():
                found[entry["protocol"]] = entry
        return found

    def missing(self) -> list[str]:
        """Missing steps, with the training first; empty once all transfers are recorded."""
        done = self.results()
        protocols = [name for name in self.protocols if name not in done]
        return ["training", *protocols] if protocols else []

    def seconds(self) -> float:
        """Seconds that training and transfers have taken so far."""
        return sum(entry.get("seconds", 0.0) for entry in [*read_history(self.config.folder), *self.results().values()])


def plan(
    table: Table,
    out: Path,
    *,
    systems: tuple[str, ...] = (),
    seeds: int = 3,
    epochs: int | None = None,
    **options: Any,
) -> list[Job]:
    """The runs of a table, row by row, each with the seeds 0, 1, ….

    Args:
        out: the folder that contains the folders of all runs.
        systems: rows of Tables 1 and 2 to include, by default all; for the other tables, the systems for which the
            option is varied, by default patchvae.
        epochs: number of epochs of training and of each transfer, instead of the paper's.
        options: options of `TrainingConfig` for all rows; by default `data` is the table's. `weights`, only for the row
            supervised, is a file of torchvision's ResNet-18: the paper's encoder that was trained on ImageNet.

    Raises ValueError for a system that the table does not have, an option without effect, or a run in `out` that was
    trained with other options, so that its results do not belong to this table.
    """
    weights = options.pop("weights", None)
    options = (
        {"data": table.data} | table.options | {name: value for name, value in options.items() if value is not None}
    )
    training_epochs, transfer_epochs = epochs_of(options["data"]) if epochs is None else (epochs, epochs)
    jobs = []
    rows = rows_of(table, systems)
    if weights is not None and not any(row.imagenet for row in rows):
        raise ValueError(f"--weights has no effect: none of the chosen rows of {table.name} starts from weights")
    for row in rows:
        own = {"epochs": training_epochs} | options | row.options
        if row.imagenet:
            if weights is None:
                row = dataclasses.replace(row, paper={})
            else:
                own |= {"weights": weights, "epochs": 0}
        varied = [str(value) for option, value in row.options.items() if option != "system"]
        for seed in range(seeds):
            name = "-".join([own["system"], *varied, f"epochs-{own['epochs']}-{transfer_epochs}-seed-{seed}"])
            config = TrainingConfig(**own, seed=seed, out=str(out / name))
            if (config.folder / "config.json").is_file():
                refuse_other_options(config, TrainingConfig.from_json_file(config.folder / "config.json"))
            jobs.append(Job(row, config, (END_TO_END,) if row.end_to_end else table.protocols, transfer_epochs))
    return jobs


def rows_of(table: Table, systems: tuple[str, ...]) -> list[Row]:
    """The selected rows, each for one system; see `plan`."""
    known = tuple(row.options["system"] for row in table.rows if "system" in row.options)
    if known:
        if unknown := [system for system in systems if system not in known]:
            raise ValueError(f"{table.name} has no row {unknown[0]!r}, expected one or more of {', '.join(known)}")
        return [row for row in table.rows if not systems or row.options["system"] in systems]
    if other := [system for system in systems if system in SYSTEMS and SYSTEMS[system].model != "PatchVAE"]:
        raise ValueError(f"{table.name} varies an option of PatchVAE that {other[0]!r} does not have")
    systems = systems or ("patchvae",)
    return [
        dataclasses.replace(
            row,
            name=row.name if len(systems) == 1 else f"{system} {row.name}",
            options={"system": system} | row.options,
        )
        for system in systems
        for row in table.rows
    ]
