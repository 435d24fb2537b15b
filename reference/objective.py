"""The training loss: the negative evidence lower bound with its two β (paper, equations 8 to 11).

The paper swaps the two β in its equations. Its ablation of β_occ (Table 6) and the authors' release agree with the
pairing used here: β_app weights the appearance divergence, β_occ the occurrence divergence.
"""

from dataclasses import dataclass

import numpy as np

from .divergence import identity_information, identity_information_gradients
from .weighted_loss import weighted_squared_error, weighted_squared_error_gradients


@dataclass(frozen=True)
class Elbo:
    """The loss and its terms, each a scalar: means over images, in nats per image. The terms do not include β."""

    total: float
    reconstruction: float
    kl_appearance: float
    kl_occurrence: float
    identity: float | None = None


def elbo(output, images, beta_app=1.0, beta_occ=1.0, weighted=True, beta_identity=1.0):
    """The mean over images of  R + β_app · KL_app + β_occ · KL_occ  (+ KL_ground if the output has it, layers.py).

    output: anything with reconstruction (B, C, H, W), kl_appearance (B,) and kl_occurrence (B,), and optionally
    kl_ground (B,) or None.
    R = Σ ω (x − x̂)², with ω = 1 unless weighted.
    beta_identity: weight, relative to β_occ, of the information I about which part occurs, a part of KL_occ
    (`identity_information`): unless it is 1, the total has β_occ (KL_occ − (1 − β_id) I), and I / B is a term. The
    output then also has occurrence (B, N, …), the probabilities of categorical parts.
    """
    if weighted:
        error = weighted_squared_error(output.reconstruction, images)
    else:
        error = ((images - output.reconstruction) ** 2).sum((1, 2, 3))
    terms = error.mean(), output.kl_appearance.mean(), output.kl_occurrence.mean()
    ground = getattr(output, "kl_ground", None)
    weightless = 0.0 if ground is None else ground.mean()
    total = terms[0] + beta_app * terms[1] + beta_occ * terms[2] + weightless
    if beta_identity == 1:
        return Elbo(total, *terms)
    p = output.occurrence
    identity = identity_information(p.reshape(*p.shape[:2], -1)) / len(p)
    return Elbo(total - beta_occ * (1 - beta_identity) * identity, *terms, identity)


def elbo_gradients(d_total, output, images, beta_app=1.0, beta_occ=1.0, weighted=True, beta_identity=1.0):
    """Returns (d_reconstruction, d_kl_appearance, d_kl_occurrence), including the factors 1/B and β, and d_occurrence
    unless beta_identity is 1. That of kl_ground would be d_total / B.

    d_total: a number. The results are (B, C, H, W), (B,), (B,) and (B, N, …).
    """
    batch = len(images)
    d_error = np.full(batch, d_total / batch)
    if weighted:
        d_reconstruction, _ = weighted_squared_error_gradients(d_error, output.reconstruction, images)
    else:
        d_reconstruction = 2.0 * (output.reconstruction - images) * d_error[:, None, None, None]
    gradients = d_reconstruction, beta_app * d_error, beta_occ * d_error
    if beta_identity == 1:
        return gradients
    p, d_information = output.occurrence, -beta_occ * (1 - beta_identity) * d_total / batch
    return *gradients, identity_information_gradients(d_information, p.reshape(*p.shape[:2], -1)).reshape(p.shape)
