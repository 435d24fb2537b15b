"""`transfer`: measure the recognition accuracy of a run's encoder."""

import argparse
import dataclasses
from pathlib import Path

from accel.commands.finished import add_run_arguments, refuse_other_folder
from accel.common.options import flag, option
from accel.training.protocols import FREEZES, PROBES, WITHOUT_EFFECT, TransferConfig

HELP = "train classifiers on a run's encoder and measure their accuracy"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransferOptions(TransferConfig):
    """The options of `transfer`."""

    freeze: str | None = option(
        None,
        "protocol",
        "layers of the encoder to freeze: a column of the paper's tables",
        choices=tuple(FREEZES),
        absent="all three, one after another, without --probe",
    )
    probe: str | None = option(
        None,
        "protocol",
        "k nearest neighbours or a linear classifier on the frozen encoder",
        choices=PROBES,
        absent="none",
    )
    untrained: bool = option(
        True, "protocol", "also measure the encoder before training, for comparison, which doubles the time"
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments and options of the command."""
    add_run_arguments(parser, TransferOptions)


def run(given: dict) -> None:
    """Prints the result of each protocol, and the file that records it."""
    folder = Path(given.pop("run"))
    options = TransferOptions(**given)
    protocols = [name for name in (options.freeze, options.probe) if name] or list(FREEZES)
    for name in given:
        if all(name in WITHOUT_EFFECT[protocol] for protocol in protocols):
            raise ValueError(f"{flag(name)} has no effect on {', '.join(protocols)}")
    refuse_other_folder(folder)

    from accel.evaluation.transfer import transfer
    from accel.evaluation.transfer_records import NAME

    for protocol in protocols:
        print(describe(transfer(folder, protocol, options, untrained=options.untrained)), flush=True)
    print(f"{folder / NAME}: results recorded")


def describe(entry: dict) -> str:
    """A result as text for the terminal, with its settings."""

    from accel.evaluation.transfer_records import UNTRAINED_KEYS

    def accuracy(key: str) -> str:
        words, untrained = f"{entry[key]:.2f} %", UNTRAINED_KEYS[key]
        return f"{words} (untrained encoder {entry[untrained]:.2f} %)" if untrained in entry else words

    text = f"{entry['protocol']} on {entry['data']}: top-1 {accuracy('last_top1')}"
    if entry["epochs"]:
        text += f" after {entry['epochs']} epochs; {accuracy('selected_top1')} at the epoch "
        text += f"selected on the held-out tenth of the training images, here {entry['selected_epoch']}"
    if "top5" in entry:
        text += f"; top-5 {accuracy('top5')}"
    parameters = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in entry["parameters"].items())
    return f"{text}\n  {parameters}, seed {entry['seed']}, {entry['seconds']:.1f} s"
