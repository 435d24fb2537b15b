"""The classifier for recognition: the encoder, a hidden layer of 512 units and an output layer (paper, section 4)."""

from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from accel.ops import Noise, dropout_noise

from .autoencoder import Backbone, check_positive
from .encoder import Encoder, coarse_grid, coarse_vector
from .storage import load_tensors

HIDDEN = 512
# Statistics of the pixels in [0, 1] that torchvision's networks are trained on.
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)


class Classifier(Backbone):
    """Features φ(x) on at most 4 × 4 cells, dropout of ½, a linear layer of 512 units, ReLU, and an output layer.

    image_size: an integer or (H, W), the only size that is accepted. channels: number of channels of the images.
    encoder: "paper", "release" or "small" (scale 8), "fine" (scale 2), or "resnet18" (scale 32).

    Raises ValueError for a value out of range.
    """

    def __init__(
        self,
        *,
        image_size: int | tuple[int, int] = 32,
        channels: int = 3,
        num_classes: int = 10,
        encoder: str = "paper",
    ):
        check_positive(num_classes=num_classes)
        super().__init__(image_size, channels, encoder)
        self.config = {
            "image_size": self.image_size,
            "channels": channels,
            "num_classes": num_classes,
            "encoder": encoder,
        }
        self.num_classes = num_classes
        height, width = coarse_grid(self.grid)
        self.hidden = nn.Linear(self.encoder.out_channels * height * width, HIDDEN)
        self.output = nn.Linear(HIDDEN, num_classes)
        self.fixed: list[nn.Module] = []  # frozen modules whose batch-norm statistics do not change

    def freeze(self, stages: int, keep_statistics: bool = True) -> None:
        """Freezes the weights of the first `stages` entries of `encoder.stages()`, and their batch-norm statistics.

        With keep_statistics=False, the statistics are still updated in training mode.
        """
        frozen = [module for stage in self.encoder.stages()[:stages] for module in stage]
        for module in frozen:
            module.requires_grad_(False)
        self.fixed = frozen if keep_statistics else []
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Training or evaluation mode; modules with frozen statistics stay in evaluation mode."""
        super().train(mode)
        for module in self.fixed:
            module.eval()
        return self

    def forward(self, images: Tensor, noise: Noise | None = None) -> Tensor:
        """Images (B, channels, *image_size), uint8 or float in [−1, 1] → logits (B, num_classes).

        Dropout is applied if `noise` is given. Raises ValueError for images of wrong size or dtype.
        """
        return self.output(self.penultimate(images, noise))

    def penultimate(self, images: Tensor, noise: Noise | None = None) -> Tensor:
        """The input of the output layer, (B, 512). Raises ValueError as `forward` does."""
        if isinstance(images, Tensor) and tuple(images.shape[-2:]) != self.image_size:
            raise ValueError(f"images must be (B, C, H, W) with (H, W) = {self.image_size}, got {tuple(images.shape)}")
        return self.represent(coarse_vector(self.features(images)), noise)

    def represent(self, features: Tensor, noise: Noise | None = None) -> Tensor:
        """Pooled features (B, C · cells) → the input of the output layer, (B, 512)."""
        if noise is not None:
            kept = dropout_noise(noise, *features.shape, device=features.device)
            features = torch.where(kept, 2 * features, 0)
        return functional.relu(self.hidden(features))


def load_torchvision(encoder: Encoder, path: str | Path) -> None:
    """Loads weights of torchvision's ResNet-18 into an encoder, from a state dict in a file.

    torchvision's network expects normalised pixels, and this encoder pixels in [−1, 1]. The difference is folded into
    the first convolution and the mean of its batch norm; this is exact except for the padding, which is mid-grey here.
    No code in the file is executed.

    Raises FileNotFoundError, or ValueError if the file is damaged or its tensors do not fit the encoder.
    """
    path = Path(path)
    file, own = load_tensors(path), encoder.state_dict()
    if not isinstance(file, dict) or "conv1.weight" not in file or "layer1.0.conv1.weight" not in file:
        raise ValueError(f"{path}: not a state dict of torchvision's ResNet-18")
    weights = {}
    for name, value in own.items():
        # Published files are older than batch norm's counters.
        got = file.get(name, value if name.endswith("num_batches_tracked") else None)
        if not isinstance(got, Tensor) or got.shape != value.shape:
            shape = tuple(got.shape) if isinstance(got, Tensor) else "missing"
            raise ValueError(
                f"{path}: {name} is {shape}, the encoder has {tuple(value.shape)}; the encoders 'release' and "
                "'resnet18' take the weights of ResNet-18"
            )
        weights[name] = got.to(value.dtype)
    if not all(value.isfinite().all() for value in weights.values()):
        raise ValueError(f"{path}: holds numbers that are not finite")
    kernel = weights["conv1.weight"]
    mean, deviation = (torch.tensor(values, dtype=kernel.dtype)[:, None, None] for values in (MEAN, DEVIATION))
    # (x / 2 + 1/2 − mean) / deviation, for x in [−1, 1].
    weights["conv1.weight"] = kernel * 0.5 / deviation
    weights["bn1.running_mean"] = weights["bn1.running_mean"] - (kernel * (0.5 - mean) / deviation).sum((1, 2, 3))
    encoder.load_state_dict(weights)
