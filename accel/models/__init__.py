"""Models that encode images and decode codes, and the loss that trains them."""

from .betavae import BetaVAE, BetaVAEOutput, GaussianPosterior
from .bigan import Bigan, BiganCode, BiganOutput
from .classifier import Classifier
from .discriminator import Discriminator
from .objective import Elbo, elbo, identity_cross_entropy
from .patchvae import PatchPosterior, PatchVAE, PatchVAEOutput

__all__ = [
    "BetaVAE",
    "BetaVAEOutput",
    "Bigan",
    "BiganCode",
    "BiganOutput",
    "Classifier",
    "Discriminator",
    "Elbo",
    "GaussianPosterior",
    "PatchPosterior",
    "PatchVAE",
    "PatchVAEOutput",
    "elbo",
    "identity_cross_entropy",
]
