"""The fused bottleneck in a custom model: two operators of accel with an encoder and a decoder of your own.

    python -m examples.fused_bottleneck

The images are grey, the encoder is a small CNN, and the decoder draws one template per part. The appearance head is
never evaluated on the grid: `pooled_patch_bottleneck` takes its weights, averages features over a part's occurrences,
and projects one vector per part. On a GPU both operators run in Triton, elsewhere in PyTorch, with the same random
numbers.
"""

import torch
from torch import Tensor, nn

from accel import Noise
from accel.ops import PatchBottleneck, pooled_patch_bottleneck, weighted_squared_error

PARTS, NUMBERS, CELL = 6, 2, 8


class OwnModel(nn.Module):
    def __init__(self, width: int = 32):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, width, 8, stride=4, padding=2), nn.GELU(), nn.Conv2d(width, width, 2, stride=2), nn.GELU()
        )
        self.where = nn.Conv2d(width, PARTS, 1)
        self.how = nn.Conv2d(width, 2 * PARTS * NUMBERS, 1)  # means, then log-variances
        self.paint = nn.ConvTranspose2d(PARTS * NUMBERS, 1, CELL, stride=CELL)

    def forward(self, images: Tensor, noise: Noise) -> tuple[Tensor, PatchBottleneck]:
        """Images (B, 1, H, W) in [−1, 1], H and W divisible by 8 → (reconstructions, result of the bottleneck)."""
        features = self.features(images)
        assert self.how.bias is not None
        latent = pooled_patch_bottleneck(
            features, self.where(features), self.how.weight, self.how.bias, temperature=0.5, noise=noise
        )
        return self.paint(latent.code).tanh(), latent


def draw_bars(count: int, seed: int) -> Tensor:
    """Float images (count, 1, 32, 32) in [−1, 1]: in each of 16 cells a horizontal bar, a vertical one, or none."""
    generator = torch.Generator().manual_seed(seed)
    bars = torch.full((3, CELL, CELL), -1.0)
    bars[1, 2:6], bars[2, :, 2:6] = 1.0, 1.0
    chosen = torch.randint(3, (count, 4, 4), generator=generator)
    return bars[chosen].permute(0, 1, 3, 2, 4).reshape(count, 1, 4 * CELL, 4 * CELL)


def train(model: OwnModel, steps: int, batch_size: int = 32) -> list[float]:
    """Minimises error + both divergences; returns the loss of each step, in nats per image."""
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for step in range(steps):
        images = draw_bars(batch_size, seed=step)
        reconstruction, latent = model(images, Noise(seed=0, step=step))
        error = weighted_squared_error(reconstruction, images)  # (B,), as both divergences are
        loss = (error + latent.kl_appearance + latent.kl_occurrence).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


def main(steps: int = 600) -> None:
    torch.manual_seed(0)
    losses = train(OwnModel(), steps)
    for step in range(0, steps, max(1, steps // 6)):
        print(f"step {step:4}: {losses[step]:7.1f} nats per image")
    print(f"step {steps - 1:4}: {losses[-1]:7.1f} nats per image")


if __name__ == "__main__":
    main()
