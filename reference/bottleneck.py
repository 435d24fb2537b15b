"""The PatchVAE bottleneck (paper, sections 3.2 and 3.3): pooling, sampling, placing, and the divergences.

Shapes: B images, N parts, D appearance dimensions, a grid of h × w = L cells. Maps are (B, N·D, h, w), where dimension
d of part n is channel n·D + d; inside, they are (B, N, D, L). In the gradients, d_x is the
derivative of the final scalar with respect to x.

The forward pass has two halves. The first pools each part's appearance over the cells, in one of two equivalent ways:
from appearance maps (patch_bottleneck), or from features before they are projected (pooled_patch_bottleneck). The
second half samples, places the samples, and computes the divergences; it is the same for both.
"""

from dataclasses import dataclass

import numpy as np

from .divergence import gaussian_divergence, gaussian_divergence_gradients
from .noise import Noise, appearance_noise
from .occurrence import DISTRIBUTIONS, occurrence_log_weights, occurrence_log_weights_gradients, sample_occurrence

VARIANCE_RULES = ("geometric", "arithmetic")


@dataclass(frozen=True)
class BottleneckOptions:
    """Options of the bottleneck: keyword arguments of all functions below.

    Raises ValueError for an unknown name, or a π not between 0 and 1.
    """

    variance: str = "geometric"  # or "arithmetic": how log-variances are pooled, see pool_appearance
    occurrence: str = "bernoulli"  # or "categorical": the distribution of occurrences, see occurrence.py
    occurrence_prior: float | None = None  # 0 < π < 1, categorical < 1/N; the distribution's default_prior if None
    appearance_prior_mean: float = 0.0  # c of the prior N(c, 1) of each appearance dimension
    straight_through: bool = False  # use discrete samples, with the gradient of the relaxed ones
    detach_weights: bool = True  # no gradient flows through the pooling weights w; the result is the same

    def __post_init__(self):
        if self.variance not in VARIANCE_RULES:
            raise ValueError(f"variance must be one of {', '.join(VARIANCE_RULES)}, got {self.variance!r}")
        if self.occurrence not in DISTRIBUTIONS:
            raise ValueError(f"occurrence must be one of {', '.join(DISTRIBUTIONS)}, got {self.occurrence!r}")
        if self.occurrence_prior is not None and not 0.0 < self.occurrence_prior < 1.0:
            raise ValueError(f"occurrence_prior must be between 0 and 1, both excluded, got {self.occurrence_prior}")

    @property
    def distribution(self):
        """Bernoulli or Categorical."""
        return DISTRIBUTIONS[self.occurrence]

    def prior(self, parts):
        """π as given, or the default of the distribution; ValueError if N·π leaves nothing for "none"."""
        if self.occurrence_prior is None:
            return self.distribution.default_prior(parts)
        if self.occurrence == "categorical" and not self.occurrence_prior < 1 / parts:
            raise ValueError(
                f"occurrence_prior must be below 1/N = {1 / parts:g} for categorical occurrences of {parts} parts, got "
                f"{self.occurrence_prior:g}"
            )
        return self.occurrence_prior


@dataclass(frozen=True)
class Draw:
    """How to sample: temperature τ > 0 and noise; sample=False uses the means (z_app = m, y = p)."""

    temperature: float = 1.0
    noise: Noise | None = None
    sample: bool = True

    def __post_init__(self):
        if self.sample and self.noise is None:
            raise ValueError("sample=True draws from the posteriors and needs noise=Noise(seed, step, first_image)")
        if not 0.0 < self.temperature < np.inf:
            raise ValueError(f"temperature must be positive and finite, got {self.temperature}")

    @property
    def noise_drawn(self):
        """The noise, or None without sampling."""
        return self.noise if self.sample else None


@dataclass(frozen=True)
class PatchBottleneck:
    """The result of the bottleneck; in the gradient functions, the derivatives with respect to these fields."""

    code: np.ndarray  # (B, N·D, h, w), the patch latent code ẑ
    appearance_mean: np.ndarray  # (B, N, D), m
    appearance_variance: np.ndarray  # (B, N, D), v
    kl_appearance: np.ndarray  # (B,), nats
    kl_occurrence: np.ndarray  # (B,), nats


# First half: one appearance per part and image


def pool_appearance(log_weights, mean, log_variance, variance):
    """m = Σ_l w_l μ_l, and log v by one of two rules. log w (B, N, L), maps (B, N, D, L) → m, log v, each (B, N, D).

        geometric:   log v = Σ_l w_l s_l
        arithmetic:  v = Σ_l w_l exp(s_l)

    The geometric rule is linear in the map s, as the mean is in μ; pooled_patch_bottleneck relies on this. The
    arithmetic rule is that of the authors' release.
    """
    weights = np.exp(log_weights)
    pooled_mean = np.einsum("bnl,bndl->bnd", weights, mean)
    if variance == "geometric":
        return pooled_mean, np.einsum("bnl,bndl->bnd", weights, log_variance)
    # Relative to the largest term, so that exp neither overflows nor underflows, even if the largest s has w = 0.
    terms = log_weights[:, :, None] + log_variance
    peak = terms.max(-1)
    return pooled_mean, peak + np.log(np.exp(terms - peak[..., None]).sum(-1))


def pool_appearance_gradients(d_mean, d_log_variance, log_weights, mean, log_variance, variance):
    """Returns (d_log w, d_μ, d_s), where d_log w_l = w_l d_w_l.

    geometric:   d_μ_l = w_l d_m,  d_s_l = w_l d_log v,  d_log w_l = Σ_d (d_μ_l μ_l + d_s_l s_l)
    arithmetic:  d_s_l = r_l d_log v with the share r_l = w_l exp(s_l) / v,  d_log w_l = Σ_d (d_μ_l μ_l + d_s_l)
    """
    weights = np.exp(log_weights)[:, :, None]
    d_mean_map = d_mean[..., None] * weights
    if variance == "geometric":
        d_log_variance_map = d_log_variance[..., None] * weights
        share = d_log_variance_map * log_variance
    else:
        _, pooled = pool_appearance(log_weights, mean, log_variance, variance)
        share = d_log_variance[..., None] * np.exp(log_weights[:, :, None] + log_variance - pooled[..., None])
        d_log_variance_map = share
    return (d_mean_map * mean + share).sum(2), d_mean_map, d_log_variance_map


# Second half: samples, code, divergences


def sample_appearance(mean, log_variance, epsilon):
    """z_app = m + √v · ε."""
    return mean + np.exp(0.5 * log_variance) * epsilon


def _epsilon(draw, shape):
    """ε ~ N(0, 1) for each appearance dimension, or 0 without sampling."""
    return appearance_noise(draw.noise, *shape) if draw.sample else np.zeros(shape)


def _sample_and_place(logits, mean, log_variance, options, draw):
    """ẑ[b, n, d, l] = z_app[b, n, d] · y[b, n, l], and both divergences (equations 9 and 11)."""
    z = sample_appearance(mean, log_variance, _epsilon(draw, mean.shape))
    y, _, _ = sample_occurrence(
        options.distribution, logits, draw.temperature, draw.noise_drawn, options.straight_through
    )
    code = z[..., None] * y[:, :, None]
    kl_appearance = gaussian_divergence(mean, log_variance, options.appearance_prior_mean).sum((1, 2))
    kl_occurrence = options.distribution.divergence(logits, options.prior(logits.shape[1]))
    return code, np.exp(log_variance), kl_appearance, kl_occurrence


def _sample_and_place_gradients(d_output, d_code, logits, mean, log_variance, options, draw):
    """Returns (d_a, d_m, d_log v), where d_a does not include the gradient through the pooling weights.

        d_z = Σ_l d_ẑ y_l,    d_y_l = Σ_d d_ẑ z_d,    d_a = relax_gradients(d_y, x) dx/da
        d_m = d_z,            d_log v = d_z ½ √v ε + d_v v

    plus the gradients of both divergences. With straight_through, y is discrete, with the gradient of the relaxed
    sample.
    """
    distribution, prior = options.distribution, options.prior(logits.shape[1])
    epsilon = _epsilon(draw, mean.shape)
    z = sample_appearance(mean, log_variance, epsilon)
    y, x, slope = sample_occurrence(distribution, logits, draw.temperature, draw.noise_drawn, options.straight_through)
    variance = np.exp(log_variance)
    d_z = np.einsum("bndl,bnl->bnd", d_code, y)
    d_y = np.einsum("bndl,bnd->bnl", d_code, z)
    kl_mean, kl_log_variance = gaussian_divergence_gradients(
        d_output.kl_appearance[:, None, None], mean, log_variance, options.appearance_prior_mean
    )
    d_mean = d_z + d_output.appearance_mean + kl_mean
    d_log_variance = d_z * 0.5 * np.sqrt(variance) * epsilon + d_output.appearance_variance * variance + kl_log_variance
    d_logits = distribution.relax_gradients(d_y, x) * slope
    d_logits = d_logits + distribution.divergence_gradients(d_output.kl_occurrence, logits, prior)
    return d_logits, d_mean, d_log_variance


def _of_finite(d_logits, logits):
    """0 for infinite logits, which no finite step changes."""
    return np.where(np.isinf(logits), 0.0, d_logits)


# The operators


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
    sample=True,
    **options,
):
    """The bottleneck from maps: a (B, N, h, w), μ and s (B, N·D, h, w) → PatchBottleneck.

        log w = occurrence_log_weights(a),   (m, log v) = pool_appearance(log w, μ, s)
        ẑ[n·D + d, l] = z_app[n, d] · y[n, l]
        KL_app = Σ_{n,d} KL(N(m, v) ‖ N(c, 1)),   KL_occ = Σ_l KL(p ‖ π) of the distribution of occurrences

    temperature, noise, sample: fields of Draw. options: the fields of BottleneckOptions.
    """
    options, draw = BottleneckOptions(**options), Draw(temperature, noise, sample)
    images, parts, _, _ = occurrence_logits.shape
    logits = occurrence_logits.reshape(images, parts, -1)
    mean, log_variance = pool_appearance(
        occurrence_log_weights(options.distribution, logits),
        _cells(appearance_mean, parts),
        _cells(appearance_log_variance, parts),
        options.variance,
    )
    code, variance, kl_appearance, kl_occurrence = _sample_and_place(logits, mean, log_variance, options, draw)
    return PatchBottleneck(code.reshape(appearance_mean.shape), mean, variance, kl_appearance, kl_occurrence)


def patch_bottleneck_gradients(
    d_output,
    occurrence_logits,
    appearance_mean,
    appearance_log_variance,
    *,
    temperature=1.0,
    noise=None,
    sample=True,
    **options,
):
    """(d_a, d_μ, d_s) of patch_bottleneck, from d_output, a PatchBottleneck of incoming derivatives.

    The second half gives d_m and d_log v, and pool_appearance_gradients distributes them over the cells. With
    detach_weights=False, d_log w is propagated to the logits. Gradients have the shapes of the inputs: (B, N, h, w),
    (B, N·D, h, w).
    """
    options, draw = BottleneckOptions(**options), Draw(temperature, noise, sample)
    images, parts, _, _ = occurrence_logits.shape
    logits = occurrence_logits.reshape(images, parts, -1)
    log_weights = occurrence_log_weights(options.distribution, logits)
    maps = _cells(appearance_mean, parts), _cells(appearance_log_variance, parts)
    mean, log_variance = pool_appearance(log_weights, *maps, options.variance)
    d_logits, d_mean, d_log_variance = _sample_and_place_gradients(
        d_output, _cells(d_output.code, parts), logits, mean, log_variance, options, draw
    )
    d_log_weights, d_mean_map, d_log_variance_map = pool_appearance_gradients(
        d_mean, d_log_variance, log_weights, *maps, options.variance
    )
    if not options.detach_weights:
        d_logits = d_logits + occurrence_log_weights_gradients(options.distribution, d_log_weights, logits)
    return (
        _of_finite(d_logits, logits).reshape(occurrence_logits.shape),
        d_mean_map.reshape(appearance_mean.shape),
        d_log_variance_map.reshape(appearance_log_variance.shape),
    )


# The bottleneck from features


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
    """The vector-Jacobian product of `shifted`: adds each shifted copy at its origin, without the padding."""
    kernel_size = d_shifted.shape[2]
    reach = kernel_size // 2
    height, width = d_shifted.shape[-2:]
    d_padded = np.zeros((*d_shifted.shape[:2], height + 2 * reach, width + 2 * reach))
    for i in range(kernel_size):
        for j in range(kernel_size):
            d_padded[..., i : i + height, j : j + width] += d_shifted[:, :, i, j]
    return d_padded[..., reach : reach + height, reach : reach + width]


def convolution(features, weight, bias):
    """(W ∗ f + bias)_{c,l} = Σ_{e,δ} W[c, e, δ] f[e, l+δ] + bias_c: the projection of a head."""
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
    sample=True,
    **options,
):
    """patch_bottleneck(a, μ, s) with (μ, s) = W ∗ f + bias, without computing μ and s.

    For the geometric rule, m and log v are averages of the output of a convolution, with weights that sum to one.
    Averaging and convolution are both linear, so they can be exchanged:

        Σ_l w_l (W ∗ f + bias)_l = Σ_δ W_δ (Σ_l w_l f_{l+δ}) + bias

    So features are pooled for each shift, and then one vector per part is projected instead of one per cell.
    features: f (B, E, h, w). weight: W (2·N·D, E, k, k), k odd, the first N·D outputs for μ, the others for
    s; zero padding. bias: (2·N·D,).
    """
    options, draw = _geometric_options(options), Draw(temperature, noise, sample)
    images, parts, height, width = occurrence_logits.shape
    logits = occurrence_logits.reshape(images, parts, -1)
    weights = np.exp(occurrence_log_weights(options.distribution, logits))
    mean, log_variance = _pool_features(weights, features, weight, bias)
    code, variance, kl_appearance, kl_occurrence = _sample_and_place(logits, mean, log_variance, options, draw)
    return PatchBottleneck(code.reshape(images, -1, height, width), mean, variance, kl_appearance, kl_occurrence)


def _geometric_options(options):
    """The options, which must use the geometric rule; ValueError otherwise."""
    options = BottleneckOptions(**options)
    if options.variance != "geometric":
        raise ValueError("variance must be 'geometric': only this rule allows pooling features before projecting them")
    return options


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
    sample=True,
    **options,
):
    """(d_f, d_a, d_W, d_bias) of pooled_patch_bottleneck, in the shapes of f (B, E, h, w), a (B, N, h, w), W, bias.

    With g = (d_m, d_log v) and the pooled features F[n, δ] = Σ_l w_l f_{l+δ}:

        d_W_δ = Σ_b g F[δ],        d_bias = Σ_b g,             d_F[δ] = Wᵀ_δ g,
        d_f_{l+δ} += w_l d_F[δ],   d_w_l = Σ_δ d_F[δ] · f_{l+δ}
    """
    options, draw = _geometric_options(options), Draw(temperature, noise, sample)
    images, parts, height, width = occurrence_logits.shape
    logits = occurrence_logits.reshape(images, parts, -1)
    weights = np.exp(occurrence_log_weights(options.distribution, logits))
    mean, log_variance = _pool_features(weights, features, weight, bias)
    d_logits, d_mean, d_log_variance = _sample_and_place_gradients(
        d_output, _cells(d_output.code, parts), logits, mean, log_variance, options, draw
    )
    d_projected = np.stack([d_mean, d_log_variance])
    patches = _patches(features, weight.shape[-1])
    pooled = np.einsum("bnl,beijl->bneij", weights, patches)
    d_weight = np.einsum("rbnd,bneij->rndeij", d_projected, pooled).reshape(weight.shape)
    d_bias = d_projected.sum(1).reshape(bias.shape)
    d_pooled = np.einsum("rndeij,rbnd->bneij", _part_kernels(weight, parts), d_projected)
    d_patches = np.einsum("bnl,bneij->beijl", weights, d_pooled)
    d_features = shifted_gradients(d_patches.reshape(*patches.shape[:4], height, width))
    if not options.detach_weights:
        d_weights = np.einsum("bneij,beijl->bnl", d_pooled, patches)
        d_logits = d_logits + occurrence_log_weights_gradients(options.distribution, weights * d_weights, logits)
    return d_features, _of_finite(d_logits, logits).reshape(occurrence_logits.shape), d_weight, d_bias
