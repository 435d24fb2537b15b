"""Residual encoders φ(x), with torchvision's parameter names, so that its ResNet-18 weights can be loaded."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from accel.ops.backend import accumulation_dtype


@dataclass(frozen=True)
class Preset:
    """The architecture of an encoder."""

    blocks: tuple[int, ...]  # residual blocks in each stage
    width: int = 64  # channels of the stem and of the first stage; every further stage has twice as many
    fine: bool = False  # keeps the stem's grid of 2 pixels per cell: no pooling, and no stage with a stride
    places: int = 1  # default k of PatchVAE: a cell of its grid consists of k × k cells of the encoder


PRESETS = {
    "paper": Preset((1, 1)),  # one convolution and two residual blocks: the five convolutions of the paper's tables
    "release": Preset((2, 2)),  # as in the authors' code
    "resnet18": Preset((2, 2, 2, 2)),  # He et al. 2016, for ImageNet
    "small": Preset((1, 1), width=32),  # for CPUs: half the width of "paper", a quarter of the computation
    "fine": Preset((1, 1), width=24, fine=True, places=4),  # locates a part within its cell of 8 pixels
}

COARSE_GRID = 4


def layout_of(preset: str) -> Preset:
    """The preset of this name; ValueError if there is none."""
    if preset not in PRESETS:
        raise ValueError(f"encoder must be one of {', '.join(map(repr, PRESETS))}, got {preset!r}")
    return PRESETS[preset]


def scale_of(preset: str) -> int:
    """Pixels per side of a cell: 4 after the stem, doubled by every stage but the first; 2 for a fine grid."""
    layout = layout_of(preset)
    return 2 if layout.fine else 2 ** (len(layout.blocks) + 1)


def coarse_grid(grid: tuple[int, int]) -> tuple[int, int]:
    """The grid (h, w) to which features are averaged before a linear layer: at most 4 × 4."""
    return min(grid[0], COARSE_GRID), min(grid[1], COARSE_GRID)


def coarse_vector(features: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
    """Features (B, C, h, w) averaged to a grid, `coarse_grid` by default, and flattened: (B, C · cells)."""
    height, width = features.shape[2:]
    rows, columns = coarse_grid((height, width)) if grid is None else grid
    if height % rows == 0 and width % columns == 0:
        features = functional.avg_pool2d(features, (height // rows, width // columns))
    else:
        averaged = _averaged(_averaged(features.to(accumulation_dtype(features)), 2, rows), 3, columns)
        features = averaged.to(features.dtype)
    return features.flatten(1)


def _averaged(features: Tensor, axis: int, cells: int) -> Tensor:
    """Means of the windows of adaptive pooling along an axis; PyTorch's has no deterministic gradient on a GPU."""
    side = features.shape[axis]
    windows = [(cell * side // cells, -(-(cell + 1) * side // cells)) for cell in range(cells)]
    return torch.stack([features.narrow(axis, start, end - start).mean(axis) for start, end in windows], axis)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut (He et al. 2016): y = relu(bn2(conv2(relu(bn1(conv1 x)))) + x)."""

    def __init__(self, in_channels: int, channels: int, stride: int, norm: Callable[[int], nn.Module]):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = norm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = norm(channels)
        self.downsample = None
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride, bias=False), norm(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) → (B, channels, H / stride, W / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        return functional.relu(self.bn2(self.conv2(x)) + shortcut, inplace=True)


class Encoder(nn.Module):
    """Stem (7×7/2 convolution, batch norm, ReLU, 3×3/2 max-pool), then stages of growing width.

    Images (B, channels, H, W) become features (B, out_channels, H/scale, W/scale); every stage but the first
    halves the grid, so `scale` is 8 for two stages and 32 for four. In a fine encoder only the stem does, so `scale` is
    2. norm: a function from a number of channels to a normalisation module.

    Raises ValueError if `preset` is not in PRESETS.
    """

    def __init__(self, preset: str = "paper", channels: int = 3, norm: Callable[[int], nn.Module] = nn.BatchNorm2d):
        super().__init__()
        layout = layout_of(preset)
        width = layout.width
        self.conv1 = nn.Conv2d(channels, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = norm(width)
        for stage, count in enumerate(layout.blocks, start=1):
            in_channels, width = width, layout.width * 2 ** (stage - 1)
            first = BasicBlock(in_channels, width, stride=1 if stage == 1 or layout.fine else 2, norm=norm)
            rest = [BasicBlock(width, width, stride=1, norm=norm) for _ in range(count - 1)]
            self.add_module(f"layer{stage}", nn.Sequential(first, *rest))
        self.pools = not layout.fine
        self.num_stages = len(layout.blocks)
        self.out_channels = width
        self.scale = scale_of(preset)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def stages(self) -> list[tuple[nn.Module, ...]]:
        """Modules in the order of the data: [(conv1, bn1), (layer1,), (layer2,), …].

        The columns Conv1, Conv[1-3] and Conv[1-5] of the paper's tables freeze the first 1, 2 and 3 of them.
        """
        layers = [(getattr(self, f"layer{stage}"),) for stage in range(1, self.num_stages + 1)]
        return [(self.conv1, self.bn1), *layers]

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [−1, 1] → features (B, channels, h, w)."""
        x = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        if self.pools:
            x = functional.max_pool2d(x, 3, stride=2, padding=1)
        for (layer,) in self.stages()[1:]:
            x = layer(x)
        return x
