"""Recipes: defaults of training options, those of the paper or quick ones that fit the images and the device.

bench/experiments/recipes.py measured them on a CPU; bench/results/recipes.md has the results.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from accel.data import Dataset
from accel.data.batches import steps_an_epoch
from accel.training.catalogue import SYSTEMS
from accel.training.config import TrainingConfig
from accel.training.refusals import refuse_other_data
from accel.training.resources import choose_device, learned_images

# The paper's learning rate of 1e-4 needs at least so many steps, which 28,500 images give in its 90 epochs.
PAPER_STEPS = 20_000
PAPER_EPOCHS, PAPER_BATCH = 90, 128

QUICK_STEPS = {"cpu": 4000, "cuda": 8000}  # not measured yet on a GPU: twice as many, which takes seconds more
QUICK = {
    "encoder": "small",
    "learning_rate": 2e-3,
    "occurrence": "categorical",
    "beta_app": 0.1,
    "temperature_floor": 0.5,
}


def config_for(dataset: Dataset, *, recipe: str = "auto", **options: Any) -> TrainingConfig:
    """The options with which `python -m accel train` would train on a data set, for `train(config, dataset)`.

        dataset = from_torch(train_set, name="photographs")
        train(config_for(dataset, out="runs/first"), dataset)

    recipe: "auto", "paper" or "quick", as --recipe. options: those that are given, as for `TrainingConfig`; the recipe
    chooses the others, except the number of threads, which only the command measures. Options that select images, such
    as train_images, have no effect on a data set that is given. Raises ValueError as `TrainingConfig` does and for
    options without effect on the system, and TypeError for another dataset.
    """
    if recipe not in (kinds := ("auto", "paper", "quick")):
        raise ValueError(f"recipe must be one of {', '.join(kinds)}, got {recipe!r}")
    refuse_other_data(dataset)
    named = {"data": dataset.name} | options
    config = TrainingConfig(**named)
    if useless := options.keys() & SYSTEMS[config.system].without_effect:
        raise ValueError(f"{min(useless)} has no effect on {config.system}")
    chosen = choose_options(recipe, config, named, dataset, choose_device(config.device).type)[2]
    return TrainingConfig(**chosen, **named)


def choose_options(
    recipe: str, config: TrainingConfig, named: Mapping[str, Any], dataset: Dataset, device: str
) -> tuple[str, str, dict[str, Any]]:
    """Returns (name, reason, options) of the recipe that the user or "auto" selects, without the options in `named`.

    config: configuration with only the named options. device: "cpu" or "cuda". The data set "parts" has its own recipe,
    which "auto" leaves to `TrainingConfig`.
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
    """(name, reason) of the recipe for a number of training images on a device, "cpu" or "cuda"."""
    if SYSTEMS[system].trainer != "AutoencoderSystem":
        return "paper", f"quick is not chosen for {system}"
    steps = PAPER_EPOCHS * (images // PAPER_BATCH)
    if device == "cpu":
        return "quick", "the paper's recipe is slow on a CPU"
    if steps < PAPER_STEPS:
        return "quick", f"the paper's recipe would take {steps:,} steps, too few for its learning rate"
    return "paper", f"{steps:,} steps"


def batch_size_for(size: int) -> int:
    """Batch size of the quick recipe: smaller for larger images."""
    return 16 if size <= 64 else 8


def quick_options(images: int, size: int, device: str, system: str, named: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the quick recipe for a number of training images, without those named and those without effect.

    size: shorter side of an image in pixels. named: options that the user has given, from which others follow.
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
        del options["occurrence"]  # such a prior is impossible for at most one part per cell
    without_effect = SYSTEMS[system].without_effect
    return {name: value for name, value in options.items() if name not in named and name not in without_effect}
