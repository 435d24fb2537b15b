"""Recognition accuracy of a run's encoder: the paper's transfer protocol (section 4.1), and two probes.

Test images are evaluated twice, after training: with the weights of the last epoch, and with those of the epoch that
was best on a tenth of the training images, which are not used for training.
"""

import dataclasses
from pathlib import Path

from torch import nn

from accel.data import Dataset, load
from accel.evaluation import transfer_records
from accel.evaluation.fine_tuning import FITS
from accel.evaluation.probes import vote
from accel.evaluation.transfer_records import UNTRAINED_KEYS
from accel.training import record
from accel.training.config import TrainingConfig
from accel.training.protocols import FREEZES, PROBES, TransferConfig
from accel.training.resources import at_most_its_threads, choose_device, load_dataset
from accel.training.run_folder import load_run
from accel.training.step import choose_execution
from accel.training.systems import build_model

UNTRAINED = "untrained"  # folder, in that of the run, for transfers from its initial weights


def transfer(
    folder: str | Path,
    protocol: str,
    config: TransferConfig | None = None,
    dataset: Dataset | None = None,
    *,
    untrained: bool = False,
) -> dict:
    """Measures the run's encoder with a protocol, records the result in transfer.json, and returns it.

    protocol: "conv1", "conv3" or "conv5", which freeze the layers Conv1, Conv[1-3] or Conv[1-5] as in the paper's
    tables and fine-tune the rest; or "knn" or "linear". dataset: used instead of config.data.
    untrained: also measure the encoder before training, for the entry's `untrained_top1` (of the last epoch),
    `untrained_selected_top1` and `untrained_top5`, as far as the protocol has them.
    The classifier of the last epoch is saved in transfer/PROTOCOL/model. An interrupted transfer continues after its
    last saved epoch when it is started again. On a CPU, PyTorch then takes at most as many threads as the run
    did, also after this call.

    Raises ValueError or OSError for data without labels or of another size than the run's, and Stopped after Ctrl-C,
    once the state is saved.
    """
    folder, config = Path(folder), config or TransferConfig()
    if protocol not in (*FREEZES, *PROBES):
        raise ValueError(f"protocol must be one of {', '.join((*FREEZES, *PROBES))}, got {protocol!r}")
    model, run = load_run(folder)
    dataset = dataset or transfer_data(config, run, model, folder)
    refuse_unfit(dataset, model)
    device = choose_device(config.device)
    at_most_its_threads(device, run)

    def measure(model: nn.Module, folder: Path) -> dict:
        if protocol == "knn":
            return vote(model.encoder.to(device), config, dataset)
        return FITS[protocol](model, folder, protocol, config, dataset, device, choose_execution(run, device)).run()

    entry = measure(model, folder)
    if untrained:
        before = before_training(run, model, dataset)
        baseline = measure(before, folder / UNTRAINED)
        entry |= {UNTRAINED_KEYS[key]: baseline[key] for key in UNTRAINED_KEYS if key in baseline}
    transfer_records.record(folder, entry)
    return entry


def before_training(run: TrainingConfig, model: nn.Module, dataset: Dataset) -> nn.Module:
    """The run's model with its initial weights, in evaluation mode."""
    channels = model.encoder.conv1.in_channels
    return build_model(run, *model.image_size, channels, dataset.num_classes).eval()


def transfer_data(config: TransferConfig, run: TrainingConfig, model: nn.Module, folder: Path) -> Dataset:
    """The data set of the options: that of the run in `folder`, or another one, resized to the model's image size.

    Raises ValueError if the run's own images have changed.
    """
    changed = {"data_dir": config.data_dir, "train_images": config.train_images}
    if config.data in (None, run.data):
        changed = {name: value for name, value in changed.items() if value is not None}
        own = load_dataset(dataclasses.replace(run, **changed))
        if "train_images" not in changed:
            record.refuse_other_images(folder, own)
        return own if run.flip == "auto" else dataclasses.replace(own, flip=run.flip == "yes")
    return load(config.data, image_size=model.image_size[0], **changed)


def refuse_unfit(dataset: Dataset, model: nn.Module) -> None:
    """Raises ValueError for data without labels, or images of a size that the model does not accept."""
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
