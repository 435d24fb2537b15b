"""Shared code of tests: comparison, Hypothesis strategies, and views with unusual strides."""

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

import reference
from accel import ops

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

FIELDS = ("code", "appearance_mean", "appearance_variance", "kl_appearance", "kl_occurrence")

# Unit roundoff: the largest relative error of storing one number.
ROUNDOFF = {torch.float64: 2.0**-53, torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}


def to_numpy(x):
    """Converts a tensor or array to a float64 array."""
    return x.detach().cpu().double().numpy() if isinstance(x, torch.Tensor) else np.asarray(x, np.float64)


def assert_close(name, got, expected, *, relative, absolute=0.0):
    """Checks that shapes agree, all values are finite, and |got − expected| ≤ absolute + relative · max |expected|.

    The error is relative to the largest element, because a sum of terms of both signs loses digits relative to the
    terms, not to the sum.
    """
    got, expected = to_numpy(got), to_numpy(expected)
    assert got.shape == expected.shape, f"{name}: shape {got.shape}, expected {expected.shape}"
    assert np.isfinite(got).all(), f"{name}: {np.count_nonzero(~np.isfinite(got))} elements are not finite"
    if got.size == 0:
        return
    error = np.abs(got - expected)
    bound = absolute + relative * np.abs(expected).max()
    worst = np.unravel_index(error.argmax(), error.shape)
    assert error.max() <= bound, (
        f"{name}: error {error.max():.3g} exceeds {bound:.3g} at {tuple(map(int, worst))}: "
        f"got {got[worst]:.9g}, expected {expected[worst]:.9g}"
    )


def restride(tensor, layout):
    """Returns the same numbers in another memory layout: contiguous, channels_last, sliced or permuted."""
    if layout == "contiguous":
        return tensor.contiguous()
    if layout == "channels_last":
        return tensor.contiguous(memory_format=torch.channels_last)
    batch, channels, height, width = tensor.shape
    if layout == "sliced":
        wider = tensor.new_full((batch, channels + 3, height, 2 * width), float("nan"))
        view = wider[:, 1 : channels + 1, :, ::2]
    else:
        view = tensor.new_full((width, batch, height, channels), float("nan")).permute(1, 3, 2, 0)
    view.copy_(tensor)
    return view


layouts = st.sampled_from(["contiguous", "channels_last", "sliced", "permuted"])


@st.composite
def bottleneck_cases(draw, max_parts=9, max_dim=17, max_side=9, dtype=torch.float64, pooled=False):
    """Inputs and options of patch_bottleneck (or of the pooled form), rounded to dtype, including extremes."""
    batch, parts = draw(st.integers(1, 3)), draw(st.integers(1, max_parts))
    part_dim = draw(st.integers(1, max_dim))
    height, width = draw(st.integers(1, max_side)), draw(st.integers(1, max_side))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    spread = draw(st.sampled_from([0.0, 1.0, 30.0, 1e4]))
    offset = draw(st.sampled_from([0.0, -5.0, 5.0, -1e4, 1e4]))
    logits = np.clip(offset + spread * rng.normal(size=(batch, parts, height, width)), -1e4, 1e4)
    numbers = (batch, parts * part_dim, height, width)
    arrays = [logits]
    if pooled:
        channels, kernel = draw(st.integers(1, 6)), draw(st.sampled_from([1, 3, 5]))
        scale = (channels * kernel**2) ** -0.5
        arrays = [
            rng.normal(size=(batch, channels, height, width)),
            logits,
            scale * rng.normal(size=(2 * parts * part_dim, channels, kernel, kernel)),
            rng.normal(size=2 * parts * part_dim),
        ]
    else:
        arrays += [rng.normal(size=numbers), rng.normal(size=numbers)]
    arrays = [to_numpy(torch.tensor(a).to(dtype)) for a in arrays]
    occurrence = draw(st.sampled_from(["bernoulli", "categorical"]))
    prior = draw(st.sampled_from([None, 1e-6, 0.05, 0.5, 1 - 1e-6]))
    if prior is not None and occurrence == "categorical":
        prior /= parts  # what the parts leave is none's
    options = {
        "temperature": draw(st.sampled_from([0.05, 0.1, 0.5, 1.0, 5.0])),
        "occurrence": occurrence,
        "occurrence_prior": prior,
        "appearance_prior_mean": draw(st.sampled_from([0.0, 2.0, -0.5])),
        "straight_through": draw(st.booleans()),
        "detach_weights": draw(st.booleans()),
        "sample": draw(st.booleans()),
    }
    if not pooled:
        options["variance"] = draw(st.sampled_from(["geometric", "arithmetic"]))
    address = {
        "seed": draw(st.integers(0, 2**64 - 1)),
        "step": draw(st.integers(0, 2**32 - 1)),
        "first_image": draw(st.integers(0, 2**20)),
    }
    incoming = {
        "code": rng.normal(size=numbers),
        "appearance_mean": rng.normal(size=(batch, parts, part_dim)),
        "appearance_variance": rng.normal(size=(batch, parts, part_dim)),
        "kl_appearance": rng.normal(size=batch),
        "kl_occurrence": rng.normal(size=batch),
    }
    # The code's gradient has the code's dtype, so the specification is given the rounded one.
    incoming["code"] = to_numpy(torch.tensor(incoming["code"]).to(dtype))
    return arrays, options, address, incoming


@st.composite
def extreme_cases(draw, max_parts=4, max_dim=3, max_side=4, dtype=torch.float64, pooled=False):
    """bottleneck_cases at the limits of what is defined: infinite logits, log-variances of −100 and 80, or of −105
    in some cells, temperature 10⁻³, prior 10⁻⁶.

    A variance of exp(100) is more than float32 holds; what becomes of it stands in a test of its own.
    """
    arrays, options, address, incoming = draw(bottleneck_cases(max_parts, max_dim, max_side, dtype, pooled))
    logits = arrays[1 if pooled else 0]
    kind = draw(st.sampled_from(["none", "some", "one part", "one cell", "all"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    signs = (
        rng.choice([-np.inf, np.inf], logits.shape) if draw(st.booleans()) else draw(st.sampled_from([-1, 1])) * np.inf
    )
    chosen = rng.random(logits.shape) < (0.3 if kind == "some" else float(kind == "all"))
    chosen[:, 0] |= kind == "one part"
    chosen[..., 0, 0] |= kind == "one cell"
    logits[...] = np.where(chosen, signs, logits)
    if not pooled:
        # Further apart than exponentials of a float32, also where w vanishes in the cells with the larger ones.
        apart = -105.0 * rng.integers(0, 2, logits.shape[2:])
        shift = apart if draw(st.booleans()) else draw(st.sampled_from([0.0, -100.0, 80.0]))
        arrays[2] = to_numpy(torch.tensor(arrays[2] + shift).to(dtype))
    options["temperature"] = draw(st.sampled_from([1e-3, 0.1, 1.0]))
    options["occurrence_prior"] = draw(st.sampled_from([None, 1e-6]))
    return arrays, options, address, incoming


def run_reference(arrays, options, address, incoming, pooled=False):
    """Returns the specification's (outputs by name, gradients in the order of the inputs)."""
    name = "pooled_patch_bottleneck" if pooled else "patch_bottleneck"
    noise = reference.Noise(**address)
    output = getattr(reference, name)(*arrays, noise=noise, **options)
    gradients = getattr(reference, f"{name}_gradients")(
        reference.PatchBottleneck(**incoming), *arrays, noise=noise, **options
    )
    return {field: getattr(output, field) for field in FIELDS}, gradients


def run_operator(tensors, options, address, incoming, pooled=False, **extra):
    """As `run_reference`, for the operator, with tensors of any dtype and layout; incoming gradients may be tensors."""
    operator = ops.pooled_patch_bottleneck if pooled else ops.patch_bottleneck
    leaves = [t.detach().requires_grad_() for t in tensors]
    output = operator(*leaves, noise=ops.Noise(**address), **options, **extra)
    outputs = [getattr(output, field) for field in FIELDS]
    cotangents = [
        torch.as_tensor(incoming[field], device=out.device).to(out.dtype)
        for field, out in zip(FIELDS, outputs, strict=True)
    ]
    gradients = torch.autograd.grad(outputs, leaves, cotangents)
    return dict(zip(FIELDS, outputs, strict=True)), gradients


def sharpness(options):
    """By how much more rounding counts in samples of a low temperature.

    Where a logit and its draw cancel, the rounding of both, 16 units, is divided by τ and multiplied by σ' ≤ ¼.
    """
    return max(1.0, 0.25 / options["temperature"])


def widening(arrays, pooled):
    """By how much more rounding counts where log-variances are large, of which exp is taken."""
    return 1.0 if pooled else max(1.0, np.abs(arrays[2]).max() / 8)


# Logits and log-variances of two cells: the one with the larger log-variance has a weight of 10⁻⁵² or less.
VANISHING = [([0.0, -120.0], [0.0, 110.0]), ([0.0, -1e4], [-50.0, 60.0]), ([-1e4, 0.0], [80.0, -100.0])]


def hold_vanishing_weights_to_the_equation(logits, log_variance, backend, device="cpu"):
    """log v = log Σ w exp(s), its gradient and KL_app under the arithmetic rule, from the sum's two terms."""
    log_p = -np.logaddexp(0.0, -np.array(logits))
    terms = log_p - np.logaddexp(*log_p) + log_variance
    expected, share = np.logaddexp(*terms), np.exp(terms - np.logaddexp(*terms))
    a, s = (torch.tensor(x, device=device).reshape(1, 1, 1, 2).float() for x in (logits, log_variance))
    out = ops.patch_bottleneck(
        a, torch.zeros_like(s), s.requires_grad_(), sample=False, variance="arithmetic", backend=backend
    )
    (gradient,) = torch.autograd.grad(out.kl_appearance.sum(), s)
    v = np.exp(expected)
    relative = 8 * ROUNDOFF[torch.float32] * max(map(abs, log_variance))  # of exponentials, whose arguments round
    assert_close("v", out.appearance_variance, [[[v]]], relative=relative, absolute=1e-37)
    assert_close("KL", out.kl_appearance, [0.5 * (v - 1 - expected)], relative=relative, absolute=relative)
    assert_close("gradient", gradient.flatten(), 0.5 * (v - 1) * share, relative=relative, absolute=relative)


def hold_overflow_to_reference(backend, device):
    """exp(100) is more than float32 holds: v and KL_app are the specification's, rounded, which is infinity, and the
    code and its gradients are exact.
    """
    rng = np.random.default_rng(0)
    arrays = [to_numpy(torch.tensor(rng.normal(size=(2, channels, 3, 2))).float()) for channels in (2, 4, 4)]
    arrays[2] = np.full_like(arrays[2], 100.0)
    address, options = {"seed": 1, "step": 2, "first_image": 3}, {"temperature": 0.7}
    nothing = {"appearance_mean": np.zeros((2, 2, 2)), "appearance_variance": np.zeros((2, 2, 2))}
    nothing |= {"kl_appearance": np.zeros(2), "kl_occurrence": np.zeros(2)}
    for variance in ("geometric", "arithmetic"):
        options["variance"] = variance
        expected, wanted = run_reference(arrays, options, address, {"code": np.ones((2, 4, 3, 2)), **nothing})
        leaves = [torch.tensor(a, dtype=torch.float32, device=device).requires_grad_() for a in arrays]
        out = ops.patch_bottleneck(*leaves, noise=ops.Noise(**address), backend=backend, **options)
        for field in ("appearance_variance", "kl_appearance"):
            assert (getattr(out, field) == torch.inf).all()
            assert (expected[field] > np.finfo(np.float32).max).all()
        # exp(50), from an exponent with an error of 50 · 2⁻²⁴ times a few
        assert_close("code", out.code, expected["code"], relative=1e-4)
        for name, got, gradient in zip("aμs", torch.autograd.grad(out.code.sum(), leaves), wanted, strict=True):
            assert_close(f"gradient of {name}", got, gradient, relative=1e-4)


def hold_a_nan_to_its_image(backend, device):
    """A NaN in an image is in the error of that image and in the weights of its channel, and gradients are NaN in that
    channel; everything else is as without it.
    """
    images = torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(0)).to(device)
    reconstruction = torch.zeros_like(images).requires_grad_()
    whole = ops.weighted_squared_error(reconstruction, images, 4, backend=backend)
    expected = torch.autograd.grad(whole.sum(), reconstruction)[0]
    images[1, 1, 3, 5] = torch.nan
    error = ops.weighted_squared_error(reconstruction, images, 4, backend=backend)
    gradient = torch.autograd.grad(error.sum(), reconstruction)[0]
    weights = ops.gradient_energy_weights(images, 4, backend=backend)
    theirs = reference.gradient_energy_weights(images.cpu().double().numpy(), 4)
    assert error.isnan().tolist() == [False, True]
    assert error[0] == whole[0]
    assert weights.isnan().cpu().numpy().tolist() == np.isnan(theirs).tolist()
    assert weights.isnan().flatten(2).all(2).tolist() == [[False, False], [False, True]]
    assert gradient.isnan().flatten(2).all(2).tolist() == [[False, False], [False, True]]
    assert torch.equal(gradient[0], expected[0])
    assert torch.equal(gradient[1, 0], expected[1, 0])


def hold_an_infinite_pixel_to_its_channel(backend, device):
    """∞/∞ is NaN: an infinite pixel makes its channel's weights NaN, and does not pass for an image without edges."""
    images = torch.zeros(1, 2, 8, 8, device=device)
    images[0, 1, 2, 3] = torch.inf
    weights = ops.gradient_energy_weights(images, 4, backend=backend)
    error = ops.weighted_squared_error(torch.ones_like(images), images, 4, backend=backend)
    assert (weights[0, 0] == 1).all()
    assert weights[0, 1].isnan().any()
    assert error.isnan().all()


def near_threshold(logits, options, address, margin=1e-4):
    """Whether a straight-through decision is so close that rounding may change it."""
    distribution = reference.BottleneckOptions(occurrence=options["occurrence"]).distribution
    logits = logits.reshape(*logits.shape[:2], -1)
    argument = distribution.argument(logits, reference.Noise(**address))
    logits = np.where(np.isinf(logits), 0.0, logits)  # which decide without doubt, or are exact equals
    if options["occurrence"] == "bernoulli":
        close, size = np.abs(argument), np.abs(logits)
    else:
        second, first = np.sort(argument, axis=1)[:, -2:].transpose(1, 0, 2)
        close, size = first - second, np.abs(logits).max(1)
    return bool((close < margin * np.maximum(1.0, size)).any())
