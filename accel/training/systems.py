"""The systems of the paper's tables: which networks are trained, on which losses, by which optimisers."""

import torch
from torch import Tensor, nn

from accel.models import BetaVAE, PatchVAE, elbo
from accel.ops import Noise
from accel.training.config import TrainingConfig


class System:
    """Networks that are trained together. Subclasses say what is lost and in which order it is descended.

    terms: what `losses` and `update` give, "total" first; metrics.jsonl has each as train_TERM and held_out_TERM.
    model: the network that is saved, measured and pictured. networks: all that are trained, `model` among them.
    optimisers: one for each network that learns, under the same name.

    In `losses` and `update`, images are float32 (B, C, H, W) in [−1, 1]; labels int64 (B,) or None; temperature
    and the fields of noise are numbers or 0-d tensors on the images' device. Neither may wait for the device.
    """

    terms: tuple[str, ...]

    def __init__(self, networks: dict[str, nn.Module], config: TrainingConfig, device: torch.device):
        # Channels last makes a step a tenth faster on a CPU, too.
        self.networks = nn.ModuleDict(networks).to(device, memory_format=torch.channels_last)
        self.config = config
        self.optimisers = {name: adam(network, config.learning_rate) for name, network in networks.items()}

    @property
    def model(self) -> nn.Module:
        return self.networks["model"]

    def losses(self, images: Tensor, labels: Tensor | None, temperature, noise: Noise):
        """(the model's output, or None; each term as a 0-d tensor, a mean over images), in training and held out."""
        raise NotImplementedError

    def update(self, images: Tensor, labels: Tensor | None, temperature, noise: Noise) -> dict[str, Tensor]:
        """One step of every optimiser; gives the terms at the weights before it, detached."""
        _, losses = self.losses(images, labels, temperature, noise)
        self.descend("model", losses["total"])
        return {term: value.detach() for term, value in losses.items()}

    @torch.compiler.disable
    def descend(self, name: str, loss: Tensor) -> None:
        """One step of a network's optimiser down the gradient of `loss`; other networks' gradients are not formed."""
        optimiser = self.optimisers[name]
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(loss.device.type, enabled=False):  # each product in the precision of its forward pass
            loss.backward(inputs=[parameter for group in optimiser.param_groups for parameter in group["params"]])
        optimiser.step()


def adam(network: nn.Module, learning_rate: float, **options) -> torch.optim.Adam:
    """Adam as every system runs it: one kernel, and a learning rate on the device, where a CUDA graph reads it."""
    device = next(network.parameters()).device
    rate = torch.tensor(learning_rate, device=device)
    return torch.optim.Adam(network.parameters(), lr=rate, fused=True, capturable=device.type == "cuda", **options)


class AutoencoderSystem(System):
    """A model and the negative evidence lower bound, with or without weights of gradient energy."""

    terms = ("total", "reconstruction", "kl_appearance", "kl_occurrence")

    def losses(self, images, labels, temperature, noise):
        out = self.model(images, temperature=temperature, noise=noise)
        loss = elbo(out, images, self.config.beta_app, self.config.beta_occ, self.config.weighted)
        return out, {term: getattr(loss, term) for term in self.terms}


def model_class(system: str) -> type[PatchVAE] | type[BetaVAE]:
    """The class that a system's model is made of."""
    return BetaVAE if system.startswith("beta-vae") else PatchVAE


def build_model(config: TrainingConfig, height: int, width: int, channels: int) -> PatchVAE | BetaVAE:
    """A new model for images of this size; its weights are a function of config.seed alone.

    Raises ValueError if the encoder's scale does not divide height and width, or options contradict each other.
    """
    arguments = {"image_size": (height, width), "channels": channels, "encoder": config.encoder}
    if model_class(config.system) is PatchVAE:
        arguments |= {
            "num_parts": config.num_parts,
            "part_dim": config.part_dim,
            "head": config.head,
            "head_kernel_size": config.head_kernel_size,
            "variance": config.variance,
            "occurrence_prior": config.occurrence_prior,
            "straight_through": config.straight_through,
            "detach_weights": config.detach_weights,
        }
    else:
        arguments["latent_dim"] = config.num_parts * config.part_dim  # a code of PatchVAE's size
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        return model_class(config.system)(**arguments)


def build_system(
    config: TrainingConfig, height: int, width: int, channels: int, num_classes: int | None, device: torch.device
) -> System:
    """The system that the configuration names, new, for images of this size.

    num_classes: of the data's labels, None where it has none. Raises ValueError as `build_model` does.
    """
    return AutoencoderSystem({"model": build_model(config, height, width, channels)}, config, device)
