"""Results of a reproduced table, as plain data and as Markdown."""

import statistics
from typing import Any

from accel.evaluation.jobs import END_TO_END, Job
from accel.evaluation.tables import Table
from accel.training.record import machine


def collect(table: Table, jobs: list[Job], failures: dict[str, str]) -> dict[str, Any]:
    """A table as plain data: for every cell the values by seed, their mean and standard deviation."""
    by_row = {job.row.name: [other for other in jobs if other.row.name == job.row.name] for job in jobs}
    first = jobs[0].config
    rows = []
    for name, own in by_row.items():
        paper = own[0].row.paper.get(first.data, (None,) * len(table.columns))
        rows.append(
            {
                "name": name,
                "cells": {
                    title: _cell(own, *column, figure)
                    for (title, column), figure in zip(table.columns.items(), paper, strict=True)
                },
                "seconds": statistics.mean(job.seconds() for job in own),
                "failures": {job.config.seed: failures[job.name] for job in own if job.name in failures},
            }
        )
    return {
        "table": table.name,
        "caption": table.caption,
        "data": first.data,
        "seeds": len({job.config.seed for job in jobs}),
        "epochs": max(job.config.epochs for job in jobs),
        "transfer_epochs": jobs[0].transfer_epochs,
        "rows": rows,
        "machine": machine(),
    }


def _cell(jobs: list[Job], protocol: str, last: str, selected: str, paper: float | None) -> dict[str, Any]:
    results = [job.results().get(END_TO_END if job.row.end_to_end else protocol, {}) for job in jobs]
    cell: dict[str, Any] = {"paper": paper}
    for choice, measure in (("last", last), ("selected", selected)):
        values = [result[measure] for result in results if measure in result]
        cell[choice] = {
            "values": values,
            "mean": statistics.mean(values) if values else None,
            "deviation": statistics.stdev(values) if len(values) > 1 else None,
        }
    return cell


def markdown(result: dict[str, Any]) -> str:
    """A table of accuracies after the last epoch, and one after the epoch selected on held-out images."""
    titles = list(result["rows"][0]["cells"])
    lines = [f"# {result['table'].replace('table', 'Table ')}: {result['caption']}", ""]
    seeds = f"{result['seeds']} seed" + ("s" if result["seeds"] > 1 else "")
    lines += [
        f"{result['data']}; {seeds}; epochs: {result['epochs']} of training, {result['transfer_epochs']} of transfer; "
        f"{result['machine']['device']}, PyTorch {result['machine']['torch']}.",
        "Percent, mean ± standard deviation over the seeds ('of n': only n have finished); in brackets the paper's.",
        "",
        f"    {result['command']}",
        "",
    ]
    headings = {"last": "After the last epoch", "selected": "After the epoch selected on a held-out tenth"}
    for choice, heading in headings.items():
        lines += [
            f"## {heading}",
            "",
            "| | " + " | ".join(titles) + " | seconds per run |",
            "|---|" + "---:|" * (len(titles) + 1),
        ]
        for row in result["rows"]:
            cells = [_text(cell[choice], cell["paper"], result["seeds"]) for cell in row["cells"].values()]
            lines.append("| " + " | ".join([row["name"], *cells, f"{row['seconds']:.1f}"]) + " |")
        lines.append("")
    for row in result["rows"]:
        lines += [f"{row['name']}, seed {seed}: {problem}" for seed, problem in row["failures"].items()]
    return "\n".join(lines).rstrip() + "\n"


def _text(measured: dict[str, Any], paper: float | None, seeds: int) -> str:
    count = len(measured["values"])
    text = f"{measured['mean']:.2f}" if count else "–"
    if count > 1:
        text += f" ± {measured['deviation']:.2f}"
    if 0 < count < seeds:
        text += f" of {count}"
    return text + (f" ({paper:.2f})" if paper is not None else "")
