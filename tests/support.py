"""Shared code of tests: comparison, Hypothesis strategies, and views with unusual strides."""

import numpy as np
import torch
from hypothesis import strategies as st

import reference
from accel import ops

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


def near_threshold(logits, options, address, margin=1e-4):
    """Whether a straight-through decision is so close that rounding may change it."""
    distribution = reference.BottleneckOptions(occurrence=options["occurrence"]).distribution
    logits = logits.reshape(*logits.shape[:2], -1)
    argument = distribution.argument(logits, reference.Noise(**address))
    if options["occurrence"] == "bernoulli":
        close, size = np.abs(argument), np.abs(logits)
    else:
        second, first = np.sort(argument, axis=1)[:, -2:].transpose(1, 0, 2)
        close, size = first - second, np.abs(logits).max(1)
    return bool((close < margin * np.maximum(1.0, size)).any())
