"""The protocols of transfer, and their options."""

import dataclasses

from accel.common.options import SEED, Options, above, at_least, device_option, option

# The columns of the paper's tables, and how many of the encoder's stages they freeze (section 4.1).
FREEZES = {"conv1": 1, "conv3": 2, "conv5": 3}
PROBES = ("knn", "linear")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransferConfig(Options):
    """The options of a transfer; None stands for the default.

    The defaults are the paper's for fine-tuning (section 4.1), and the usual ones of self-supervised learning for the
    probes. Raises ValueError, which names the option, for a value of wrong type or out of range.
    """

    data: str | None = option(None, "data", "labelled images, as for train --data", absent="the run's own")
    data_dir: str | None = option(
        None, "data", "folder that holds the named data sets as published", absent="as in the run, or data"
    )
    train_images: int | None = option(
        None, "data", "number of training images to use", check=at_least(1), absent="as in the run, or all"
    )

    epochs: int | None = option(
        None,
        "optimisation",
        "number of passes over the training images",
        check=at_least(1),
        absent="90, 30 for resnet18",
    )
    batch_size: int | None = option(
        None, "optimisation", "number of images per step", check=at_least(1), absent="128, 256 for linear"
    )
    learning_rate: float | None = option(
        None,
        "optimisation",
        "initial learning rate of SGD",
        check=above(0),
        absent="0.01, 0.1 × batch size / 256 for linear",
    )
    frozen_bn_stats: str = option(
        "keep",
        "optimisation",
        "keep the batch norm statistics of frozen layers, or update them as the authors' code does",
        choices=("keep", "update"),
    )
    seed: int = option(
        0,
        "optimisation",
        "random seed of the new weights, the order of the images and dropout",
        check=SEED,
    )
    neighbours: int = option(200, "knn", "k, number of training images that vote", check=at_least(1))
    knn_temperature: float = option(0.1, "knn", "T; a vote has the weight exp(cosine similarity / T)", check=above(0))

    device: str = device_option()


_OF_NEIGHBOURS = {"neighbours", "knn_temperature"}
# The options that have no effect, by protocol.
WITHOUT_EFFECT = {
    **dict.fromkeys(FREEZES, _OF_NEIGHBOURS),
    "knn": {"epochs", "batch_size", "learning_rate", "seed", "frozen_bn_stats"},
    "linear": _OF_NEIGHBOURS | {"frozen_bn_stats"},
}
