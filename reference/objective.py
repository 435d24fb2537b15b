"""The training loss: the negative evidence lower bound with its two β (paper, equations 8 to 11).

The paper swaps the two β in its equations. Its ablation of β_occ (Table 6) and the authors' release agree with the
pairing used here: β_app weights the appearance divergence, β_occ the occurrence divergence.
"""

from dataclasses import dataclass

import numpy as np

from .weighted_loss import weighted_squared_error, weighted_squared_error_gradients


@dataclass(frozen=True)
class Elbo:
    """The loss and its terms, each a scalar: means over images, in nats per image. The terms do not include β."""

    total: float
    reconstruction: float
    kl_appearance: float
    kl_occurrence: float


def elbo(output, images, beta_app=1.0, beta_occ=1.0, weighted=True):
    """The mean over images of  R + β_app · KL_app + β_occ · KL_occ  (+ KL_ground if the output has it, layers.py).

    output: anything with reconstruction (B, C, H, W), kl_appearance (B,) and kl_occurrence (B,), and optionally
    kl_ground (B,) or None.
    R = Σ ω (x − x̂)², with ω = 1 unless weighted.
    """
    if weighted:
        error = weighted_squared_error(output.reconstruction, images)
    else:
        error = ((images - output.reconstruction) ** 2).sum((1, 2, 3))
    terms = error.mean(), output.kl_appearance.mean(), output.kl_occurrence.mean()
    ground = getattr(output, "kl_ground", None)
    weightless = 0.0 if ground is None else ground.mean()
    return Elbo(terms[0] + beta_app * terms[1] + beta_occ * terms[2] + weightless, *terms)


def elbo_gradients(d_total, output, images, beta_app=1.0, beta_occ=1.0, weighted=True):
    """Returns (d_reconstruction, d_kl_appearance, d_kl_occurrence), including the factors 1/B and β. That of kl_ground
    would be d_total / B.

    d_total: a number. The results are (B, C, H, W), (B,) and (B,).
    """
    batch = len(images)
    d_error = np.full(batch, d_total / batch)
    if weighted:
        d_reconstruction, _ = weighted_squared_error_gradients(d_error, output.reconstruction, images)
    else:
        d_reconstruction = 2.0 * (output.reconstruction - images) * d_error[:, None, None, None]
    return d_reconstruction, beta_app * d_error, beta_occ * d_error
