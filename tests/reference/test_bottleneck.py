"""Pooling identities, the two heads' agreement, and every gradient against central differences."""

import dataclasses
import inspect

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import reference
from reference import bottleneck
from tests.support import FIELDS, assert_close, bottleneck_cases, near_threshold, run_reference


def draw_maps(rng, batch=2, parts=3, part_dim=4, height=5, width=3, spread=2.0):
    logits = spread * rng.normal(size=(batch, parts, height, width))
    shape = (batch, parts * part_dim, height, width)
    return logits, rng.normal(size=shape), rng.normal(size=shape)


@given(constant=st.floats(-1e4, 1e4) | st.sampled_from([-np.inf, np.inf]), seed=st.integers(0, 999))
def test_equal_logits_give_the_plain_mean(constant, seed):
    logits, mean, log_variance = draw_maps(np.random.default_rng(seed))
    for rule in ("geometric", "arithmetic"):
        out = reference.patch_bottleneck(
            np.full_like(logits, constant), mean, log_variance, variance=rule, sample=False
        )
        assert_close("m", out.appearance_mean.reshape(2, 12), mean.mean((2, 3)), relative=1e-14)
        expected = np.exp(log_variance.mean((2, 3))) if rule == "geometric" else np.exp(log_variance).mean((2, 3))
        assert_close("v", out.appearance_variance.reshape(2, 12), expected, relative=1e-13)


@given(cell=st.integers(0, 14), seed=st.integers(0, 999))
def test_one_cell_near_one_gives_that_cell(cell, seed):
    logits, mean, log_variance = draw_maps(np.random.default_rng(seed))
    logits = np.full_like(logits, -50.0)
    logits.reshape(2, 3, 15)[..., cell] = 50.0
    for rule in ("geometric", "arithmetic"):
        out = reference.patch_bottleneck(logits, mean, log_variance, variance=rule, sample=False)
        # The other fourteen cells weigh exp(−50) each.
        assert_close("m", out.appearance_mean.reshape(2, 12), mean.reshape(2, 12, 15)[..., cell], relative=1e-14)
        expected = np.exp(log_variance.reshape(2, 12, 15)[..., cell])
        assert_close("v", out.appearance_variance.reshape(2, 12), expected, relative=1e-13)


@pytest.mark.parametrize("occurrence", ["bernoulli", "categorical"])
@given(seed=st.integers(0, 999), sample=st.booleans(), detach=st.booleans())
def test_infinite_logits_are_the_limit_of_large_ones(occurrence, seed, sample, detach):
    """With one infinite part in some of the cells; a large logit has the same p, and a gradient that vanishes."""
    rng = np.random.default_rng(seed)
    logits, mean, log_variance = draw_maps(rng)
    chosen = rng.random(logits.shape) < 0.3
    chosen[:, 1:] &= ~chosen[:, :1]
    chosen[..., 0, 0] = False
    signs = np.where(np.arange(3) == 0, 1.0, -1.0)[:, None, None]
    incoming = reference.PatchBottleneck(*(rng.normal(size=shape) for shape in (
        mean.shape, (2, 3, 4), (2, 3, 4), 2, 2)))  # fmt: skip
    options = {"occurrence": occurrence, "noise": reference.Noise(seed), "sample": sample, "detach_weights": detach}
    found = [
        (
            reference.patch_bottleneck(logits, mean, log_variance, **options),
            reference.patch_bottleneck_gradients(incoming, logits, mean, log_variance, **options),
        )
        for logits in (np.where(chosen, signs * size, logits) for size in (np.inf, 1e6))
    ]
    (infinite, gradients), (large, large_gradients) = found
    for field in FIELDS:
        assert_close(field, getattr(infinite, field), getattr(large, field), relative=1e-9)
    for name, got, wanted in zip("aμs", gradients, large_gradients, strict=True):
        assert_close(f"gradient of {name}", got, wanted, relative=1e-9)
    assert (gradients[0][chosen] == 0).all()


def test_what_is_certain_costs_what_the_prior_says():
    """p log p is 0 where p is 0: −log π for each certain presence and −log(1 − π) for each absence."""
    logits = np.array([np.inf, -np.inf, -np.inf])[None, :, None]
    np.testing.assert_allclose(reference.bernoulli_divergence(logits, 0.2)[0, :, 0], -np.log([0.2, 0.8, 0.8]))
    assert (reference.bernoulli_divergence_gradients(np.ones_like(logits), logits, 0.2) == 0).all()
    for certain, probability in ((logits, 0.2), (np.full_like(logits, -np.inf), 0.4)):
        np.testing.assert_allclose(reference.categorical_divergence(certain, 0.2), -np.log(probability))
        assert (reference.categorical_divergence_gradients(np.ones((1, 1)), certain, 0.2) == 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature must be positive and finite, got 0.0"),
        ({"temperature": np.nan}, "temperature must be positive and finite, got nan"),
        ({"temperature": np.inf}, "temperature must be positive and finite, got inf"),
        ({"occurrence_prior": 1.0}, "occurrence_prior must be between 0 and 1, both excluded, got 1.0"),
        ({"occurrence_prior": np.nan}, "occurrence_prior must be between 0 and 1, both excluded, got nan"),
        ({"occurrence": "categorical", "occurrence_prior": 0.5}, "occurrence_prior must be below 1/N = "),
    ],
)
def test_numbers_without_a_meaning_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        reference.patch_bottleneck(*draw_maps(np.random.default_rng(0)), **{"noise": reference.Noise(0)} | options)


@pytest.mark.parametrize("rest", [-1000.0, -1e4])
def test_a_variance_where_weights_are_less_than_a_float_holds(rest):
    """a = (0, rest), s = (0, 200 − rest): the second term is w exp(s) = exp(200), and v the sum over two cells."""
    logits, maps = np.array([0.0, rest]), (np.zeros((1, 1, 1, 2)), np.array([[[[0.0, 200.0 - rest]]]]))
    weights = bottleneck.occurrence_log_weights(reference.BottleneckOptions().distribution, logits[None, None])
    _, pooled = bottleneck.pool_appearance(weights, *maps, "arithmetic")
    # log p = −log 2 and rest; their sum is the first, but for exp(rest).
    np.testing.assert_allclose(pooled, 200.0 + np.log(2.0), rtol=1e-12)
    _, _, gradient = bottleneck.pool_appearance_gradients(
        np.ones((1, 1, 1)), np.ones((1, 1, 1)), weights, *maps, "arithmetic"
    )
    np.testing.assert_allclose(gradient.ravel(), [0.0, 1.0], atol=1e-12)


@pytest.mark.parametrize("rule", ["geometric", "arithmetic"])
def test_a_part_that_is_nowhere_still_has_an_exact_average(rule):
    rng = np.random.default_rng(0)
    _, mean, log_variance = draw_maps(rng)
    relative = rng.integers(-3, 4, (2, 3, 5, 3)).astype(float)
    far = reference.patch_bottleneck(relative - 1e4, mean, log_variance, variance=rule, sample=False)
    # There log σ(a) = a exactly, so the weights are softmax(relative).
    weights = np.exp(relative) / np.exp(relative).sum((2, 3), keepdims=True)
    expected = np.einsum("bnhw,bndhw->bnd", weights, mean.reshape(2, 3, 4, 5, 3))
    assert_close("m", far.appearance_mean, expected, relative=1e-14)
    assert np.isfinite(far.appearance_variance).all()
    assert np.isfinite(far.kl_occurrence).all()


@given(bottleneck_cases(pooled=True))
def test_pooled_and_mapped_heads_agree(case):
    arrays, options, address, incoming = case
    features, logits, weight, bias = arrays
    maps = bottleneck.convolution(features, weight, bias)
    half = maps.shape[1] // 2
    mapped_arrays = (logits, maps[:, :half], maps[:, half:])
    pooled, pooled_gradients = run_reference(arrays, options, address, incoming, pooled=True)
    mapped, mapped_gradients = run_reference(mapped_arrays, options, address, incoming)
    for field in FIELDS:
        assert_close(field, pooled[field], mapped[field], relative=1e-12)
    # The pooled gradients are the mapped ones sent back through the convolution.
    d_logits, d_mean, d_log_variance = mapped_gradients
    d_maps = np.concatenate([d_mean, d_log_variance], axis=1)
    patches = bottleneck.shifted(features, weight.shape[-1])
    assert_close("d_logits", pooled_gradients[1], d_logits, relative=1e-11)
    assert_close("d_weight", pooled_gradients[2], np.einsum("bchw,beijhw->ceij", d_maps, patches), relative=1e-11)
    assert_close("d_bias", pooled_gradients[3], d_maps.sum((0, 2, 3)), relative=1e-11)
    d_patches = np.einsum("ceij,bchw->beijhw", weight, d_maps)
    assert_close("d_features", pooled_gradients[0], bottleneck.shifted_gradients(d_patches), relative=1e-11)


def test_convolution_by_hand():
    """One output value at a corner, which depends on the padding, and one in the interior."""
    rng = np.random.default_rng(1)
    features, weight, bias = rng.normal(size=(1, 2, 3, 4)), rng.normal(size=(1, 2, 3, 3)), np.array([0.5])
    out = bottleneck.convolution(features, weight, bias)
    corner = (weight[0, :, 1:, 1:] * features[0, :, :2, :2]).sum() + 0.5
    inside = (weight[0] * features[0, :, 0:3, 1:4]).sum() + 0.5
    assert out[0, 0, 0, 0] == pytest.approx(corner, rel=1e-14)
    assert out[0, 0, 1, 2] == pytest.approx(inside, rel=1e-14)


@given(bottleneck_cases(max_parts=5, max_dim=4, max_side=4), st.integers(0, 2**32))
def test_permuting_parts_permutes_outputs(case, seed):
    arrays, options, _, _ = case
    options = options | {"sample": False}
    logits, mean, log_variance = arrays
    batch, parts, height, width = logits.shape
    order = np.random.default_rng(seed).permutation(parts)

    def permute(maps):
        return maps.reshape(batch, parts, -1, height, width)[:, order].reshape(maps.shape)

    out = reference.patch_bottleneck(logits, mean, log_variance, **options)
    permuted = reference.patch_bottleneck(logits[:, order], permute(mean), permute(log_variance), **options)
    np.testing.assert_array_equal(permute(out.code), permuted.code)
    np.testing.assert_array_equal(out.appearance_mean[:, order], permuted.appearance_mean)
    assert_close("kl_occurrence", permuted.kl_occurrence, out.kl_occurrence, relative=1e-13)


def mild(case):
    """Inputs of moderate size: for large ones the function is flat, and finite differences measure only rounding."""
    arrays, options, address, incoming = case
    logits = np.tanh(arrays[-3 if len(arrays) == 3 else 1] / 1e4) * 3
    arrays = list(arrays)
    arrays[0 if len(arrays) == 3 else 1] = logits + np.random.default_rng(0).normal(size=logits.shape)
    return arrays, options | {"temperature": max(options["temperature"], 0.5)}, address, incoming


def scalar(output, incoming):
    return sum(float((getattr(output, field) * incoming[field]).sum()) for field in FIELDS)


def frozen_weights(function, arrays, logits_at, **options):
    """The operator with its pooling weights fixed at the given logits, as detaching implies."""
    original = bottleneck.occurrence_log_weights
    distribution = reference.BottleneckOptions(occurrence=options["occurrence"]).distribution
    fixed = original(distribution, logits_at.reshape(*logits_at.shape[:2], -1))
    bottleneck.occurrence_log_weights = lambda *_: fixed
    try:
        return function(*arrays, **options)
    finally:
        bottleneck.occurrence_log_weights = original


@pytest.mark.parametrize("pooled", [False, True])
@given(data=st.data())
def test_gradients_equal_central_differences(pooled, data):
    case = mild(data.draw(bottleneck_cases(max_parts=4, max_dim=4, max_side=4, pooled=pooled)))
    arrays, options, address, incoming = case
    options = options | {"straight_through": False}  # its forward is a step; see the next test
    function = reference.pooled_patch_bottleneck if pooled else reference.patch_bottleneck
    logits_index = 1 if pooled else 0
    _, gradients = run_reference(arrays, options, address, incoming, pooled)
    options = options | {"noise": reference.Noise(**address)}
    rng = np.random.default_rng(0)
    step = 1e-5
    for index, gradient in enumerate(gradients):
        direction = rng.normal(size=gradient.shape)

        def moved(sign, index=index, direction=direction):
            inputs = list(arrays)
            inputs[index] = inputs[index] + sign * step * direction
            if options["detach_weights"]:
                output = frozen_weights(function, inputs, arrays[logits_index], **options)
            else:
                output = function(*inputs, **options)
            return scalar(output, incoming)

        above, below = moved(1), moved(-1)
        expected = (above - below) / (2 * step)
        # Rounding of the two values over the step; truncation, step² times third derivatives, is of like size.
        size = abs(above) + np.abs(gradient).sum() + 1
        assert (gradient * direction).sum() == pytest.approx(expected, abs=3e-9 * size), index


@given(bottleneck_cases(max_parts=4, max_dim=4, max_side=4))
def test_straight_through_places_hard_samples_and_keeps_the_relaxed_gradient(case):
    arrays, options, address, incoming = case
    options = options | {"sample": True, "detach_weights": True}
    assume(not near_threshold(arrays[0], options, address, margin=0.0))
    hard, hard_gradients = run_reference(arrays, options | {"straight_through": True}, address, incoming)
    _, relaxed_gradients = run_reference(arrays, options | {"straight_through": False}, address, incoming)
    np.testing.assert_array_equal(hard_gradients[0], relaxed_gradients[0])
    batch, parts, height, width = arrays[0].shape
    code = hard["code"].reshape(batch, parts, -1, height * width)
    # Each cell holds the part's one appearance or nothing, and of categorical parts one at most.
    appearance = np.abs(code).max(-1, keepdims=True) * np.sign(code.sum(-1, keepdims=True))
    assert ((code == 0) | (code == appearance)).all()
    if options["occurrence"] == "categorical":
        assert ((code != 0).any(2).sum(1) <= 1).all()


def test_straight_through_appearance_gradient_uses_what_was_placed():
    rng = np.random.default_rng(2)
    logits, mean, log_variance = draw_maps(rng)
    noise = reference.Noise(seed=9)
    out = reference.patch_bottleneck(logits, mean, log_variance, noise=noise, straight_through=True)
    zero = reference.PatchBottleneck(**{f.name: np.zeros_like(getattr(out, f.name)) for f in dataclasses.fields(out)})
    d_code = rng.normal(size=out.code.shape)
    gradients = reference.patch_bottleneck_gradients(
        dataclasses.replace(zero, code=d_code), logits, mean, log_variance, noise=noise, straight_through=True
    )
    placed = out.code.reshape(2, 3, 4, 15) != 0
    d_z = (d_code.reshape(2, 3, 4, 15) * placed).sum(-1)
    # Summing a map's gradient over cells undoes the weights, which sum to one.
    assert_close("d_m", gradients[1].reshape(2, 3, 4, 15).sum(-1), d_z, relative=1e-13)


@pytest.mark.parametrize("name", [name for name in reference.__all__ if f"{name}_gradients" in reference.__all__])
def test_gradients_are_those_of_the_function_with_its_defaults(name):
    """An omitted argument means the same in both; the gradient needs some of the function's arguments only."""
    function, gradients = (
        {key: argument.default for key, argument in inspect.signature(each).parameters.items()}
        for each in (getattr(reference, name), getattr(reference, f"{name}_gradients"))
    )
    needless = {"ground_pixels": {"ground", "height", "width"}, "sample_place": {"straight_through"}}.get(name, set())
    assert function.keys() - gradients.keys() == needless
    assert {key: gradients[key] for key in function.keys() - needless} == {
        key: function[key] for key in function.keys() - needless
    }
