"""One training step, and the sums of what it reports. Nothing here waits for the device."""

import torch
from torch import Tensor, nn

from accel.models import Elbo, elbo
from accel.models.autoencoder import pixels
from accel.ops import Noise
from accel.training.config import TrainingConfig
from accel.training.schedule import temperature

TERMS = ("total", "reconstruction", "kl_appearance", "kl_occurrence")


class LossLedger:
    """Sums of the loss terms over images, and the first step at which each was not finite, on the device."""

    def __init__(self, device: torch.device):
        self.sums = torch.zeros(len(TERMS), dtype=torch.float64, device=device)
        self.first_bad = torch.full((len(TERMS),), -1, device=device)
        self.images = 0

    def reset(self) -> None:
        """Begins a new epoch."""
        self.sums.zero_()
        self.images = 0

    def add(self, loss: Elbo, images: int, step: int) -> None:
        """Takes the mean terms of a batch of so many images."""
        terms = torch.stack([getattr(loss, term).detach() for term in TERMS]).double()
        self.sums += terms * images
        bad = ~terms.isfinite() & (self.first_bad < 0)
        self.first_bad = torch.where(bad, step, self.first_bad)
        self.images += images

    def means(self) -> dict[str, float]:
        """Each term in nats an image."""
        return dict(zip(TERMS, (self.sums / self.images).tolist(), strict=True))

    def problem(self) -> tuple[int, str] | None:
        """(step, term) of the first value that was not finite; a part of the loss is named before the total."""
        bad = [(step, term) for step, term in zip(self.first_bad.tolist(), TERMS, strict=True) if step >= 0]
        return min(bad, key=lambda entry: (entry[0], entry[1] == "total"), default=None)

    def state_dict(self) -> dict:
        return {"sums": self.sums.cpu(), "images": self.images}

    def load_state_dict(self, state: dict) -> None:
        self.sums.copy_(state["sums"])
        self.images = state["images"]


def loss_of(model: nn.Module, images: Tensor, number: int, config: TrainingConfig, noise: Noise):
    """The model's output for uint8 images (B, C, H, W) and its loss, as step `number` sees them."""
    target = pixels(images, torch.float32)
    tau = temperature(number, config.temperature, config.temperature_rate, config.temperature_floor)
    out = model(target, temperature=tau, noise=noise)
    return out, elbo(out, target, config.beta_app, config.beta_occ, config.weighted)


class TrainingStep:
    """Forward, backward and Adam, the same on every device."""

    def __init__(self, model: nn.Module, config: TrainingConfig, device: torch.device):
        self.model, self.config = model, config
        self.optimiser = torch.optim.Adam(model.parameters(), lr=config.learning_rate, fused=True)
        self.ledger = LossLedger(device)

    def __call__(self, images: Tensor, number: int) -> None:
        """Step `number` of the run, from 0, on the global batch of uint8 images (B, C, H, W).

        An image's draws depend on its place in the batch, so they do not depend on what was drawn before.
        """
        noise = Noise(self.config.seed, number)
        _, loss = loss_of(self.model, images, number, self.config, noise)
        self.optimiser.zero_grad(set_to_none=True)
        loss.total.backward()
        self.optimiser.step()
        self.ledger.add(loss, len(images), number)
