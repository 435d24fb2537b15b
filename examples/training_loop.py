"""A custom training loop with the model, loss, noise and batches of accel.

    python -m examples.training_loop

It trains the same model as `python -m accel train` with the same options. Instead of `Batches`, any iterable of uint8
images (B, 3, H, W) works, such as a DataLoader. If a batch is split over processes, the share that begins at image i of
the global batch takes Noise(seed, step, i).
"""

import torch

from accel import Noise, PatchVAE, elbo
from accel.data import Batches, draw_parts
from accel.training.schedule import beta_occ, temperature

SEED = 0


def new_model() -> PatchVAE:
    torch.manual_seed(SEED)
    return PatchVAE(num_parts=20, part_dim=1, encoder="small", occurrence="categorical", appearance_prior_mean=2.0)


def train(
    model: PatchVAE, batches: Batches, epochs: int, learning_rate: float = 2e-3, warm_up: int = 1000
) -> list[float]:
    """Trains the model and returns the mean loss of each epoch, in nats per image."""
    optimiser = torch.optim.Adam(model.parameters(), lr=learning_rate)
    model.train()
    means, step = [], 0
    for epoch in range(epochs):
        losses = []
        for images, _ in batches.epoch(epoch):
            tau = temperature(step, start=1.0, rate=1e-3, floor=0.3)
            out = model(images, temperature=tau, noise=Noise(SEED, step))
            loss = elbo(out, images, beta_app=3.0, beta_occ=beta_occ(step, 3.0, warm_up), weighted=True)
            optimiser.zero_grad()
            loss.total.backward()
            optimiser.step()
            losses.append(loss.total.detach())
            step += 1
        means.append(torch.stack(losses).mean().item())
        print(f"epoch {epoch + 1}: {means[-1]:.1f} nats per image")
    return means


def main(train_images: int = 8000, epochs: int = 8, folder: str = "runs/training-loop") -> None:
    model = new_model()
    train(model, Batches(draw_parts(train_images), batch_size=32, seed=SEED, flip=False, device="cpu"), epochs)
    model.save_pretrained(folder)
    print(f"{folder}: load it with PatchVAE.from_pretrained")


if __name__ == "__main__":
    main()
