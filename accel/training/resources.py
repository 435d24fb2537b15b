"""The data set and the device of a run."""

import torch

from accel.common.progress import say
from accel.data import Dataset, ImageSet, load
from accel.data.listing import left_out_lines
from accel.training import processes
from accel.training.catalogue import SYSTEMS
from accel.training.config import TrainingConfig


def load_dataset(config: TrainingConfig) -> Dataset:
    """Loads the data set of a configuration and prints files that were left out; raises as `accel.data.load`."""
    with processes.first_goes_first():
        dataset = load(
            config.data,
            image_size=config.image_size,
            data_dir=config.data_dir,
            train_images=config.train_images,
            strict=config.strict,
        )
    if dataset.left_out and processes.rank() == 0:
        say(left_out_lines(dataset.left_out), error=True)
    return dataset


def learned_images(config: TrainingConfig, dataset: Dataset) -> ImageSet:
    """The training images that the system learns from: a data set may say which of its labels are for learning."""
    return dataset.labelled_train() if SYSTEMS[config.system].learns_labels else dataset.train


def at_most_its_threads(device: torch.device, config: TrainingConfig) -> None:
    """On a CPU, reduces PyTorch's number of threads to that of a finished run, which was measured on busy cores, too.

    It stays reduced in this process.
    """
    if device.type == "cpu" and config.threads is not None:
        torch.set_num_threads(min(config.threads, torch.get_num_threads()))


def choose_device(name: str) -> torch.device:
    """The device for the value of --device, separate for each process; ValueError if there is no such GPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = processes.local_device(torch.device(name))
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {name}: PyTorch sees {torch.cuda.device_count()} CUDA devices here")
    return device
