"""The specification of PatchVAE in float64 NumPy: each function begins with its equation.

Read in this order: noise, divergence, occurrence, bottleneck, placement, layers, weighted_loss, objective, patterns,
quality. For each function NAME, NAME_gradients(d_output, …) is its vector-Jacobian product, derived by hand. The code
is written for clarity, not for speed, and does not import the fast implementations, which tests compare with it.
"""

from .bottleneck import (
    BottleneckOptions,
    PatchBottleneck,
    patch_bottleneck,
    patch_bottleneck_gradients,
    pooled_patch_bottleneck,
    pooled_patch_bottleneck_gradients,
)
from .divergence import (
    bernoulli_divergence,
    bernoulli_divergence_gradients,
    categorical_divergence,
    categorical_divergence_gradients,
    category_log_probabilities,
    gaussian_divergence,
    gaussian_divergence_gradients,
    identity_information,
    identity_information_gradients,
)
from .layers import compose, compose_gradients, ground_pixels, ground_pixels_gradients
from .noise import Noise, appearance_noise, dropout_noise, ground_noise, occurrence_noise, place_noise
from .objective import Elbo, elbo, elbo_gradients
from .patterns import evidence, exchangeability, identity_cross_entropy, identity_cross_entropy_gradients
from .placement import (
    map_of_places,
    place,
    place_divergence,
    place_divergence_gradients,
    place_gradients,
    places_of_cells,
    sample_place,
    sample_place_gradients,
    split_places,
    split_places_gradients,
)
from .quality import frechet_distance, psnr, ssim
from .weighted_loss import (
    gradient_energy_weights,
    weighted_squared_error,
    weighted_squared_error_gradients,
)

__all__ = [
    "BottleneckOptions",
    "Elbo",
    "Noise",
    "PatchBottleneck",
    "appearance_noise",
    "bernoulli_divergence",
    "bernoulli_divergence_gradients",
    "categorical_divergence",
    "categorical_divergence_gradients",
    "category_log_probabilities",
    "compose",
    "compose_gradients",
    "dropout_noise",
    "elbo",
    "elbo_gradients",
    "evidence",
    "exchangeability",
    "frechet_distance",
    "gaussian_divergence",
    "gaussian_divergence_gradients",
    "gradient_energy_weights",
    "ground_noise",
    "ground_pixels",
    "ground_pixels_gradients",
    "identity_cross_entropy",
    "identity_cross_entropy_gradients",
    "identity_information",
    "identity_information_gradients",
    "map_of_places",
    "occurrence_noise",
    "patch_bottleneck",
    "patch_bottleneck_gradients",
    "place",
    "place_divergence",
    "place_divergence_gradients",
    "place_gradients",
    "place_noise",
    "places_of_cells",
    "pooled_patch_bottleneck",
    "pooled_patch_bottleneck_gradients",
    "psnr",
    "sample_place",
    "sample_place_gradients",
    "split_places",
    "split_places_gradients",
    "ssim",
    "weighted_squared_error",
    "weighted_squared_error_gradients",
]
