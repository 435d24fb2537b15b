"""What a run computes on: the images that its configuration names, and the device."""

import torch

from accel.data import Dataset, load
from accel.training import processes
from accel.training.config import TrainingConfig


def load_dataset(config: TrainingConfig) -> Dataset:
    """The images that the configuration names; see `accel.data.load` for what is raised."""
    with processes.first_goes_first():
        return load(
            config.data, image_size=config.image_size, data_dir=config.data_dir, train_images=config.train_images
        )


def choose_device(name: str) -> torch.device:
    """The device of an option's value, of several processes each its own; ValueError if there is no such GPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = processes.local_device(torch.device(name))
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {name}: PyTorch sees {torch.cuda.device_count()} CUDA devices here")
    return device
