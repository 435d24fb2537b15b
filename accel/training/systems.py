"""The systems of the paper's tables, from a configuration to a model."""

import torch

from accel.models import BetaVAE, PatchVAE
from accel.training.config import TrainingConfig


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
