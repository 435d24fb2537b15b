"""The Inception network whose features define FID (Szegedy et al. 2016, Heusel et al. 2017).

It is Inception-v3 as trained in TensorFlow in 2015, in which average pooling excludes the padding and the last block
uses max pooling; names and shapes are those of the state dict that pytorch-fid distributes.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from accel.models.storage import load_tensors


class Unit(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int | tuple[int, int], stride: int = 1, padding=0):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) → (B, outputs, H', W')."""
        return functional.relu(self.bn(self.conv(x)), inplace=True)


WIDE, HIGH = {"kernel": (1, 7), "padding": (0, 3)}, {"kernel": (7, 1), "padding": (3, 0)}
FLAT, TALL = {"kernel": (1, 3), "padding": (0, 1)}, {"kernel": (3, 1), "padding": (1, 0)}


def average_pool(x: Tensor) -> Tensor:
    """Average over 3 × 3 neighbours inside the image."""
    return functional.avg_pool2d(x, 3, 1, padding=1, count_include_pad=False)


def max_pool(x: Tensor) -> Tensor:
    """Over 3 × 3 neighbours inside the image; (B, C, H, W) → the same."""
    return functional.max_pool2d(x, 3, 1, padding=1)


def halve(x: Tensor) -> Tensor:
    """Maxima of 3 × 3 neighbours, every second one; (B, C, H, W) → (B, C, (H − 1) // 2, (W − 1) // 2)."""
    return functional.max_pool2d(x, 3, 2)


class Block(nn.Module):
    """Parallel branches, each a chain of units with names that end in _1, _2, …; their outputs are concatenated.

    units: {name: arguments of Unit without the inputs}, in order. A chain may fork at its end: `_2a` and `_2b` have the
    same input. pool: the pooling before the branch `branch_pool`, or the branch itself if there is no such unit.
    """

    def __init__(self, inputs: int, units: dict[str, tuple], pool):
        super().__init__()
        self.pool, self.chains = pool, {}
        ends = {}
        for name, arguments in units.items():
            options = arguments[-1] if isinstance(arguments[-1], dict) else {"kernel": 1}
            stem = name if name in ("branch1x1", "branch_pool", "branch3x3") else name.rpartition("_")[0]
            self.add_module(name, Unit(ends.get(stem, inputs), arguments[0], **options))
            self.chains.setdefault(stem, []).append(name)
            if not name.endswith(("a", "b")):
                ends[stem] = arguments[0]

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) → the outputs of all branches (B, C, H', W')."""
        outputs = []
        for stem, names in self.chains.items():
            y = self.pool(x) if stem == "branch_pool" else x
            forks = [name for name in names if name.endswith(("a", "b"))]
            for name in names:
                if name not in forks:
                    y = getattr(self, name)(y)
            outputs += [getattr(self, name)(y) for name in forks] or [y]
        if "branch_pool" not in self.chains:
            outputs.append(self.pool(x))
        return torch.cat(outputs, 1)


def block_a(inputs: int, pooled: int) -> Block:
    """3 × 3 and 5 × 5 neighbours, and `pooled` channels of pooled ones."""
    three, five = {"kernel": 3, "padding": 1}, {"kernel": 5, "padding": 2}
    units = {"branch1x1": (64,), "branch5x5_1": (48,), "branch5x5_2": (64, five)}
    units |= {"branch3x3dbl_1": (64,), "branch3x3dbl_2": (96, three), "branch3x3dbl_3": (96, three)}
    return Block(inputs, units | {"branch_pool": (pooled,)}, average_pool)


def block_b(inputs: int) -> Block:
    """Halves the grid of 35 × 35."""
    units = {"branch3x3": (384, {"kernel": 3, "stride": 2})}
    units |= {"branch3x3dbl_1": (64,), "branch3x3dbl_2": (96, {"kernel": 3, "padding": 1})}
    return Block(inputs, units | {"branch3x3dbl_3": (96, {"kernel": 3, "stride": 2})}, halve)


def block_c(width: int) -> Block:
    """7 × 7 neighbours, as rows and columns, through `width` channels."""
    units = {"branch1x1": (192,), "branch7x7_1": (width,), "branch7x7_2": (width, WIDE), "branch7x7_3": (192, HIGH)}
    units |= {"branch7x7dbl_1": (width,), "branch7x7dbl_2": (width, HIGH), "branch7x7dbl_3": (width, WIDE)}
    units |= {"branch7x7dbl_4": (width, HIGH), "branch7x7dbl_5": (192, WIDE)}
    return Block(768, units | {"branch_pool": (192,)}, average_pool)


def block_d(inputs: int) -> Block:
    """Halves the grid of 17 × 17."""
    half = {"kernel": 3, "stride": 2}
    units = {"branch3x3_1": (192,), "branch3x3_2": (320, half), "branch7x7x3_1": (192,)}
    units |= {"branch7x7x3_2": (192, WIDE), "branch7x7x3_3": (192, HIGH), "branch7x7x3_4": (192, half)}
    return Block(inputs, units, halve)


def block_e(inputs: int, pool) -> Block:
    """Rows and columns of three, side by side; `pool` is what the last branch reads."""
    units = {"branch1x1": (320,), "branch3x3_1": (384,), "branch3x3_2a": (384, FLAT), "branch3x3_2b": (384, TALL)}
    units |= {"branch3x3dbl_1": (448,), "branch3x3dbl_2": (384, {"kernel": 3, "padding": 1})}
    units |= {"branch3x3dbl_3a": (384, FLAT), "branch3x3dbl_3b": (384, TALL), "branch_pool": (192,)}
    return Block(inputs, units, pool)


class Inception(nn.Module):
    """Images (B, 3, 299, 299) in [−1, 1] → the 2048 features of the last average pooling."""

    IMAGE_SIZE = 299

    def __init__(self):
        super().__init__()
        self.Conv2d_1a_3x3 = Unit(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = Unit(32, 32, 3)
        self.Conv2d_2b_3x3 = Unit(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = Unit(64, 80, 1)
        self.Conv2d_4a_3x3 = Unit(80, 192, 3)
        self.Mixed_5b = block_a(192, 32)
        self.Mixed_5c = block_a(256, 64)
        self.Mixed_5d = block_a(288, 64)
        self.Mixed_6a = block_b(288)
        self.Mixed_6b = block_c(128)
        self.Mixed_6c = block_c(160)
        self.Mixed_6d = block_c(160)
        self.Mixed_6e = block_c(192)
        self.Mixed_7a = block_d(768)
        self.Mixed_7b = block_e(1280, average_pool)
        self.Mixed_7c = block_e(2048, max_pool)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, 299, 299) → features (B, 2048)."""
        for name, layer in self.named_children():
            images = layer(images)
            if name in ("Conv2d_2b_3x3", "Conv2d_4a_3x3"):
                images = halve(images)
        return images.mean((2, 3))

    @classmethod
    def from_file(cls, path: Path) -> "Inception":
        """The network with the weights of a state dict; output layer and auxiliary head are ignored.

        Raises FileNotFoundError, or ValueError if the file is not such a state dict.
        """
        state = load_tensors(path)
        network = cls()
        wanted = network.state_dict()
        if not isinstance(state, dict):
            raise ValueError(f"{path}: expected one dictionary of tensors")
        # Files from before 2018 have no counters of batches, which are not used.
        counters = {name: value for name, value in wanted.items() if name.endswith("num_batches_tracked")}
        state = counters | {name: value for name, value in state.items() if name in wanted}
        for name, value in wanted.items():
            if not isinstance(state.get(name), Tensor) or state[name].shape != value.shape:
                raise ValueError(
                    f"{path}: not the weights of FID's Inception network, {name!r} is missing or misshapen"
                )
        network.load_state_dict(state)
        return network
