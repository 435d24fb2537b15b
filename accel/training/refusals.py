"""Checks before a run begins: options, images and labels that do not fit raise an error."""

import dataclasses

from accel.common.options import flag
from accel.data import Dataset
from accel.models.encoder import layout_of, scale_of
from accel.training.catalogue import SYSTEMS
from accel.training.config import CHANGEABLE, TrainingConfig


def refuse_other_data(dataset: object) -> None:
    """Raises TypeError unless the data set is one of accel.data."""
    if not isinstance(dataset, Dataset):
        raise TypeError(
            f"dataset must be one of accel.data, got {type(dataset).__name__}: accel.data.from_torch makes one of a "
            "torch Dataset or DataLoader"
        )


def refuse_other_options(config: TrainingConfig, before: TrainingConfig) -> None:
    """Raises ValueError, which names all options that differ from those of the run in the folder, `before`."""
    folder = config.folder
    if config.data != before.data and {config.recipe(), before.recipe()} != {None}:
        # Other options differ as well because of the recipe, but the user did not change them.
        raise ValueError(f"the run in {folder} was trained on {before.data}, it cannot be resumed on {config.data}")
    differences = [
        f"{flag(name)} {value} instead of {getattr(before, name)}"
        for name, value in dataclasses.asdict(config).items()
        if name not in CHANGEABLE and value != getattr(before, name)
    ]
    if differences:
        raise ValueError(
            f"the run in {folder} cannot be resumed with {', '.join(differences)}; "
            f"only {', '.join(map(flag, CHANGEABLE))} may change"
        )


def refuse_sizes(config: TrainingConfig, dataset: Dataset) -> None:
    """Raises ValueError for image sizes that the encoder does not support, or too few cells for batch norm."""
    height, width = dataset.train.images.shape[1:3]
    scale = scale_of(config.encoder)
    if SYSTEMS[config.system].model == "PatchVAE":
        scale *= config.places or layout_of(config.encoder).places
    if height % scale or width % scale:
        nearest = max(scale, round(min(height, width) / scale) * scale)
        raise ValueError(
            f"{dataset.name}: images are {height}x{width}, but the encoder {config.encoder!r} needs multiples of "
            f"{scale}: use --image-size {nearest}, for example"
        )
    if config.batch_size * (height // scale) * (width // scale) < 2:
        raise ValueError(
            f"{dataset.name}: with --batch-size 1 and {height}x{width} images, {config.encoder!r} has a single cell, "
            "but batch norm needs two: use a larger --batch-size or --image-size"
        )


def refuse_missing_labels(config: TrainingConfig, dataset: Dataset) -> None:
    """Raises ValueError for images without labels if the system needs them."""
    if SYSTEMS[config.system].learns_labels and (dataset.train.labels is None or dataset.test.labels is None):
        raise ValueError(f"{dataset.name} has no labels, which --system {config.system} needs")
