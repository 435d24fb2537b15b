"""The fused bottleneck against the specification: values and every gradient, both operators."""

from contextlib import nullcontext
from unittest import mock

import numpy as np
import pytest
import torch
import triton
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import reference
from accel import ops
from accel.kernels import bottleneck, pooled
from accel.kernels import occurrence as occurrence_kernels
from tests.kernels.common import DEVICE, STORED, poisoned_memory
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
    widening,
)

LAYOUTS = st.tuples(layouts, layouts, layouts)


def hold_to_reference(case, dtype, chosen_layouts, pooled=False):
    arrays, options, address, incoming = case
    if options["straight_through"] and options["sample"]:
        assume(not near_threshold(arrays[1 if pooled else 0], options, address))
    remaining = iter(chosen_layouts)
    tensors = [torch.tensor(a, dtype=dtype, device=DEVICE) for a in arrays]
    tensors = [restride(t, next(remaining)) if t.ndim == 4 else t for t in tensors]
    before = [t.clone() for t in tensors]
    with poisoned_memory():
        outputs, gradients = run_operator(tensors, options, address, incoming, pooled, backend="triton")
    expected, expected_gradients = run_reference(arrays, options, address, incoming, pooled)
    # The inputs are exact and all inside is float32, so the PyTorch backend's bound holds (tests/ops): sums of up to a
    # few hundred terms after a handful of roundings. What is stored in half precision is rounded once more; and the
    # matrix products that pool features round their operands, the weights, to half precision as well.
    relative = 256 * ROUNDOFF[torch.float32] + (4 * STORED[dtype] if pooled else 0.0)
    relative *= widening(arrays, pooled)
    for field in FIELDS:
        stored, sharp = (STORED[dtype], sharpness(options)) if field == "code" else (0.0, 1.0)
        assert outputs[field].dtype == (dtype if field == "code" else torch.float32)
        assert_close(field, outputs[field], expected[field], relative=relative * sharp + stored, absolute=relative)
    for name, tensor, got, wanted in zip("abcd", tensors, gradients, expected_gradients, strict=False):
        scale = relative * (1 + 1 / options["temperature"])
        assert (got.dtype, got.shape) == (tensor.dtype, tensor.shape)
        assert_close(
            f"gradient {name}", got, wanted, relative=scale + STORED[dtype], absolute=scale * sharpness(options)
        )
    for tensor, copy in zip(tensors, before, strict=True):
        assert torch.equal(tensor, copy)


@settings(max_examples=16)
@given(bottleneck_cases(dtype=torch.float32), LAYOUTS)
def test_float32_equals_the_reference(case, chosen):
    hold_to_reference(case, torch.float32, chosen)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@settings(max_examples=6)
@given(data=st.data())
def test_half_precision_equals_the_reference_but_for_rounding(dtype, data):
    hold_to_reference(data.draw(bottleneck_cases(dtype=dtype)), dtype, data.draw(LAYOUTS))


@pytest.mark.parametrize("pooled_head", [False, True])
@settings(max_examples=8)
@given(data=st.data())
def test_extremes_equal_the_reference(pooled_head, data):
    case = data.draw(extreme_cases(dtype=torch.float32, pooled=pooled_head))
    hold_to_reference(case, torch.float32, ("contiguous",) * 3, pooled_head)


@pytest.mark.parametrize("prior", [1e-3, 1 / 64, 0.3])
def test_small_divergences_of_many_cells_are_exact(prior):
    """Each rounds, as in float32 arithmetic of its own size, p (log p − log π), without cancellation of the logit."""
    logits = torch.linspace(-16, 4, 32 * 32, device=DEVICE).reshape(1, 1, 32, 32)
    logits = torch.cat([logits, torch.full_like(logits, np.log(prior / (1 - prior)))])  # the second has none at all
    maps = torch.zeros(2, 1, 32, 32, device=DEVICE)
    got = ops.patch_bottleneck(logits, maps, maps, sample=False, occurrence_prior=prior, backend="triton").kl_occurrence
    expected = reference.bernoulli_divergence(logits.cpu().double().numpy().reshape(2, -1), prior).sum(1)
    # Four roundings of p (log p − log π) and of (1 − p) (log(1 − p) − log(1 − π)) in each of 1024 cells.
    p = torch.sigmoid(logits.cpu().double()).reshape(2, -1).numpy()
    sizes = np.abs(p * np.log(p / prior)) + np.abs((1 - p) * (np.log1p(-p) - np.log1p(-prior))) + 2 * p + prior
    bound = 4 * ROUNDOFF[torch.float32] * sizes.sum(1)
    assert (np.abs(got.cpu().numpy() - expected) <= bound).all()


@pytest.mark.parametrize(("logits", "log_variance"), VANISHING)
def test_a_variance_where_weights_vanish(logits, log_variance):
    hold_vanishing_weights_to_the_equation(logits, log_variance, "triton", DEVICE)


def test_a_variance_beyond_float32_is_infinite_and_all_else_exact():
    hold_overflow_to_reference("triton", DEVICE)


@settings(max_examples=10)
@given(bottleneck_cases(dtype=torch.float32, max_parts=4, max_dim=3, max_side=4), LAYOUTS)
def test_blocks_of_parts_and_cells_make_no_difference(case, chosen):
    def small_blocks(parts, part_dim, *_):
        return (2, triton.next_power_of_2(part_dim), 4), 1

    def small_tiles(parts, cells):
        return (4, 2), 1, triton.cdiv(cells, 4)

    with (
        mock.patch.object(bottleneck, "blocks", small_blocks),
        mock.patch.object(occurrence_kernels, "tiles", small_tiles),
    ):
        hold_to_reference(case, torch.float32, chosen)


@settings(max_examples=12)
@given(bottleneck_cases(dtype=torch.float32, max_parts=4, max_dim=5, max_side=4, pooled=True), LAYOUTS, st.booleans())
def test_pooled_float32_equals_the_reference(case, chosen, small):
    blocks = mock.patch.object(pooled, "tiles", lambda parts, cells: ((2, 4), 1, triton.cdiv(parts, 4)))
    with blocks if small else nullcontext():
        hold_to_reference(case, torch.float32, chosen, pooled=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@settings(max_examples=5)
@given(data=st.data())
def test_pooled_half_precision_equals_the_reference_but_for_rounding(dtype, data):
    case = data.draw(bottleneck_cases(dtype=dtype, max_parts=4, max_dim=4, max_side=5, pooled=True))
    hold_to_reference(case, dtype, data.draw(LAYOUTS), pooled=True)


def example(parts=3, part_dim=2, height=3, width=2, images=2, dtype=torch.float32, seed=0):
    """a, μ and s."""
    generator = torch.Generator().manual_seed(seed)
    channels = parts, parts * part_dim, parts * part_dim
    shapes = [(images, c, height, width) for c in channels]
    return [torch.randn(shape, generator=generator).to(DEVICE, dtype).requires_grad_() for shape in shapes]


def run(leaves, **options):
    options = {"temperature": 0.7, "noise": ops.Noise(3, 4, 5), "backend": "triton"} | options
    output = ops.patch_bottleneck(*leaves, **options)
    return [getattr(output, field) for field in FIELDS]


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("detach_weights", [True, False])
@pytest.mark.parametrize("occurrence", ["bernoulli", "categorical"])
def test_gradients_of_one_output_alone(field, detach_weights, occurrence):
    leaves = example()
    options = {"detach_weights": detach_weights, "occurrence": occurrence}
    output = run(leaves, **options)[FIELDS.index(field)]
    incoming = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    with poisoned_memory():
        gradients = torch.autograd.grad(output, leaves, incoming.to(DEVICE))
    arrays = [x.detach().cpu().double().numpy() for x in leaves]
    zero = {"code": arrays[1], "appearance_mean": np.zeros((2, 3, 2)), "appearance_variance": np.zeros((2, 3, 2))}
    zero |= {"kl_appearance": np.zeros(2), "kl_occurrence": np.zeros(2)}
    d_output = {name: 0.0 * value for name, value in zero.items()} | {field: incoming.double().numpy()}
    expected = reference.patch_bottleneck_gradients(
        reference.PatchBottleneck(**d_output),
        *arrays,
        temperature=0.7,
        noise=reference.Noise(3, 4, 5),
        **options,
    )
    for name, got, wanted in zip("aμs", gradients, expected, strict=True):
        assert_close(f"gradient of {name}", got, wanted, relative=1e-5, absolute=1e-6)


@pytest.mark.parametrize("variance", ["geometric", "arithmetic"])
@pytest.mark.parametrize("occurrence", ["bernoulli", "categorical"])
def test_incoming_gradients_of_any_strides(variance, occurrence):
    leaves = example()
    outputs = run(leaves, variance=variance, occurrence=occurrence, detach_weights=False)
    foreign = [
        torch.tensor(0.5).expand(outputs[0].shape),
        torch.randn(2, 3, 2).permute(2, 1, 0)[:, :, :1].expand(2, 3, 2),
        torch.randn(4, 6, 2)[::2, ::2],
        torch.tensor(-0.25).expand(2),
        torch.randn(6)[::3],
    ]
    for code_gradient in (foreign[0], torch.randn(3, 2, 6, 2).permute(3, 2, 0, 1)):
        incoming = [x.to(DEVICE) for x in (code_gradient, *foreign[1:])]
        gradients = [
            torch.autograd.grad(outputs, leaves, each, retain_graph=True)
            for each in (incoming, [x.contiguous() for x in incoming])
        ]
        for strided, contiguous in zip(*gradients, strict=True):
            assert torch.equal(strided, contiguous)


@pytest.mark.parametrize(("parts", "part_dim", "height", "width"), [(300, 1, 1, 2), (2, 128, 2, 1), (1, 1, 56, 56)])
@pytest.mark.parametrize("occurrence", ["bernoulli", "categorical"])
def test_extents_at_their_limits(parts, part_dim, height, width, occurrence):
    leaves = example(parts, part_dim, height, width, images=1)
    theirs = [x.detach().clone().requires_grad_() for x in leaves]
    outputs = run(leaves, occurrence=occurrence)
    expected = run(theirs, occurrence=occurrence, backend="torch")
    for name, got, wanted in zip(FIELDS, outputs, expected, strict=True):
        assert_close(name, got, wanted, relative=2e-5, absolute=2e-5)
    gradients = [
        torch.autograd.grad(x[0].square().sum() + x[4].sum(), y) for x, y in ((outputs, leaves), (expected, theirs))
    ]
    for name, got, wanted in zip("aμs", *gradients, strict=True):
        assert_close(f"gradient of {name}", got, wanted, relative=1e-4, absolute=1e-6)


@pytest.mark.parametrize("pooled_head", [False, True])
def test_cells_outside_of_the_grid_leave_nothing_behind_at_a_low_temperature(pooled_head):
    """A Gumbel draw over τ overflows in a lane without a cell now and then: 49 of 64 lanes have one."""
    parts, images = 6, 8
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(images, parts, 7, 7)), *rng.normal(size=(2, images, parts, 7, 7))]
    if pooled_head:
        arrays = [
            rng.normal(size=(images, 2, 7, 7)),
            arrays[0],
            rng.normal(size=(2 * parts, 2, 1, 1)),
            rng.normal(size=12),
        ]
    incoming = {
        field: rng.normal(size=shape)
        for field, shape in zip(
            FIELDS, [(images, parts, 7, 7), (images, parts, 1), (images, parts, 1), (images,), (images,)], strict=True
        )
    }
    options = {"temperature": 0.05, "occurrence": "categorical", "detach_weights": False}
    address = {"seed": 1, "step": 0, "first_image": 0}
    # That some lane overflows: cells 49 to 63 of any part.
    beyond = reference.occurrence_noise(reference.Noise(1), images, parts, 64)[:, :, 49:]
    assert (-np.log(-np.log(beyond)) / 0.05).max() > 89
    tensors = [torch.tensor(a, dtype=torch.float32, device=DEVICE) for a in arrays]
    outputs, gradients = run_operator(tensors, options, address, incoming, pooled_head, backend="triton")
    expected, expected_gradients = run_reference(arrays, options, address, incoming, pooled_head)
    for field in FIELDS:
        assert_close(field, outputs[field], expected[field], relative=1e-4, absolute=1e-4)
    for name, got, wanted in zip("abcd", gradients, expected_gradients, strict=False):
        assert_close(f"gradient {name}", got, wanted, relative=1e-3, absolute=1e-3)


@pytest.mark.parametrize("spread", [(-100.0, -102.0), (-100.0, 40.0), (60.0, 58.0)])
@pytest.mark.parametrize("cells", [4, 32])
def test_the_arithmetic_rule_is_finite_where_exponentials_vanish_or_grow(spread, cells):
    leaves = example(parts=2, height=3, width=4)
    with torch.no_grad():
        leaves[2].copy_(torch.linspace(*spread, leaves[2].numel()).reshape(leaves[2].shape))
    theirs = [x.detach().clone().requires_grad_() for x in leaves]
    results = []
    with mock.patch.object(bottleneck, "blocks", return_value=((2, 2, cells), 1)):
        for inputs, backend in ((leaves, "triton"), (theirs, "torch")):
            outputs = run(inputs, variance="arithmetic", detach_weights=False, backend=backend)
            results.append([*outputs, *torch.autograd.grad(outputs[0].sum() + outputs[3].sum(), inputs)])
    for got, wanted in zip(*results, strict=True):
        assert_close("result", got, wanted, relative=5e-5)


@pytest.mark.parametrize("occurrence", ["bernoulli", "categorical"])
def test_the_same_input_gives_the_same_bits(occurrence):
    leaves = example(parts=5)
    results = []
    for _ in range(2):
        outputs = run(leaves, occurrence=occurrence, detach_weights=False)
        results.append((*outputs, *torch.autograd.grad([x.sum() for x in outputs], leaves)))
    for first, second in zip(*results, strict=True):
        assert torch.equal(first, second)


# In the second case the last of the parts' numbers alone lies so far away.
@pytest.mark.parametrize(("parts", "part_dim", "apart"), [(3, 1, 2**30), (2, 2, 2**31 // 3 + 1)])
@pytest.mark.parametrize("occurrence", ["bernoulli", "categorical"])
def test_offsets_beyond_32_bits(tmp_path, occurrence, parts, part_dim, apart):
    """Maps whose channels lie far apart, in a file that is empty but for what is written."""
    leaves = example(parts, part_dim, images=1, dtype=torch.bfloat16)
    size = (parts * part_dim - 1) * apart + 6
    if DEVICE == "cuda":
        if torch.cuda.mem_get_info()[0] < 20 * 2**30:
            pytest.skip("needs 20 GB of device memory")
        far = [torch.empty(size, dtype=torch.bfloat16, device=DEVICE) for _ in leaves]
    else:
        files = [tmp_path / name for name in "aμs"]
        far = [torch.from_file(str(file), True, size, dtype=torch.bfloat16) for file in files]
        for file in files:
            file.unlink()
    far = [storage.as_strided(leaf.shape, (6, apart, 2, 1)) for storage, leaf in zip(far, leaves, strict=True)]
    for view, leaf in zip(far, leaves, strict=True):
        view.copy_(leaf.detach())
        view.requires_grad_()
    results = []
    for inputs in (leaves, far):
        outputs = run(inputs, occurrence=occurrence, detach_weights=False)
        results.append((*outputs, *torch.autograd.grad(outputs[0].sum() + outputs[4].sum(), inputs)))
    for near, distant in zip(*results, strict=True):
        assert torch.equal(near, distant)
