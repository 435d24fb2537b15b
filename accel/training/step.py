"""One training step, and the sums of what it reports. Nothing here waits for the device."""

import torch
from torch import Tensor

from accel.models.autoencoder import pixels
from accel.ops import Noise
from accel.training.config import TrainingConfig
from accel.training.schedule import temperature
from accel.training.systems import System


def temperature_at(step: int | Tensor, config: TrainingConfig) -> float | Tensor:
    """The configured schedule at a step."""
    return temperature(step, config.temperature, config.temperature_rate, config.temperature_floor)


class LossLedger:
    """Sums of the loss terms over images, and the first step at which each was not finite, on the device."""

    def __init__(self, terms: tuple[str, ...], device: torch.device):
        self.terms = terms
        self.sums = torch.zeros(len(terms), dtype=torch.float64, device=device)
        self.first_bad = torch.full((len(terms),), -1, device=device)
        self.images = 0

    def reset(self) -> None:
        """Begins a new epoch."""
        self.sums.zero_()
        self.images = 0

    def add(self, losses: dict[str, Tensor], images: int, step: int | Tensor) -> None:
        """Takes the mean terms of a batch of so many images."""
        values = torch.stack([losses[term].detach() for term in self.terms]).double()
        self.sums += values * images
        bad = ~values.isfinite() & (self.first_bad < 0)
        self.first_bad.copy_(torch.where(bad, step, self.first_bad))
        self.images += images

    def means(self) -> dict[str, float]:
        """Each term, a mean over images."""
        return dict(zip(self.terms, (self.sums / self.images).tolist(), strict=True))

    def problem(self) -> tuple[int, str] | None:
        """(step, term) of the first value that was not finite; a part of the loss is named before the total."""
        bad = [(step, term) for step, term in zip(self.first_bad.tolist(), self.terms, strict=True) if step >= 0]
        return min(bad, key=lambda entry: (entry[0], entry[1] == "total"), default=None)

    def state_dict(self) -> dict:
        return {"sums": self.sums.cpu(), "images": self.images}

    def load_state_dict(self, state: dict) -> None:
        self.sums.copy_(state["sums"])
        self.images = state["images"]


class TrainingStep:
    """A system's update on the batches of a run, the same on every device.

    number: how many steps were taken since the run began. An image's draws are a function of the seed, the step
    and its place in the global batch, so they do not depend on what was drawn before.
    """

    def __init__(self, system: System, config: TrainingConfig, device: torch.device):
        self.system, self.config = system, config
        self.ledger = LossLedger(system.terms, device)
        self.number = 0

    def __call__(self, images: Tensor, labels: Tensor | None = None) -> None:
        """The next step, on the global batch of uint8 images (B, C, H, W) and labels int64 (B,), if there are any."""
        noise = Noise(self.config.seed, self.number)
        target = pixels(images.contiguous(memory_format=torch.channels_last), torch.float32)
        losses = self.system.update(target, labels, temperature_at(self.number, self.config), noise)
        self.ledger.add(losses, len(images), self.number)
        self.number += 1

    def state_dict(self) -> dict:
        return {
            "number": self.number,
            "ledger": self.ledger.state_dict(),
            "networks": self.system.networks.state_dict(),
            "optimisers": {name: optimiser.state_dict() for name, optimiser in self.system.optimisers.items()},
        }

    def load_state_dict(self, state: dict) -> None:
        """Raises KeyError, RuntimeError or ValueError for the state of another system."""
        self.system.networks.load_state_dict(state["networks"])
        for name, optimiser in self.system.optimisers.items():
            optimiser.load_state_dict(state["optimisers"][name])
        self.ledger.load_state_dict(state["ledger"])
        self.number = state["number"]
