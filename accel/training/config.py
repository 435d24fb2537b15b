"""Everything that a training run depends on, in one dataclass."""

import dataclasses
import json
import os
from pathlib import Path
from typing import ClassVar

from accel.common.bottleneck import BottleneckOptions
from accel.common.files import read_json
from accel.common.options import SEED, Check, above, at_least, device_option, option, within
from accel.training.catalogue import SYSTEMS

ENCODERS = ("paper", "release", "resnet18", "small", "fine")
DECODERS = ("pyramid", "templates")
HEADS = ("pooled", "separate", "fused")
LARGEST = 1 << 16  # of what multiplies a network's size

# The main job: finds the built-in parts within three minutes on two CPU cores.
PARTS_RECIPE = {
    "train_images": 8000,
    "encoder": "fine",
    "decoder": "templates",
    "ground": 2,
    "num_parts": 20,
    "part_dim": 1,
    "occurrence": "categorical",
    "occurrence_prior": 0.02,
    "beta_app": 3.0,
    "beta_occ": 1.5,
    "warm_up": 700,
    "renew": 0.85,
    "appearance_prior_mean": 2.0,
    "temperature_rate": 1e-3,
    "temperature_floor": 0.3,
    "learning_rate": 2e-3,
    "decay": 0.4,
    "batch_size": 32,
    "epochs": 8,
}

# The same for systems that have no parts, and no use for a finer grid.
OTHER_PARTS_RECIPE = {
    name: PARTS_RECIPE[name]
    for name in ("train_images", "num_parts", "part_dim", "beta_app", "learning_rate", "batch_size", "epochs")
} | {"encoder": "small"}

# What may differ when a run is resumed: where things are, how they are computed, how long and how often saved.
CHANGEABLE = (
    "data",
    "data_dir",
    "strict",
    "epochs",
    "device",
    "precision",
    "threads",
    "compile",
    "deterministic",
    "out",
    "checkpoint_every",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig(BottleneckOptions):
    """The options of a training run; None stands for the default, which some data sets set themselves.

    The defaults are the paper's recipe (section 4.1), and PARTS_RECIPE where data is "parts". Once made,
    every field holds the value in force: `dataclasses.asdict` is complete, and `dataclasses.replace` keeps
    what is not named. Raises ValueError that names the option if a value is of the wrong type or range.
    """

    data: str = option(
        "parts",
        "data",
        "parts, cifar10, cifar100, indoor67, places205, imagenet, FILE.npz, packed FILE.npy or FOLDER of images",
    )
    data_dir: str | None = option(None, "data", "folder of the named sets as they are published", absent="data")
    image_size: int | None = option(
        None,
        "data",
        "height and width to which images are brought",
        check=within(1, LARGEST),
        absent="as they are, 32 for parts",
    )
    train_images: int | None = option(None, "data", "use only so many training images", check=at_least(1), absent="all")
    strict: bool = option(
        False, "data", "refuse a folder with files that are no whole images, instead of leaving them out"
    )
    flip: str = option(
        "auto",
        "data",
        "mirror a random half of the images; auto: where the data set says that it makes sense",
        choices=("auto", "yes", "no"),
    )

    system: str = option(
        "patchvae+w", "model", "row of the paper's tables; +w weighs errors by gradient energy", choices=tuple(SYSTEMS)
    )
    num_parts: int = option(16, "model", "N, how many parts may be learned", check=within(1, LARGEST))
    part_dim: int = option(
        6,
        "model",
        "d_p, numbers that describe a part's appearance; a beta-vae's code has num_parts × part_dim",
        check=within(1, LARGEST),
    )
    encoder: str = option("paper", "model", "layout of the residual encoder", choices=ENCODERS)
    head: str | None = option(
        None,
        "model",
        "pool features before projecting them, or project each cell",
        choices=HEADS,
        absent="pooled, fused for arithmetic",
    )
    head_kernel_size: int = option(
        3,
        "model",
        "side of the heads' convolutions",
        check=Check("odd, from 1 to 255", lambda size: 0 < size < 256 and size % 2 == 1),
    )
    places: int | None = option(
        None,
        "model",
        "cells of the encoder a side that make a cell of parts, which lie at one of them",
        check=at_least(1),
        absent="4 for the encoder fine, else 1",
    )
    decoder: str = option(
        "pyramid", "model", "how codes become pixels: templates draw one picture for each number", choices=DECODERS
    )
    ground: int = option(
        0,
        "model",
        "points a side of what lies behind the parts, a few colours with a code of their own; 0 for none",
        check=Check("0, or at least 2", lambda points: points == 0 or points >= 2),
    )
    weights: str | None = option(
        None, "model", "file of torchvision's ResNet-18 that supervised starts from", absent="random weights"
    )

    beta_app: float = option(1.0, "objective", "weight of the appearance divergence", check=at_least(0))
    beta_occ: float = option(1.0, "objective", "weight of the occurrence divergence", check=at_least(0))
    warm_up: int = option(
        0,
        "objective",
        "steps over which β_occ rises from a fifth to its value",
        check=at_least(0),
    )
    temperature: float = option(1.0, "objective", "τ of the relaxed occurrences at the start", check=above(0))
    temperature_rate: float = option(3e-5, "objective", "τ falls by this share every step", check=at_least(0))
    temperature_floor: float = option(0.1, "objective", "τ never falls below this", check=above(0))
    renew: float = option(
        0.0,
        "objective",
        "split much used parts into unused ones in a run's first half, and in its second retire one of two parts whose "
        "pictures have this cosine; 0 for neither",
        check=Check("from 0 to 1", lambda cosine: 0 <= cosine <= 1),
    )
    adversarial_weight: float = option(
        1.0, "adversarial", "weight of taking the discriminator in by reconstructions", check=at_least(0)
    )
    feature_weight: float = option(
        0.1, "adversarial", "weight of the distance of the discriminator's features", check=at_least(0)
    )

    learning_rate: float = option(1e-4, "optimisation", "step size of Adam", check=above(0))
    decay: float = option(
        0.0,
        "optimisation",
        "share of the epochs, the last ones, over which the learning rate falls towards 0",
        check=Check("from 0 to 1", lambda share: 0 <= share <= 1),
    )
    batch_size: int = option(128, "optimisation", "images a step", check=at_least(1))
    epochs: int = option(
        90, "optimisation", "passes over the training images; 0 keeps the initial weights", check=at_least(0)
    )
    seed: int = option(
        0,
        "optimisation",
        "of the weights, the order of the images and every draw",
        check=SEED,
    )

    device: str = device_option()
    precision: str = option(
        "auto",
        "run",
        "of products and activations; auto: bfloat16 where a GPU has it, over float32 weights and sums",
        choices=("auto", "float32", "bfloat16"),
    )
    threads: int | None = option(
        None, "run", "threads to compute with on a CPU", check=at_least(1), absent="as many as are faster now"
    )
    compile: bool | None = option(
        None, "run", "compile each step, which takes up to a minute at the start", absent="on a GPU"
    )
    deterministic: bool = option(
        False,
        "run",
        "on a GPU, compute the same bits in every run, which is slower: cuDNN does not try algorithms, and TF32 is off",
    )
    out: str | None = option(None, "run", "run folder", absent="runs/DATA-SYSTEM")
    checkpoint_every: float = option(
        60.0, "run", "save after so many seconds, besides at each epoch's end", check=at_least(0)
    )

    RECIPES: ClassVar = {"parts": PARTS_RECIPE, "parts without PatchVAE": OTHER_PARTS_RECIPE}

    def recipe(self) -> str | None:
        """Which of RECIPES holds for the data and the system, or None."""
        if self.data not in (None, "parts"):
            return None
        row = SYSTEMS.get(self.system)
        return "parts without PatchVAE" if row and row.model != "PatchVAE" else "parts"

    @property
    def folder(self) -> Path:
        """The run folder: `out`, or one named after the data and the system."""
        name = os.path.basename(os.path.realpath(self.data)).removesuffix(".npz").removesuffix(".npy")
        return Path(self.out or f"runs/{name}-{self.system}")

    @property
    def weighted(self) -> bool:
        """Whether reconstruction errors are weighted by gradient energy."""
        return SYSTEMS[self.system].weighted

    def to_json(self) -> str:
        """What config.json holds: every option with the value in force."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json_file(cls, path: Path) -> "TrainingConfig":
        """Reads what `to_json` wrote; ValueError names the file if it is something else."""
        return cls.from_dict(read_json(path, dict), str(path))
