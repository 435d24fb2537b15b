"""The PyTorch backend of both bottleneck operators against the specification, and their argument checks."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import reference
from accel import ops
from accel.ops.backend import HAS_TRITON
from accel.ops.occurrence import DISTRIBUTIONS
from tests.support import (
    FIELDS,
    ROUNDOFF,
    VANISHING,
    assert_close,
    bottleneck_cases,
    extreme_cases,
    hold_overflow_to_reference,
    hold_vanishing_weights_to_the_equation,
    layouts,
    near_threshold,
    restride,
    run_operator,
    run_reference,
    sharpness,
    to_numpy,
    widening,
)


def hold_to_reference(case, dtype, pooled, chosen_layouts):
    arrays, options, address, incoming = case
    if options["straight_through"] and options["sample"]:
        assume(not near_threshold(arrays[1 if pooled else 0], options, address))
    tensors = [
        restride(torch.tensor(a, dtype=dtype), layout) if a.ndim == 4 else torch.tensor(a, dtype=dtype)
        for a, layout in zip(arrays, chosen_layouts, strict=False)
    ]
    before = [t.clone() for t in tensors]
    outputs, gradients = run_operator(tensors, options, address, incoming, pooled, backend="torch")
    expected, expected_gradients = run_reference(arrays, options, address, incoming, pooled)
    # Each number is a sum of up to a few hundred terms after a handful of roundings; the argument of the
    # relaxed Bernoulli, at most 10⁴, is divided by τ, but where it is large its sigmoid is flat: x·σ'(x) < 0.23.
    # Box-Muller multiplies an angle's error by the radius. 256 roundings bound all of it with a margin.
    relative = 256 * ROUNDOFF[dtype]
    relative *= widening(arrays, pooled)
    for field in FIELDS:
        sharp = sharpness(options) if field == "code" else 1.0
        assert_close(field, outputs[field], expected[field], relative=relative * sharp, absolute=relative)
    for name, got, wanted in zip("abcd", gradients, expected_gradients, strict=False):
        # Incoming gradients of size 1 are multiplied by 1/τ and by the code's size.
        scale = relative * (1 + 1 / options["temperature"])
        assert_close(f"gradient {name}", got, wanted, relative=scale, absolute=scale * sharpness(options))
    for tensor, copy in zip(tensors, before, strict=True):
        assert torch.equal(tensor, copy)


@given(bottleneck_cases(), st.tuples(layouts, layouts, layouts))
def test_float64_equals_the_reference(case, chosen):
    hold_to_reference(case, torch.float64, False, chosen)


@given(bottleneck_cases(dtype=torch.float32), st.tuples(layouts, layouts, layouts))
def test_float32_equals_the_reference(case, chosen):
    hold_to_reference(case, torch.float32, False, chosen)


@given(bottleneck_cases(pooled=True), st.tuples(layouts, layouts, layouts, layouts))
def test_pooled_float64_equals_the_reference(case, chosen):
    hold_to_reference(case, torch.float64, True, chosen)


@given(bottleneck_cases(pooled=True, dtype=torch.float32), st.tuples(layouts, layouts, layouts, layouts))
def test_pooled_float32_equals_the_reference(case, chosen):
    hold_to_reference(case, torch.float32, True, chosen)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("pooled", [False, True])
@settings(max_examples=20)
@given(data=st.data())
def test_extremes_equal_the_reference(dtype, pooled, data):
    case = data.draw(extreme_cases(dtype=dtype, pooled=pooled))
    hold_to_reference(case, dtype, pooled, ["contiguous"] * 4)


@pytest.mark.parametrize(("logits", "log_variance"), VANISHING)
def test_a_variance_where_weights_vanish(logits, log_variance):
    hold_vanishing_weights_to_the_equation(logits, log_variance, "torch")


def test_a_variance_beyond_float32_is_infinite_and_all_else_exact():
    hold_overflow_to_reference("torch", "cpu")


@given(bottleneck_cases(max_parts=3, max_dim=3, max_side=4))
def test_code_keeps_dtype_and_memory_format(case):
    arrays, options, address, _ = case
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        tensors = [torch.tensor(a).to(dtype).contiguous(memory_format=torch.channels_last) for a in arrays]
        out = ops.patch_bottleneck(*tensors, noise=ops.Noise(**address), **options)
        assert out.code.dtype == dtype
        assert out.code.is_contiguous(memory_format=torch.channels_last)
        assert out.kl_occurrence.dtype == out.appearance_mean.dtype == torch.float32


def test_a_temperature_tensor_is_read_and_gets_no_surprise():
    logits, maps = torch.randn(1, 2, 3, 3), torch.randn(1, 4, 3, 3)
    noise = ops.Noise(1)
    a = ops.patch_bottleneck(logits, maps, maps, temperature=0.3, noise=noise)
    b = ops.patch_bottleneck(logits, maps, maps, temperature=torch.tensor(0.3), noise=noise)
    assert torch.equal(a.code, b.code)


def test_autocast_leaves_the_arithmetic_in_float32():
    logits, maps = torch.randn(2, 3, 4, 4), torch.randn(2, 6, 4, 4)
    plain = ops.patch_bottleneck(logits, maps, maps, noise=ops.Noise(1))
    with torch.autocast("cpu", torch.bfloat16):
        cast = ops.patch_bottleneck(logits, maps, maps, noise=ops.Noise(1))
    for field in FIELDS:
        assert torch.equal(getattr(plain, field), getattr(cast, field))


def test_compiled_equals_eager():
    logits, maps, more = torch.randn(2, 3, 4, 4), torch.randn(2, 6, 4, 4), torch.randn(2, 6, 4, 4)

    def loss(logits, mean, log_variance):
        out = ops.patch_bottleneck(logits, mean, log_variance, temperature=0.5, noise=ops.Noise(1, 2, 3))
        return (out.code**2).sum() + out.kl_appearance.sum() + out.kl_occurrence.sum()

    results = []
    for function in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        leaves = [t.clone().requires_grad_() for t in (logits, maps, more)]
        results.append(torch.autograd.grad(function(*leaves), leaves))
    for eager, compiled in zip(*results, strict=True):
        assert_close("gradient", compiled, eager, relative=1e-5)


@pytest.mark.parametrize("occurrence", list(DISTRIBUTIONS))
def test_compiled_with_other_numbers_of_parts_and_other_options(occurrence):
    """What a compiler takes for a variable at its second value."""

    def place(logits, maps, step, temperature, prior_mean):
        noise = ops.Noise(1, step)
        options = {"occurrence": occurrence, "appearance_prior_mean": prior_mean, "occurrence_prior": prior_mean / 20}
        return ops.patch_bottleneck(logits, maps, maps, temperature=temperature, noise=noise, **options)

    torch._dynamo.reset()
    compiled = torch.compile(place, fullgraph=True, backend="eager")
    numbers = [(3, 0.5, 1.0), (5, 0.6, 2.0), (4, 0.7, 3.0), (4, 0.7, 1), (4, 0.7, 2)]
    for step, (parts, temperature, prior_mean) in enumerate(numbers):
        logits, maps = torch.randn(2, parts, 3, 3), torch.randn(2, 2 * parts, 3, 3)
        results = [f(logits, maps, step, temperature, prior_mean) for f in (compiled, place)]
        for field in FIELDS:
            assert torch.equal(*(getattr(result, field) for result in results))


A, M = torch.zeros(2, 3, 4, 5), torch.zeros(2, 6, 4, 5)
NOISE = ops.Noise()


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((A[0], M, M), {}, r"occurrence_logits must be \(B, N, h, w\) with N, h, w ≥ 1, got \(3, 4, 5\)"),
        ((A, M[:, :5], M), {}, r"appearance_mean must be \(B, 3·D, h, w\) = \(2, 3, 4, 5\), got \(2, 5, 4, 5\)"),
        ((A, M[:, :0], M[:, :0]), {}, r"appearance_mean must be .* = \(2, 3, 4, 5\), got \(2, 0, 4, 5\)"),
        ((A, M, M[..., :4]), {}, r"appearance_log_variance must be .* = \(2, 6, 4, 5\), got \(2, 6, 4, 4\)"),
        ((A.int(), M, M), {}, r"occurrence_logits must be a floating-point tensor, got torch.int32"),
        ((A, M.numpy(), M), {}, r"appearance_mean must be a floating-point tensor, got ndarray"),
        ((A, M, M), {"temperature": 0.0}, r"temperature must be positive and finite, got 0.0"),
        ((A, M, M), {"temperature": torch.ones(2)}, r"temperature must be a number or a 0-d tensor, got shape"),
        (
            (A, M, M),
            {"temperature": torch.ones((), requires_grad=True)},
            r"temperature must not require a gradient, pass",
        ),
        ((A, M, M), {"occurrence_prior": 1.0}, r"occurrence_prior must be between 0 and 1, both excluded, got 1.0"),
        ((A, M, M), {"appearance_prior_mean": float("nan")}, r"appearance_prior_mean must be a number, got nan"),
        ((A, M, M), {"variance": "mean"}, r"variance must be one of geometric, arithmetic, got 'mean'"),
        ((A, M, M), {"noise": None}, r"sample=True needs noise=Noise\(seed, step, first_image\)"),
        ((A, M, M), {"noise": 3}, r"noise must be a Noise, got int"),
        ((A, M, M), {"temperature": "1"}, r"temperature must be a number or a 0-d tensor, got"),
        ((A, M, M), {"backend": "cuda"}, r"backend must be 'triton' or 'torch', got 'cuda'"),
        ((A.double(), M, M), {"backend": "triton"}, r"backend='triton' computes in float32|needs CUDA tensors"),
    ],
)
def test_bad_arguments_are_named(arguments, options, message):
    with pytest.raises(ValueError, match=f"patch_bottleneck: {message}"):
        ops.patch_bottleneck(*arguments, **{"noise": NOISE} | options)


@pytest.mark.skipif(not HAS_TRITON, reason="needs Triton")
def test_kernels_run_on_gpus_or_in_the_interpreter(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match=r"backend='triton' needs CUDA tensors .*, got cpu"):
        ops.patch_bottleneck(A, M, M, noise=NOISE, backend="triton")


F, W, B = torch.zeros(2, 7, 4, 5), torch.zeros(12, 7, 3, 3), torch.zeros(12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((F[..., :4], A, W, B), r"features must be \(B, E, h, w\) = \(2, 7, 4, 5\), got \(2, 7, 4, 4\)"),
        ((F, A, W[:11], B), r"weight must be \(2·3·D, 7, k, k\) with k odd, got \(11, 7, 3, 3\)"),
        ((F, A, W[..., :2, :2], B), r"weight must be .* with k odd"),
        ((F, A, W[:, :6], B), r"weight must be \(2·N·D, E, k, k\) = \(12, 7, 3, 3\), got \(12, 6, 3, 3\)"),
        ((F[:, :0], A, W[:, :0], B), r"features must be \(B, E, h, w\) = \(2, 1, 4, 5\), got \(2, 0, 4, 5\)"),
        ((F, A, W, B[:6]), r"bias must be \(2·N·D,\) = \(12,\), got \(6,\)"),
    ],
)
def test_bad_arguments_of_the_pooled_operator_are_named(arguments, message):
    with pytest.raises(ValueError, match=f"pooled_patch_bottleneck: {message}"):
        ops.pooled_patch_bottleneck(*arguments, noise=NOISE)


def test_an_unknown_keyword_is_named_with_the_nearest():
    with pytest.raises(
        TypeError, match=r"patch_bottleneck\(\) has no argument 'ocurrence', the nearest is 'occurrence'"
    ):
        ops.patch_bottleneck(A, M, M, noise=NOISE, ocurrence="categorical")


@pytest.mark.parametrize("variance", ["geometric", "arithmetic"])
def test_a_batch_without_images_gives_empty_results(variance):
    leaves = [torch.zeros(0, channels, 4, 5, requires_grad=True) for channels in (3, 6, 6)]
    out = ops.patch_bottleneck(*leaves, noise=NOISE, variance=variance)
    assert [getattr(out, field).shape for field in FIELDS] == [(0, 6, 4, 5), (0, 3, 2), (0, 3, 2), (0,), (0,)]
    gradients = torch.autograd.grad(out.code.sum() + out.kl_appearance.sum() + out.kl_occurrence.sum(), leaves)
    assert [g.shape for g in gradients] == [x.shape for x in leaves]


def test_a_batch_without_images_leaves_the_pooled_operators_parameters_alone():
    weight = W.clone().requires_grad_()
    out = ops.pooled_patch_bottleneck(F[:0], A[:0], weight, B, noise=NOISE, detach_weights=False)
    assert out.code.shape == (0, 6, 4, 5)
    assert not torch.autograd.grad(out.code.sum() + out.kl_appearance.sum(), weight)[0].any()


def test_one_part_has_a_finite_divergence():
    """For a single part, 1/N is 1, a prior from which the divergence is infinite; the default is then ½."""
    out = ops.patch_bottleneck(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2), sample=False)
    np.testing.assert_allclose(out.kl_occurrence.numpy(), 0, atol=1e-6)


def categorical_inputs(parts=5, images=3, grid=(4, 6), spread=2.0):
    generator = torch.Generator().manual_seed(parts)
    logits = spread * torch.randn(images, parts, *grid, generator=generator, dtype=torch.float64)
    maps = [torch.randn(images, 2 * parts, *grid, generator=generator, dtype=torch.float64) for _ in range(2)]
    return logits, *maps


@given(parts=st.integers(1, 9), spread=st.sampled_from([0.0, 1.0, 30.0, 1e4]), share=st.floats(0.01, 0.99))
def test_categorical_divergence_is_the_references_and_its_gradient_too(parts, spread, share):
    logits, *maps = categorical_inputs(parts, spread=spread)
    prior = share / parts
    logits.requires_grad_()
    out = ops.patch_bottleneck(
        logits, *maps, noise=ops.Noise(0), occurrence="categorical", occurrence_prior=prior, detach_weights=True
    )
    cells = to_numpy(logits).reshape(len(logits), parts, -1)
    expected = reference.categorical_divergence(cells, prior)
    assert (expected >= -1e-9).all()
    assert_close("divergence", out.kl_occurrence, expected.sum(1), relative=1e-10, absolute=1e-10)
    out.kl_occurrence.sum().backward()
    gradient = reference.categorical_divergence_gradients(np.ones_like(expected), cells, prior)
    assert_close("gradient", logits.grad.flatten(2), gradient, relative=1e-10, absolute=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_odds_keep_their_order_where_probabilities_round_to_one(dtype):
    logits = torch.tensor([-1e4, -40.0, -3.0, 0.0, 15.0, 17.0, 20.0, 40.0, 1e4], dtype=dtype)[None, None]
    categorical = DISTRIBUTIONS["categorical"]
    assert_close("one part", categorical.log_odds(categorical.normalise(logits)), logits, relative=1e-6, absolute=1e-6)
    three = torch.cat([logits, logits - 5, torch.zeros_like(logits)], 1)
    # log p − log(1 − p) = a_n − log(Σ of the others' exp), from float64.
    exact = three.double()
    rows = torch.cat([exact, torch.zeros_like(exact[:, :1])], 1)
    expected = torch.stack(
        [rows[:, n] - rows[:, [k for k in range(4) if k != n]].logsumexp(1) for n in range(3)], dim=1
    )
    got = categorical.log_odds(categorical.normalise(three))
    assert_close("three parts", got, expected, relative=1e-6, absolute=1e-5)


def test_hard_categorical_samples_hold_one_part_at_most_as_often_as_they_should():
    logits = torch.tensor([1.0, -0.5, 0.3], dtype=torch.float64)[None, :, None, None].expand(4, 3, 60, 60)
    maps = [torch.zeros(4, 3, 60, 60, dtype=torch.float64)] * 2
    options = {"noise": ops.Noise(5), "occurrence": "categorical"}
    out = ops.patch_bottleneck(logits, maps[0] + 1, maps[1] - 1e4, straight_through=True, **options)
    found = out.code.flatten(2).round()  # appearance 1 without variance: the code is the occurrence, but for roundoff
    assert_close("code", out.code.flatten(2), found, relative=1e-12)
    assert set(found.unique().tolist()) <= {0.0, 1.0}
    assert found.sum(1).max() == 1
    expected = torch.cat([logits[0, :, 0, 0], torch.zeros(1)]).softmax(0)[:3]
    # Means of 14,400 draws: five standard deviations.
    assert ((found.mean((0, 2)) - expected).abs() < 5 * 0.5 / 14400**0.5).all()
    soft = ops.patch_bottleneck(logits, maps[0] + 1, maps[1] - 1e4, temperature=0.5, **options).code
    assert (soft >= 0).all()
    assert (soft.sum(1) <= 1 + 1e-12).all()


def test_one_category_is_one_bernoulli_variable():
    logits, *maps = categorical_inputs(parts=1)
    options = {"sample": False, "occurrence_prior": 0.3, "detach_weights": False}
    one, other = (ops.patch_bottleneck(logits, *maps, occurrence=kind, **options) for kind in DISTRIBUTIONS)
    for field in FIELDS:
        assert_close(field, getattr(one, field), getattr(other, field), relative=1e-10)


def test_categorical_gradients_are_finite_differences():
    logits, *maps = categorical_inputs(parts=3, images=1, grid=(2, 2), spread=1.0)
    leaves = [tensor.requires_grad_() for tensor in (logits, *maps)]

    def outputs(*inputs):
        out = ops.patch_bottleneck(
            *inputs, temperature=0.7, noise=ops.Noise(2), occurrence="categorical", detach_weights=False
        )
        return tuple(getattr(out, field) for field in FIELDS)

    assert torch.autograd.gradcheck(outputs, leaves)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"occurrence": "categorial"}, "occurrence must be one of bernoulli, categorical, got 'categorial'"),
        ({"occurrence_prior": 0.5}, "occurrence_prior must be below 1/N = 0.2 for categorical occurrences of 5 parts"),
        ({"straight_through": 1}, "straight_through must be true or false, got 1"),
    ],
)
def test_what_categories_cannot_be_is_refused(options, sentence):
    options = {"occurrence": "categorical", "noise": ops.Noise(0)} | options
    with pytest.raises(ValueError, match=sentence):
        ops.patch_bottleneck(*categorical_inputs(), **options)
