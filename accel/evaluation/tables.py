"""The paper's Tables 1 to 6: rows as training options, columns as transfer protocols, and the paper's figures.

Figures are copied from the paper as printed, in percent. Data sets have the names that `accel.data.load` uses.
"""

from dataclasses import dataclass, field
from typing import Any

# Epochs of training without labels and of transfer (section 4); Table 1's for every other data set.
EPOCHS = {"places205": (2, 5), "imagenet": (30, 30)}
DEFAULT_EPOCHS = (90, 90)

CONV = {"conv1": "Conv1", "conv3": "Conv[1-3]", "conv5": "Conv[1-5]"}


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        name: name of the row in the table.
        options: options of `TrainingConfig` that distinguish the row.
        paper: the paper's figures, {data set: one per column}.
        imagenet: whether these figures are for an encoder that was trained on ImageNet with labels.
        end_to_end: whether the row is the accuracy of training itself, without transfer.
    """

    name: str
    options: dict[str, Any]
    paper: dict[str, tuple[float, ...]] = field(default_factory=dict)
    imagenet: bool = False
    end_to_end: bool = False


@dataclass(frozen=True)
class Table:
    """A table of the paper.

    Attributes:
        name: "table1" and so on. caption: its caption.
        columns: {title: (protocol of transfer, key of the accuracy after the last epoch, key of the accuracy after the
            selected epoch)}.
        rows: rows in the paper's order.
        data: default data set.
        options: training options of all rows.
    """

    name: str
    caption: str
    columns: dict[str, tuple[str, str, str]]
    rows: tuple[Row, ...]
    data: str = "cifar100"
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def protocols(self) -> tuple[str, ...]:
        """The transfer protocols of the columns."""
        return tuple(dict.fromkeys(protocol for protocol, *_ in self.columns.values()))


def _systems(figures: dict[str, dict[str, tuple[float, ...]]]) -> tuple[Row, ...]:
    return tuple(Row(system, {"system": system}, paper) for system, paper in figures.items())


def _by_data(*figures: float) -> dict[str, tuple[float, ...]]:
    """A line of Table 1: three columns each of three data sets."""
    return {"cifar100": figures[:3], "indoor67": figures[3:6], "places205": figures[6:]}


def _values(option: str, figures: dict[float, tuple[float, float]]) -> tuple[Row, ...]:
    """The rows of an ablation, whose figures are of CIFAR-100 and Indoor67."""
    return tuple(
        Row(f"{value}", {option: value}, {"cifar100": (cifar,), "indoor67": (indoor,)})
        for value, (cifar, indoor) in figures.items()
    )


_TOP1, _TOP5 = ("last_top1", "selected_top1"), ("top5", "selected_top5")
_CONV5 = {"Conv[1-5]": ("conv5", *_TOP1)}

TABLE1 = Table(
    "table1",
    "Top-1 accuracy with the encoder's first layers frozen",
    {title: (protocol, *_TOP1) for protocol, title in CONV.items()},
    (
        *_systems(
            {
                "beta-vae": _by_data(44.12, 39.65, 28.57, 20.08, 17.76, 13.06, 28.29, 24.34, 8.89),
                "beta-vae+w": _by_data(44.96, 40.30, 28.33, 21.34, 19.48, 13.96, 29.43, 24.93, 9.41),
                "beta-vae-gan": _by_data(44.69, 40.13, 29.89, 19.10, 17.84, 13.06, 28.48, 24.51, 9.72),
                "beta-vae-gan+w": _by_data(45.61, 41.35, 31.53, 20.45, 18.36, 14.33, 29.63, 25.26, 10.66),
                "patchvae": _by_data(43.07, 38.58, 28.72, 20.97, 19.18, 13.43, 28.63, 24.95, 11.09),
                "patchvae+w": _by_data(43.75, 40.37, 30.55, 23.21, 21.87, 15.45, 29.39, 26.29, 12.07),
                "patchvae-gan": _by_data(44.45, 40.57, 31.74, 21.12, 19.63, 14.55, 28.87, 25.25, 12.21),
                "patchvae-gan+w": _by_data(45.39, 41.74, 32.65, 22.46, 21.87, 16.42, 29.36, 26.30, 13.39),
                "bigan": _by_data(47.72, 41.89, 31.58, 21.64, 17.09, 9.70, 30.06, 25.11, 10.82),
            }
        ),
        Row(
            "supervised",
            {"system": "supervised"},
            _by_data(55.99, 54.99, 54.36, 45.90, 45.82, 40.90, 37.08, 36.46, 31.26),
            imagenet=True,
        ),
    ),
)

TABLE2 = Table(
    "table2",
    "ImageNet with ResNet-18, of which the last two stages are fine-tuned",
    {"Top-1": ("conv5", *_TOP1), "Top-5": ("conv5", *_TOP5)},
    (
        *_systems(
            {
                "beta-vae": {"imagenet": (44.45, 69.67)},
                "patchvae": {"imagenet": (47.01, 71.71)},
                "beta-vae+w": {"imagenet": (47.28, 71.78)},
                "patchvae+w": {"imagenet": (47.87, 72.49)},
            }
        ),
        Row("supervised", {"system": "supervised"}, {"imagenet": (61.37, 83.79)}, end_to_end=True),
    ),
    data="imagenet",
    options={"encoder": "resnet18"},
)

TABLE3 = Table(
    "table3",
    "Effect of N, the number of parts",
    _CONV5,
    _values(
        "num_parts",
        {4: (27.59, 14.40), 8: (28.74, 12.69), 16: (28.94, 14.33), 32: (27.78, 13.28), 64: (29.00, 12.76)},
    ),
)

TABLE4 = Table(
    "table4",
    "Effect of d_p, the numbers of a part's appearance",
    _CONV5,
    _values("part_dim", {3: (28.63, 14.25), 6: (28.97, 14.55), 9: (28.21, 14.55)}),
)

TABLE5 = Table(
    "table5",
    "Effect of the prior probability that a part occurs in a cell",
    _CONV5,
    _values("occurrence_prior", {0.01: (28.86, 14.33), 0.05: (28.67, 14.25), 0.1: (28.31, 14.03)}),
)

TABLE6 = Table(
    "table6",
    "Effect of beta_occ, the weight of the occurrence divergence",
    _CONV5,
    _values("beta_occ", {0.06: (30.11, 14.10), 0.3: (30.37, 15.67), 0.6: (28.90, 13.51)}),
)

TABLES = {table.name: table for table in (TABLE1, TABLE2, TABLE3, TABLE4, TABLE5, TABLE6)}


def epochs_of(data: str) -> tuple[int, int]:
    """The paper's epochs of training without labels and of transfer on a data set."""
    return EPOCHS.get(data, DEFAULT_EPOCHS)
