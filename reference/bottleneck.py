"""The PatchVAE bottleneck (paper, sections 3.2 and 3.3): pool, sample, place, and what it costs.

Shapes: B images, N parts, D numbers of appearance a part, a grid of h × w = L cells. Maps are (B, N·D, h, w),
where part n, number d is channel n·D + d; inside, they are (B, N, D, L). In the gradients, d_x is the
derivative of the final scalar with respect to x.

The forward pass has two halves. The first pools each part's appearance over the cells, in one of two ways
that agree: from appearance maps (patch_bottleneck), or from features before they are mapped
(pooled_patch_bottleneck). The second samples, places and measures; it is the same for both.
"""

from dataclasses import dataclass

import numpy as np

from .divergence import (
    bernoulli_divergence,
    bernoulli_divergence_gradients,
    gaussian_divergence,
    gaussian_divergence_gradients,
    log_sigmoid,
    sigmoid,
)
from .noise import appearance_noise, occurrence_noise


@dataclass(frozen=True)
class PatchBottleneck:
    """What the bottleneck gives, and in the gradients, the derivative with respect to each of these."""

    code: np.ndarray  # (B, N·D, h, w), the patch latent code ẑ
    appearance_mean: np.ndarray  # (B, N, D), m
    appearance_variance: np.ndarray  # (B, N, D), v
    kl_appearance: np.ndarray  # (B,), nats
    kl_occurrence: np.ndarray  # (B,), nats


# First half: one appearance for each part of an image


def occurrence_weights(occurrence_logits):
    """w_l = p_l / Σ_j p_j  with  p = σ(a), formed in log space. (B, N, L) → (B, N, L).

        log w_l = log σ(a_l) − log Σ_j exp(log σ(a_j))

    Where every p rounds to zero the logarithms still differ, so a part that is nowhere has an exact average
    too, and no ε is needed in the denominator.
    """
    log_probability = log_sigmoid(occurrence_logits)
    relative = np.exp(log_probability - log_probability.max(-1, keepdims=True))
    return relative / relative.sum(-1, keepdims=True)


def occurrence_weights_gradients(d_weights, occurrence_logits):
    """d_a_l = σ(−a_l) w_l (d_w_l − Σ_j w_j d_w_j): a softmax over log σ(a), whose derivative is σ(−a)."""
    weights = occurrence_weights(occurrence_logits)
    centred = d_weights - (weights * d_weights).sum(-1, keepdims=True)
    return sigmoid(-occurrence_logits) * weights * centred


def pool_appearance(weights, mean, log_variance, variance):
    """m = Σ_l w_l μ_l, and log v by one of two rules. Maps (B, N, D, L) → m, log v, each (B, N, D).

        geometric:   log v = Σ_l w_l s_l
        arithmetic:  v = Σ_l w_l exp(s_l)

    The geometric rule is linear in the map s, as the mean is in μ, which is what pooled_patch_bottleneck
    lives on. The arithmetic rule is the authors' release's.
    """
    pooled_mean = np.einsum("bnl,bndl->bnd", weights, mean)
    if variance == "geometric":
        return pooled_mean, np.einsum("bnl,bndl->bnd", weights, log_variance)
    # Relative to each pooled number's largest s, so that exp neither overflows nor vanishes.
    peak = log_variance.max(-1)
    spread = np.einsum("bnl,bndl->bnd", weights, np.exp(log_variance - peak[..., None]))
    return pooled_mean, peak + np.log(spread)


def pool_appearance_gradients(d_mean, d_log_variance, weights, mean, log_variance, variance):
    """Returns (d_w, d_μ, d_s).

    geometric:   d_μ_l = w_l d_m,  d_s_l = w_l d_log v,                  d_w_l = Σ_d (d_m μ_l + d_log v s_l)
    arithmetic:  d_s_l = w_l r_l d_log v with r_l = exp(s_l − log v),    d_w_l = Σ_d (d_m μ_l + d_log v r_l)
    """
    if variance == "geometric":
        pooled, slope = log_variance, np.ones_like(log_variance)
    else:
        _, pooled_log_variance = pool_appearance(weights, mean, log_variance, variance)
        pooled = slope = np.exp(log_variance - pooled_log_variance[..., None])
    d_weights = np.einsum("bnd,bndl->bnl", d_mean, mean) + np.einsum("bnd,bndl->bnl", d_log_variance, pooled)
    d_mean_map = d_mean[..., None] * weights[:, :, None]
    d_log_variance_map = d_log_variance[..., None] * weights[:, :, None] * slope
    return d_weights, d_mean_map, d_log_variance_map


# Second half: sample, place, measure


def sample_appearance(mean, log_variance, epsilon):
    """z_app = m + √v · ε."""
    return mean + np.exp(0.5 * log_variance) * epsilon


def sample_occurrence(occurrence_logits, uniform, temperature):
    """y = σ((a + log u − log(1 − u)) / τ): relaxed Bernoulli (binary Concrete; Maddison et al. 2017).

    log u − log(1 − u) is a logistic draw, so the argument is positive with probability exactly σ(a): as
    τ → 0, y becomes a Bernoulli(p) sample. Returns that sample, 1[argument > 0], beside y.
    """
    argument = occurrence_logits + np.log(uniform) - np.log1p(-uniform)
    return sigmoid(argument / temperature), (argument > 0).astype(np.float64)


def _sample(occurrence_logits, mean, log_variance, temperature, noise, straight_through, sample):
    """z_app (B, N, D), the y to place (B, N, L), its derivative by the logit, and ε."""
    if not sample:
        p = sigmoid(occurrence_logits)
        return mean, p, p * sigmoid(-occurrence_logits), np.zeros_like(mean)
    if noise is None:
        raise ValueError("sample=True draws from the posteriors and needs noise=Noise(seed, step, first_image)")
    epsilon = appearance_noise(noise, *mean.shape)
    relaxed, hard = sample_occurrence(occurrence_logits, occurrence_noise(noise, *occurrence_logits.shape), temperature)
    slope = relaxed * (1.0 - relaxed) / temperature
    return (
        sample_appearance(mean, log_variance, epsilon),
        hard if straight_through else relaxed,
        slope,
        epsilon,
    )


def _second_half(occurrence_logits, mean, log_variance, prior, prior_mean, **sampling):
    """ẑ[b, n, d, l] = z_app[b, n, d] · y[b, n, l], and both divergences (equations 9 and 11)."""
    z, y, _, _ = _sample(occurrence_logits, mean, log_variance, **sampling)
    code = z[..., None] * y[:, :, None]
    kl_appearance = gaussian_divergence(mean, log_variance, prior_mean).sum((1, 2))
    kl_occurrence = bernoulli_divergence(occurrence_logits, prior).sum((1, 2))
    return code, np.exp(log_variance), kl_appearance, kl_occurrence


def _second_half_gradients(d_output, d_code, occurrence_logits, mean, log_variance, prior, prior_mean, **sampling):
    """Returns (d_a, d_m, d_log v), the part of d_a that comes through the weights not included.

        d_z = Σ_l d_ẑ y_l,    d_y_l = Σ_d d_ẑ z_d,    d_a_l = d_y_l ∂y_l/∂a_l
        d_m = d_z,            d_log v = d_z ½ √v ε + d_v v

    and each divergence adds its own. With straight_through, y is the hard sample, ∂y/∂a the relaxed one's.
    """
    z, y, slope, epsilon = _sample(occurrence_logits, mean, log_variance, **sampling)
    variance = np.exp(log_variance)
    d_z = np.einsum("bndl,bnl->bnd", d_code, y)
    d_y = np.einsum("bndl,bnd->bnl", d_code, z)
    kl_mean, kl_log_variance = gaussian_divergence_gradients(
        d_output.kl_appearance[:, None, None], mean, log_variance, prior_mean
    )
    d_mean = d_z + d_output.appearance_mean + kl_mean
    d_log_variance = d_z * 0.5 * np.sqrt(variance) * epsilon + d_output.appearance_variance * variance + kl_log_variance
    d_logits = d_y * slope + bernoulli_divergence_gradients(
        d_output.kl_occurrence[:, None, None], occurrence_logits, prior
    )
    return d_logits, d_mean, d_log_variance


# The operators


def _prior(occurrence_prior, parts):
    """π = 1/N unless given: one part a cell is expected. A single part would get 1, which has no logit, so ½."""
    return 1.0 / max(parts, 2) if occurrence_prior is None else occurrence_prior


def _cells(maps, parts):
    """(B, N·D, h, w) → (B, N, D, L)."""
    images, channels, height, width = maps.shape
    return maps.reshape(images, parts, channels // parts, height * width)


def patch_bottleneck(
    occurrence_logits,
    appearance_mean,
    appearance_log_variance,
    *,
    temperature=1.0,
    noise=None,
    occurrence_prior=None,
    appearance_prior_mean=0.0,
    variance="geometric",
    straight_through=False,
    detach_weights=True,
    sample=True,
):
    """Pool, sample and place from maps: a (B, N, h, w), μ and s (B, N·D, h, w) → PatchBottleneck.

        w = occurrence_weights(a),   (m, log v) = pool_appearance(w, μ, s)
        ẑ[n·D + d, l] = z_app[n, d] · y[n, l]
        KL_app = Σ_{n,d} KL(N(m, v) ‖ N(c, 1)),   KL_occ = Σ_{n,l} KL(Bern(p) ‖ Bern(π))

    temperature: τ > 0. noise: a Noise, needed when sampling. occurrence_prior: 0 < π < 1, see _prior.
    appearance_prior_mean: c. variance: "geometric" or "arithmetic". straight_through: place the hard sample, with the
    relaxed one's gradient. detach_weights concerns the gradient alone: no gradient flows through w. sample=False takes
    z_app = m and y = p.
    """
    images, parts, _, _ = occurrence_logits.shape
    logits = occurrence_logits.reshape(images, parts, -1)
    mean, log_variance = pool_appearance(
        occurrence_weights(logits),
        _cells(appearance_mean, parts),
        _cells(appearance_log_variance, parts),
        variance,
    )
    code, pooled_variance, kl_appearance, kl_occurrence = _second_half(
        logits, mean, log_variance, _prior(occurrence_prior, parts), appearance_prior_mean,
        temperature=temperature, noise=noise, straight_through=straight_through, sample=sample,
    )  # fmt: skip
    return PatchBottleneck(code.reshape(appearance_mean.shape), mean, pooled_variance, kl_appearance, kl_occurrence)


def patch_bottleneck_gradients(
    d_output,
    occurrence_logits,
    appearance_mean,
    appearance_log_variance,
    *,
    temperature=1.0,
    noise=None,
    occurrence_prior=None,
    appearance_prior_mean=0.0,
    variance="geometric",
    straight_through=False,
    detach_weights=True,
    sample=True,
):
    """(d_a, d_μ, d_s) of patch_bottleneck, from d_output, a PatchBottleneck of incoming derivatives.

    The second half gives d_m and d_log v; pool_appearance_gradients spreads them over the cells, and with
    detach_weights=False sends d_w back into the logits.
    """
    images, parts, _, _ = occurrence_logits.shape
    logits = occurrence_logits.reshape(images, parts, -1)
    weights = occurrence_weights(logits)
    maps = _cells(appearance_mean, parts), _cells(appearance_log_variance, parts)
    mean, log_variance = pool_appearance(weights, *maps, variance)
    d_logits, d_mean, d_log_variance = _second_half_gradients(
        d_output, _cells(d_output.code, parts), logits, mean, log_variance,
        _prior(occurrence_prior, parts), appearance_prior_mean,
        temperature=temperature, noise=noise, straight_through=straight_through, sample=sample,
    )  # fmt: skip
    d_weights, d_mean_map, d_log_variance_map = pool_appearance_gradients(
        d_mean, d_log_variance, weights, *maps, variance
    )
    if not detach_weights:
        d_logits = d_logits + occurrence_weights_gradients(d_weights, logits)
    return (
        d_logits.reshape(occurrence_logits.shape),
        d_mean_map.reshape(appearance_mean.shape),
        d_log_variance_map.reshape(appearance_log_variance.shape),
    )


# The same, from features


def shifted(maps, kernel_size):
    """f_{l+δ} for each offset δ of a k × k kernel, zero outside: (B, C, h, w) → (B, C, k, k, h, w)."""
    reach = kernel_size // 2
    height, width = maps.shape[-2:]
    padded = np.pad(maps, ((0, 0), (0, 0), (reach, reach), (reach, reach)))
    rows = [
        np.stack([padded[..., i : i + height, j : j + width] for j in range(kernel_size)], axis=2)
        for i in range(kernel_size)
    ]
    return np.stack(rows, axis=2)


def shifted_gradients(d_shifted):
    """Each shifted copy goes back to where it came from, and what fell outside is dropped."""
    kernel_size = d_shifted.shape[2]
    reach = kernel_size // 2
    height, width = d_shifted.shape[-2:]
    d_padded = np.zeros((*d_shifted.shape[:2], height + 2 * reach, width + 2 * reach))
    for i in range(kernel_size):
        for j in range(kernel_size):
            d_padded[..., i : i + height, j : j + width] += d_shifted[:, :, i, j]
    return d_padded[..., reach : reach + height, reach : reach + width]


def convolution(features, weight, bias):
    """(W ∗ f + bias)_{c,l} = Σ_{e,δ} W[c, e, δ] f[e, l+δ] + bias_c: the head that maps each number."""
    patches = shifted(features, weight.shape[-1])
    return np.einsum("ceij,beijhw->bchw", weight, patches) + bias[:, None, None]


def pooled_patch_bottleneck(
    features,
    occurrence_logits,
    weight,
    bias,
    *,
    temperature=1.0,
    noise=None,
    occurrence_prior=None,
    appearance_prior_mean=0.0,
    straight_through=False,
    detach_weights=True,
    sample=True,
):
    """patch_bottleneck(a, μ, s) with (μ, s) = W ∗ f + bias, without ever forming μ and s.

    Under the geometric rule both pooled numbers are averages of a convolution's output with weights that sum
    to one, and averaging and convolution are linear, so they change places:

        Σ_l w_l (W ∗ f + bias)_l = Σ_δ W_δ (Σ_l w_l f_{l+δ}) + bias

    Pool the features under each shift, then project one vector a part instead of one a cell.
    features: f (B, E, h, w). weight: W (2·N·D, E, k, k), k odd, the first N·D outputs for μ, the others for
    s; zero padding. bias: (2·N·D,).
    """
    images, parts, height, width = occurrence_logits.shape
    logits = occurrence_logits.reshape(images, parts, -1)
    mean, log_variance = _pool_features(occurrence_weights(logits), features, weight, bias)
    code, pooled_variance, kl_appearance, kl_occurrence = _second_half(
        logits, mean, log_variance, _prior(occurrence_prior, parts), appearance_prior_mean,
        temperature=temperature, noise=noise, straight_through=straight_through, sample=sample,
    )  # fmt: skip
    return PatchBottleneck(code.reshape(images, -1, height, width), mean, pooled_variance, kl_appearance, kl_occurrence)


def _patches(features, kernel_size):
    """(B, E, h, w) → (B, E, k, k, L)."""
    patches = shifted(features, kernel_size)
    return patches.reshape(*patches.shape[:4], -1)


def _part_kernels(weight, parts):
    """W (2·N·D, E, k, k) → (2, N, D, E, k, k), the 2 for mean and log-variance."""
    return weight.reshape(2, parts, -1, *weight.shape[1:])


def _pool_features(weights, features, weight, bias):
    """m and log v, each (B, N, D)."""
    parts = weights.shape[1]
    pooled = np.einsum("bnl,beijl->bneij", weights, _patches(features, weight.shape[-1]))
    projected = np.einsum("rndeij,bneij->rbnd", _part_kernels(weight, parts), pooled)
    mean, log_variance = projected + bias.reshape(2, 1, parts, -1)
    return mean, log_variance


def pooled_patch_bottleneck_gradients(
    d_output,
    features,
    occurrence_logits,
    weight,
    bias,
    *,
    temperature=1.0,
    noise=None,
    occurrence_prior=None,
    appearance_prior_mean=0.0,
    straight_through=False,
    detach_weights=True,
    sample=True,
):
    """(d_f, d_a, d_W, d_bias) of pooled_patch_bottleneck.

    With g = (d_m, d_log v) and the pooled features F[n, δ] = Σ_l w_l f_{l+δ}:

        d_W_δ = Σ_b g F[δ],        d_bias = Σ_b g,             d_F[δ] = Wᵀ_δ g,
        d_f_{l+δ} += w_l d_F[δ],   d_w_l = Σ_δ d_F[δ] · f_{l+δ}
    """
    images, parts, height, width = occurrence_logits.shape
    kernel_size = weight.shape[-1]
    logits = occurrence_logits.reshape(images, parts, -1)
    weights = occurrence_weights(logits)
    mean, log_variance = _pool_features(weights, features, weight, bias)
    d_logits, d_mean, d_log_variance = _second_half_gradients(
        d_output, _cells(d_output.code, parts), logits, mean, log_variance,
        _prior(occurrence_prior, parts), appearance_prior_mean,
        temperature=temperature, noise=noise, straight_through=straight_through, sample=sample,
    )  # fmt: skip
    d_projected = np.stack([d_mean, d_log_variance])
    patches = _patches(features, kernel_size)
    pooled = np.einsum("bnl,beijl->bneij", weights, patches)
    d_weight = np.einsum("rbnd,bneij->rndeij", d_projected, pooled).reshape(weight.shape)
    d_bias = d_projected.sum(1).reshape(bias.shape)
    d_pooled = np.einsum("rndeij,rbnd->bneij", _part_kernels(weight, parts), d_projected)
    d_patches = np.einsum("bnl,bneij->beijl", weights, d_pooled)
    d_features = shifted_gradients(d_patches.reshape(*patches.shape[:4], height, width))
    if not detach_weights:
        d_weights = np.einsum("bneij,beijl->bnl", d_pooled, patches)
        d_logits = d_logits + occurrence_weights_gradients(d_weights, logits)
    return d_features, d_logits.reshape(occurrence_logits.shape), d_weight, d_bias
