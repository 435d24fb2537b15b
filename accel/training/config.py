"""The configuration of a training run as one dataclass."""

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
LARGEST = 1 << 16  # upper bound of options that multiply a network's size

# The default run: finds the parts of the generated data set within four minutes on two CPU cores.
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
    "beta_identity": 0.0,
    "warm_up": 700,
    "renew": 0.8,
    "appearance_prior_mean": 2.0,
    "temperature_rate": 1e-3,
    "temperature_floor": 0.3,
    "learning_rate": 2e-3,
    "decay": 0.4,
    "batch_size": 32,
    "epochs": 6,
}

# The same for systems without parts, which do not use a finer grid.
OTHER_PARTS_RECIPE = {
    name: PARTS_RECIPE[name]
    for name in ("train_images", "num_parts", "part_dim", "beta_app", "learning_rate", "batch_size", "epochs")
} | {"encoder": "small"}

# Options that may change when a run is resumed: locations, execution, number of epochs and of checkpoints.
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
    "tensorboard",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig(BottleneckOptions):
    """The options of a training run; None stands for the default, which depends on the data set in some cases.

    The defaults are the paper's recipe (section 4.1), and PARTS_RECIPE for data "parts". After construction, every
    field has its final value: `dataclasses.asdict` is complete, and `dataclasses.replace` changes only the given
    fields. Raises ValueError, which names the option, for a value of wrong type or out of range.
    """

    data: str = option(
        "parts",
        "data",
        "parts, cifar10, cifar100, indoor67, places205, imagenet, FILE.npz, packed FILE.npy or FOLDER of images",
    )
    data_dir: str | None = option(None, "data", "folder that holds the named data sets as published", absent="data")
    image_size: int | None = option(
        None,
        "data",
        "height and width of images: the shorter side is resized to it, and the centre cropped; parts is drawn at it",
        check=within(1, LARGEST),
        absent="their own, 32 for parts",
    )
    train_images: int | None = option(None, "data", "number of training images to use", check=at_least(1), absent="all")
    strict: bool = option(
        False, "data", "stop with an error if anything in a folder is not a readable image, instead of leaving it out"
    )
    flip: str = option(
        "auto",
        "data",
        "mirror a random half of the images horizontally; auto: for every data set except parts",
        choices=("auto", "yes", "no"),
    )

    system: str = option(
        "patchvae+w",
        "model",
        "system to train, a row of the paper's tables; +w weights reconstruction errors by gradient energy",
        choices=tuple(SYSTEMS),
    )
    num_parts: int = option(16, "model", "N, maximum number of parts to learn", check=within(1, LARGEST))
    part_dim: int = option(
        6,
        "model",
        "d_p, dimension of a part's appearance vector; the code of a beta-vae has num_parts × part_dim dimensions",
        check=within(1, LARGEST),
    )
    encoder: str = option(
        "paper",
        "model",
        "architecture of the residual encoder, and so the width of its cells: 8 pixels (paper, release, small), 32 "
        "(resnet18) or 2 (fine, of which PatchVAE joins 4 × 4 to one cell of 8); small costs the least",
        choices=ENCODERS,
    )
    head: str | None = option(
        None,
        "model",
        "order of operations for appearances: pool, then project (pooled), or project, then pool (separate, fused)",
        choices=HEADS,
        absent="pooled, fused for arithmetic",
    )
    head_kernel_size: int = option(
        3,
        "model",
        "kernel size of the heads' convolutions",
        check=Check("odd, from 1 to 255", lambda size: 0 < size < 256 and size % 2 == 1),
    )
    places: int | None = option(
        None,
        "model",
        "k; PatchVAE joins k × k cells of the encoder to one cell, and a part lies at one of these k × k places",
        check=at_least(1),
        absent="4 for the encoder fine, else 1",
    )
    decoder: str = option(
        "pyramid",
        "model",
        "architecture of the decoder; templates: a sum of pictures, one per dimension of the code",
        choices=DECODERS,
    )
    ground: int = option(
        0,
        "model",
        "points per side of the background model, a coarse grid of colours with a latent code of its own; 0 for none",
        check=Check("0, or at least 2", lambda points: points == 0 or points >= 2),
    )
    weights: str | None = option(
        None, "model", "file of torchvision's ResNet-18 weights from which supervised starts", absent="random weights"
    )

    beta_app: float = option(1.0, "objective", "weight of the appearance divergence", check=at_least(0))
    beta_occ: float = option(1.0, "objective", "weight of the occurrence divergence", check=at_least(0))
    beta_identity: float = option(
        1.0,
        "objective",
        "weight, relative to β_occ, of the information about which part occurs, a part of the occurrence divergence; "
        "less than 1 lets similar parts be told apart; for categorical occurrences",
        check=within(0, 1),
    )
    warm_up: int = option(
        0,
        "objective",
        "number of steps over which β_occ increases from a fifth of its value to its full value",
        check=at_least(0),
    )
    temperature: float = option(1.0, "objective", "τ, initial temperature of the relaxed occurrences", check=above(0))
    temperature_rate: float = option(3e-5, "objective", "relative decrease of τ per step", check=at_least(0))
    temperature_floor: float = option(0.1, "objective", "lower bound of τ", check=above(0))
    renew: float = option(
        0.0,
        "objective",
        "in the first third of a run, cluster what all parts have found, and give each cluster a part, which the "
        "encoder then learns to tell from others; afterwards, retire one of two parts whose pictures, minus the mean "
        "picture, have at least this cosine similarity; 0 turns off all of this",
        check=within(0, 1),
    )
    adversarial_weight: float = option(1.0, "adversarial", "weight of the adversarial loss", check=at_least(0))
    feature_weight: float = option(
        0.1,
        "adversarial",
        "weight of the feature matching loss, a distance between features of the discriminator",
        check=at_least(0),
    )

    learning_rate: float = option(1e-4, "optimisation", "learning rate of Adam", check=above(0))
    decay: float = option(
        0.0,
        "optimisation",
        "fraction of the epochs, at the end, over which the learning rate decreases towards 0",
        check=within(0, 1),
    )
    batch_size: int = option(128, "optimisation", "number of images per step", check=at_least(1))
    epochs: int = option(
        90, "optimisation", "number of passes over the training images; 0 keeps the initial weights", check=at_least(0)
    )
    seed: int = option(
        0,
        "optimisation",
        "random seed of the weights, the order of the images and all noise",
        check=SEED,
    )

    device: str = device_option()
    precision: str = option(
        "auto",
        "run",
        "precision of products and activations; auto: bfloat16 on GPUs that support it, with float32 weights and sums",
        choices=("auto", "float32", "bfloat16"),
    )
    threads: int | None = option(
        None, "run", "number of threads on a CPU", check=at_least(1), absent="the fastest number, measured at the start"
    )
    compile: bool | None = option(
        None,
        "run",
        "compile the training step, which takes about a minute at the start",
        absent="on a GPU, from 20,000 steps on",
    )
    deterministic: bool = option(
        False,
        "run",
        "on a GPU, make repeated runs bit-identical; this is slower: no cuDNN benchmarking of algorithms, no TF32",
    )
    out: str | None = option(None, "run", "run folder", absent="runs/DATA-SYSTEM")
    checkpoint_every: float = option(
        60.0, "run", "seconds between checkpoints; one is also saved at the end of each epoch", check=at_least(0)
    )
    tensorboard: bool = option(
        False, "run", "also write the lines of metrics.jsonl as TensorBoard files, into tensorboard/ in the run folder"
    )

    RECIPES: ClassVar = {"parts": PARTS_RECIPE, "parts with another model than PatchVAE": OTHER_PARTS_RECIPE}

    def recipe(self) -> str | None:
        """The key of RECIPES for this data set and system, or None for the general defaults."""
        if self.data not in (None, "parts"):
            return None
        row = SYSTEMS.get(self.system)
        return "parts with another model than PatchVAE" if row and row.model != "PatchVAE" else "parts"

    def __post_init__(self) -> None:
        if self.beta_identity is None and self.occurrence not in (None, "categorical"):
            object.__setattr__(self, "beta_identity", 1.0)  # as the recipe's value is for categorical occurrences
        super().__post_init__()

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
        """The content of config.json: every option with its value."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json_file(cls, path: Path) -> "TrainingConfig":
        """Reads a file that `to_json` wrote; OSError, or ValueError, which names the file, for any other content."""
        values = read_json(path, dict)
        if "arguments" in values:  # as `save_pretrained` writes it
            raise ValueError(f"{path} describes a model, expected the config.json of a run")
        return cls.from_dict(values, str(path))
