"""How well a run's encoder recognises: the paper's transfer protocol (section 4.1), and two probes.

The test images are looked at twice, once training is over: with the weights of the last epoch, and with those of
the epoch that did best on a tenth of the training images, which nothing is trained on.
"""

import dataclasses
from pathlib import Path

from torch import nn

from accel.data import Dataset, load
from accel.evaluation.fine_tuning import FITS
from accel.evaluation.probes import vote
from accel.evaluation.transfer_records import record
from accel.training.config import TrainingConfig
from accel.training.protocols import FREEZES, PROBES, TransferConfig
from accel.training.resources import choose_device, load_dataset
from accel.training.run_folder import load_run
from accel.training.step import choose_execution
from accel.training.systems import build_model

UNTRAINED = "untrained"  # folder in the run's, of what is kept of transfers from its first weights


def transfer(
    folder: str | Path,
    protocol: str,
    config: TransferConfig | None = None,
    dataset: Dataset | None = None,
    *,
    untrained: bool = False,
) -> dict:
    """Measures the run's encoder by a protocol, records what comes out in transfer.json, and returns it.

    protocol: "conv1", "conv3" or "conv5", which leave the columns Conv1, Conv[1-3] and Conv[1-5] of the paper's tables
    as they are and fine-tune the rest, or "knn" or "linear". dataset: instead of the one that config.data names.
    untrained: measure the encoder as it was before training, too, for the entry's `untrained_top1`.
    The classifier of the last epoch is saved in transfer/PROTOCOL/model. An interrupted transfer goes on after the
    last epoch that it has saved when it is asked for again.

    Raises ValueError or OSError with a sentence for data without labels or of another size than the run's, and Stopped
    after Ctrl-C, once the state is saved.
    """
    folder, config = Path(folder), config or TransferConfig()
    if protocol not in (*FREEZES, *PROBES):
        raise ValueError(f"protocol must be one of {', '.join((*FREEZES, *PROBES))}, got {protocol!r}")
    model, run = load_run(folder)
    dataset = dataset or transfer_data(config, run, model)
    refuse_unfit(dataset, model)
    device = choose_device(config.device)

    def measure(model: nn.Module, folder: Path) -> dict:
        if protocol == "knn":
            return vote(model.encoder.to(device), config, dataset)
        return FITS[protocol](model, folder, protocol, config, dataset, device, choose_execution(run, device)).run()

    entry = measure(model, folder)
    if untrained:
        before = before_training(run, model, dataset)
        entry["untrained_top1"] = measure(before, folder / UNTRAINED)["last_top1"]
    record(folder, entry)
    return entry


def before_training(run: TrainingConfig, model: nn.Module, dataset: Dataset) -> nn.Module:
    """The run's model with the weights it began with, in evaluation mode."""
    channels = model.encoder.conv1.in_channels
    return build_model(run, *model.image_size, channels, dataset.num_classes).eval()


def transfer_data(config: TransferConfig, run: TrainingConfig, model: nn.Module) -> Dataset:
    """The images that the options name: the run's own, or others at the size that its model takes."""
    changed = {"data_dir": config.data_dir, "train_images": config.train_images}
    if config.data in (None, run.data):
        own = load_dataset(dataclasses.replace(run, **{name: v for name, v in changed.items() if v is not None}))
        return own if run.flip == "auto" else dataclasses.replace(own, flip=run.flip == "yes")
    return load(config.data, image_size=model.image_size[0], **changed)


def refuse_unfit(dataset: Dataset, model: nn.Module) -> None:
    """Raises ValueError for data without labels, or images that the model does not take."""
    if dataset.train.labels is None or dataset.test.labels is None:
        which = "training" if dataset.train.labels is None else "test"
        raise ValueError(
            f"the {which} images of {dataset.name} have no labels, but transfer needs them: give labelled --data"
        )
    channels, size = model.encoder.conv1.in_channels, tuple(model.image_size)
    shape = dataset.train.images.shape[1:]
    if shape != (*size, channels):
        raise ValueError(
            f"{dataset.name}: images are {shape[0]}x{shape[1]} with {shape[2]} channels, the run's model takes "
            f"{size[0]}x{size[1]} with {channels}"
        )
