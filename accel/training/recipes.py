"""Which options a run takes where the user names none: the paper's, or quick ones that fit the images and the device.

bench/recipes.py measured what is here on a CPU; its results are bench/results/recipes.md.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from accel.data import Dataset
from accel.data.batches import steps_an_epoch
from accel.training.catalogue import SYSTEMS
from accel.training.config import TrainingConfig
from accel.training.resources import learned_images

# Ninety epochs of the paper's steps of 1e-4 learn little in fewer steps than this, which 28,500 images make.
PAPER_STEPS = 20_000
PAPER_EPOCHS, PAPER_BATCH = 90, 128

QUICK_STEPS = {"cpu": 4000, "cuda": 8000}  # a GPU's is not measured yet: as many again, for seconds more
QUICK = {
    "encoder": "small",
    "learning_rate": 2e-3,
    "occurrence": "categorical",
    "beta_app": 0.1,
    "temperature_floor": 0.5,
}


def choose_options(
    recipe: str, config: TrainingConfig, named: Mapping[str, Any], dataset: Dataset, device: str
) -> tuple[str, str, dict[str, Any]]:
    """(name, why, options): the recipe that "auto", or the user, chooses, and its options but for those named.

    config: of the named options alone. device: "cpu" or "cuda". The set "parts" has a recipe of its own, which "auto"
    leaves to `TrainingConfig`.
    """
    images, own, why = len(learned_images(config, dataset)), config.recipe(), "--recipe"
    if recipe == "auto" and own is not None:
        return config.data, "specific to this data set", {}
    if recipe == "auto":
        recipe, why = choose_recipe(images, device, config.system)
    if recipe == "quick":
        size = min(dataset.train.images.shape[1:3])
        return recipe, why, quick_options(images, size, device, config.system, named)
    replaced = {} if own is None else config.RECIPES[own]
    defaults = {field.name: field.metadata["default"] for field in dataclasses.fields(TrainingConfig)}
    return recipe, why, {name: defaults[name] for name in replaced if name not in named}


def choose_recipe(images: int, device: str, system: str) -> tuple[str, str]:
    """(name, why) of the recipe that so many training images call for on a device, "cpu" or "cuda"."""
    if SYSTEMS[system].trainer != "AutoencoderSystem":
        return "paper", f"the quick recipe does not support {system}"
    steps = PAPER_EPOCHS * (images // PAPER_BATCH)
    if device == "cpu":
        return "quick", "the paper's recipe needs a GPU"
    if steps < PAPER_STEPS:
        return "quick", f"the paper's recipe would take {steps:,} steps, too few for its learning rate"
    return "paper", f"{steps:,} steps"


def batch_size_for(size: int) -> int:
    """Images a step of the quick recipe: fewer where each has more cells."""
    return 16 if size <= 64 else 8


def quick_options(images: int, size: int, device: str, system: str, named: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the quick recipe for so many training images, but for those named and those without effect.

    size: of an image's shorter side, pixels. named: the options that the user has named, from which others follow.
    """
    options = QUICK | {"batch_size": batch_size_for(size)} | named
    each = steps_an_epoch(images, options["batch_size"])
    epochs = named.get("epochs", math.ceil(QUICK_STEPS[device] / each))
    steps = max(1, epochs * each)
    options = {"epochs": epochs, "warm_up": steps // 2} | options
    first, last = named.get("temperature", 1.0), options["temperature_floor"]
    if first > last:
        options = {"temperature_rate": float(f"{math.log(first / last) / steps:.2g}")} | options
    if named.get("occurrence_prior", 0) >= 1 / named.get("num_parts", 16) and "occurrence" not in named:
        del options["occurrence"]  # a cell of one part at most leaves no room for such a prior
    without_effect = SYSTEMS[system].without_effect
    return {name: value for name, value in options.items() if name not in named and name not in without_effect}
