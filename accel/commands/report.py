"""`report`: one or more runs in one HTML file."""

import argparse
import dataclasses
import datetime
import shlex
from pathlib import Path

from accel import __version__
from accel.commands import figures, measure
from accel.commands.finished import FinishedRunOptions, open_finished_run
from accel.common.files import read_json, refuse_unusual, write_whole
from accel.common.options import add_options, option

HELP = "write an HTML report of one or more runs, side by side"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportOptions(FinishedRunOptions):
    """The options of `report`."""

    out: str | None = option(
        None,
        "report",
        "file to write",
        absent="report.html in the run folder, or in the current folder for several runs",
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments and options of the command."""
    parser.add_argument("runs", metavar="RUN", nargs="+", help="folders of runs that were trained with train")
    add_options(parser, ReportOptions)


def run(given: dict) -> None:
    """Makes measures and figures that are missing or older than the model, then writes the report."""
    folders = [Path(name) for name in given.pop("runs")]
    options = ReportOptions(**given)
    out = Path(options.out) if options.out else (folders[0] if len(folders) == 1 else Path()) / "report.html"
    if out.exists():
        refuse_unusual(out)  # a device, of which root could make a file
    if out.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"{out} must end in .html")

    from accel.figures.report import html_report

    shared = {name: getattr(options, name) for name in ("device", "data", "data_dir")}
    for folder in folders:
        weights = folder / "model" / "weights.pt"
        if older(folder / "measures.json", weights):
            print(f"measuring {folder}", flush=True)
            settings = measure.MeasureOptions(**shared)
            measure.measure_run(open_finished_run(folder, settings), settings)
        sources = weights, folder / "measures.json", folder / "transfer.json"
        if older(folder / "figures" / "index.json", *sources):
            print(f"drawing {folder}", flush=True)
            figures.draw(folder, figures.FigureOptions(**shared))
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    command = shlex.join(["patchvae", "report", *map(str, folders)])
    made = f"{command}, patchvae {__version__}, {datetime.date.today()}"
    text = html_report([run_record(folder, name) for folder, name in zip(folders, names, strict=True)], made)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole({out: text.encode(errors="replace")})  # names of files need not be text
    print(f"{out}: {len(text) / 1e6:.1f} MB")


def older(made: Path, *sources: Path) -> bool:
    """Whether a file is missing, or older than one of its sources."""
    if not made.is_file():
        return True
    return any(source.is_file() and source.stat().st_mtime > made.stat().st_mtime for source in sources)


def run_record(folder: Path, name: str):
    """The content of a run's folder, for the report."""
    from accel.evaluation import transfer_records
    from accel.evaluation.measures import Measures
    from accel.figures.pictures import FOLDER, INDEX, Drawn, read_picture
    from accel.figures.report import Picture, RunRecord
    from accel.training.run_folder import read_history

    drawn = read_json(folder / FOLDER / INDEX, list[Drawn], may_be_missing=True)
    return RunRecord(
        name=name,
        config=read_json(folder / "config.json", dict, may_be_missing=True),
        history=read_history(folder),
        measures=read_json(folder / "measures.json", Measures, may_be_missing=True),
        transfer=transfer_records.results(folder),
        pictures=[
            Picture(
                file=one["file"],
                title=one["title"],
                text=one["text"],
                png=read_picture(folder, one["file"]),
                heading=one.get("heading", 0),
                dark=read_picture(folder, one["dark"]) if "dark" in one else None,
            )
            for one in drawn
        ],
    )
