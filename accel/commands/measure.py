"""`measure`: quality of a run's reconstructions and parts."""

import argparse
import dataclasses
import json
from pathlib import Path

from accel.commands.finished import FinishedRun, FinishedRunOptions, add_run_arguments, open_finished_run
from accel.common.files import write_whole
from accel.common.options import flag, option

HELP = "measure a run's reconstructions and parts on held-out images"


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeasureOptions(FinishedRunOptions):
    """The options of `measure`."""

    inception: str | None = option(
        None,
        "Fréchet distance",
        "file with the weights of FID's Inception network, the state dict of pytorch-fid",
        absent="no FID",
    )
    classifier: str | None = option(
        None,
        "Fréchet distance",
        "model folder of a classifier; use the same one for all runs that you compare",
        absent="the one that transfer trained for this run, if any",
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments and options of the command."""
    add_run_arguments(parser, MeasureOptions)


def run(given: dict) -> None:
    """Measures, prints, and writes RUN/measures.json."""
    folder = Path(given.pop("run"))
    options = MeasureOptions(**given)
    opened = open_finished_run(folder, options)

    from accel.evaluation.measures import measures_table

    measures = measure_run(opened, options)
    print(measures_table(measures))
    print()
    print(f"{folder}: measures.json")


def measure_run(opened: FinishedRun, options: MeasureOptions) -> dict:
    """Measures an opened run, writes its measures.json and returns the content."""
    from accel.evaluation import frechet, measures
    from accel.training.checkpoint import writing

    device = next(opened.model.parameters()).device
    for name in ("inception", "classifier"):
        if getattr(options, name) is not None and not opened.model.has_decoder:
            raise ValueError(f"{flag(name)} has no effect on {opened.config.system}, which does not reconstruct")
    features = []
    if options.inception is not None:
        features.append(frechet.inception_features(Path(options.inception), device))
    chosen = Path(options.classifier) if options.classifier else measures.classifier_folder(opened.folder)
    if chosen is not None:
        features.append(frechet.classifier_features(chosen, device))
    if not features:
        features.append(frechet.encoder_features(opened.model))
    result = measures.measure(opened.model, opened.dataset, features)
    path = opened.folder / "measures.json"
    with writing(path):
        write_whole({path: (json.dumps(result, indent=2) + "\n").encode()})
    return result
