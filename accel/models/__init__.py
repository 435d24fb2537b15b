"""Models: images to codes and back, and the loss that trains them."""

from .betavae import BetaVAE, BetaVAEOutput, GaussianPosterior
from .objective import Elbo, elbo
from .patchvae import PatchPosterior, PatchVAE, PatchVAEOutput

__all__ = [
    "BetaVAE",
    "BetaVAEOutput",
    "Elbo",
    "GaussianPosterior",
    "PatchPosterior",
    "PatchVAE",
    "PatchVAEOutput",
    "elbo",
]
