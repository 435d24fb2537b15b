"""The fused operators in PyTorch: registration, compilation, autocast, graphs, second derivatives."""

import functools
import importlib
import itertools
import pkgutil
from types import FunctionType
from unittest import mock

import pytest
import torch
from torch._subclasses import FakeTensorMode
from triton.runtime.jit import KernelInterface

import reference
from accel import kernels, ops
from accel.common.bottleneck import BottleneckOptions
from accel.kernels.occurrence import CELL_STATISTICS
from accel.ops import fused
from accel.ops.backend import choose_backend
from accel.ops.draw import Draw
from tests.kernels.common import DEVICE
from tests.support import FIELDS, assert_close, restride

ADDRESS = (3, 4, 5)


def tensors(*shapes, layout="contiguous", dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(shape, generator=generator).to(DEVICE, dtype) for shape in shapes]
    return [restride(x, layout).requires_grad_() if x.ndim == 4 else x.requires_grad_() for x in made]


def bottleneck_inputs(**options):
    return tensors((2, 3, 3, 2), (2, 6, 3, 2), (2, 6, 3, 2), **options)


def pooled_inputs(**options):
    return tensors((2, 4, 3, 2), (2, 3, 3, 2), (12, 4, 3, 3), (12,), **options)


def images(**options):
    return tensors((2, 3, 8, 8), (2, 3, 8, 8), **options)


OPTIONS = {"temperature": 0.6, "appearance_prior_mean": 2.0, "detach_weights": False, "backend": "triton"}


def patch_bottleneck(a, mean, log_variance, noise, occurrence="bernoulli"):
    out = ops.patch_bottleneck(a, mean, log_variance, noise=noise, occurrence=occurrence, **OPTIONS)
    return [getattr(out, field) for field in FIELDS]


def pooled_patch_bottleneck(features, a, weight, bias, noise, occurrence="bernoulli"):
    out = ops.pooled_patch_bottleneck(features, a, weight, bias, noise=noise, occurrence=occurrence, **OPTIONS)
    return [getattr(out, field) for field in FIELDS]


def categorical(operator):
    return functools.partial(operator, occurrence="categorical")


def weighted_squared_error(reconstruction, images, noise):
    return [ops.weighted_squared_error(reconstruction, images, 4, backend="triton")]


OPERATORS = [
    pytest.param(patch_bottleneck, bottleneck_inputs, id="patch_bottleneck"),
    pytest.param(pooled_patch_bottleneck, pooled_inputs, id="pooled_patch_bottleneck"),
    pytest.param(categorical(patch_bottleneck), bottleneck_inputs, id="patch_bottleneck, categorical"),
    pytest.param(categorical(pooled_patch_bottleneck), pooled_inputs, id="pooled_patch_bottleneck, categorical"),
    pytest.param(weighted_squared_error, images, id="weighted_squared_error"),
]


def registered():
    a, mean, log_variance = bottleneck_inputs(layout="channels_last")
    draw = fused._draw_tensors(Draw(0.6, ops.Noise(*ADDRESS)), a.device)
    pooled = [torch.randn(2, 3, 2, device=DEVICE, requires_grad=True) for _ in range(2)]
    for occurrence in ("bernoulli", "categorical"):
        attached = BottleneckOptions(variance="arithmetic", occurrence=occurrence, detach_weights=False)
        map_type = torch.float32, torch.channels_last
        yield "patch_bottleneck", (a, mean, log_variance, draw, attached.of_parts(3).text, False, *map_type)
        hard = BottleneckOptions(occurrence=occurrence, straight_through=True)
        map_type = torch.bfloat16, torch.contiguous_format
        yield "patch_bottleneck", (a, *pooled, draw, hard.of_parts(3).text, True, *map_type)
        yield "patch_bottleneck", (a, *pooled, [], hard.of_parts(3).text, True, *map_type)
    features, a, _, _ = pooled_inputs()
    for occurrence, detach in itertools.product(("bernoulli", "categorical"), (False, True)):
        options = BottleneckOptions(occurrence=occurrence, detach_weights=detach).of_parts(3)
        yield "pool_features", (features, a, 3, options.text)
    yield "weighted_squared_error", (*images(), 4)
    yield "gradient_energy", (images()[0].detach(), 4)


@pytest.mark.parametrize(("name", "arguments"), list(registered()))
def test_registration_is_sound(name, arguments):
    torch.library.opcheck(getattr(torch.ops.patchvae, name).default, arguments)


@pytest.mark.parametrize("module", [module.name for module in pkgutil.iter_modules(kernels.__path__)])
def test_kernels_call_compiled_functions_alone(module):
    """A GPU runs no others, while the interpreter calls whatever is there."""
    names = vars(importlib.import_module(f"accel.kernels.{module}"))
    for name, function in names.items():
        if isinstance(function, KernelInterface):
            called = [names.get(other) for other in function.fn.__code__.co_names]
            assert not any(isinstance(other, FunctionType) for other in called), name


@pytest.mark.parametrize(("operator", "inputs"), OPERATORS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_compiled_whole_equals_eager(operator, inputs, layout):
    def loss(*arguments):
        return sum(x.float().square().sum() for x in operator(*arguments))

    torch._dynamo.reset()
    leaves = inputs(layout=layout)
    compiled = torch.compile(loss, fullgraph=True, backend="inductor" if DEVICE == "cuda" else "aot_eager")
    for noise in (ops.Noise(*ADDRESS), ops.Noise(*(torch.tensor(x, device=DEVICE) for x in ADDRESS))):
        results = [
            (value, *torch.autograd.grad(value, leaves)) for value in (loss(*leaves, noise), compiled(*leaves, noise))
        ]
        for eager, whole in zip(*results, strict=True):
            assert_close("compiled", whole, eager, relative=1e-6)
            assert whole.stride() == eager.stride()


@pytest.mark.parametrize(("operator", "inputs"), OPERATORS)
def test_autocast_takes_mixed_dtypes_and_returns_each_gradient_in_its_own(operator, inputs):
    leaves = inputs()
    leaves = [
        x.detach().to(d).requires_grad_() for x, d in zip(leaves, [torch.bfloat16, torch.float32] * 2, strict=False)
    ]
    noise = ops.Noise(*ADDRESS)
    plain = operator(*leaves, noise)
    with torch.autocast(DEVICE, torch.bfloat16):
        cast = operator(*leaves, noise)
        gradients = torch.autograd.grad(sum(x.float().sum() for x in cast), leaves)
    for expected, got in zip(plain, cast, strict=True):
        assert torch.equal(expected, got)
    for leaf, gradient in zip(leaves, gradients, strict=True):
        assert gradient.dtype == leaf.dtype
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("compiling", [False, True])
def test_numbers_of_a_draw_go_to_the_device_where_a_graph_may_be_captured(monkeypatch, compiling):
    """A replay reads tensors on the device anew; what the host passed by value stays as it was at capture."""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiling)
    draw = fused._draw_tensors(Draw(0.6, ops.Noise(*ADDRESS)), torch.device("meta"))
    assert {x.device.type for x in draw} == {"meta" if compiling else "cpu"}
    assert fused._draw_tensors(Draw(sample=False), torch.device("meta")) == []


@pytest.mark.parametrize(("operator", "inputs"), OPERATORS)
def test_a_second_derivative_is_refused_in_a_sentence(operator, inputs):
    leaves = inputs()
    output = operator(*leaves, ops.Noise(*ADDRESS))[0]
    gradient = torch.autograd.grad(output.sum(), leaves[0], create_graph=True)[0]
    with pytest.raises(RuntimeError, match=r"no second derivative; use backend='torch'"):
        torch.autograd.grad(gradient.sum(), leaves[1])


@pytest.mark.parametrize("occurrence", ["bernoulli", "categorical"])
def test_nothing_of_a_maps_size_is_kept_but_the_inputs_that_are_needed(occurrence):
    kept = []
    a, mean, log_variance = bottleneck_inputs()
    options = {"temperature": 0.6, "noise": ops.Noise(*ADDRESS), "occurrence": occurrence, "backend": "triton"}
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        ops.patch_bottleneck(a, mean, log_variance, **options)
    addresses = {x.data_ptr() for x in kept}
    assert a.data_ptr() in addresses
    assert not addresses & {mean.data_ptr(), log_variance.data_ptr()}
    # A few numbers a part, and of categorical occurrences a few a cell.
    cells = 3 * 2 * CELL_STATISTICS.value if occurrence == "categorical" else 0
    assert sum(x.numel() for x in kept if x.data_ptr() != a.data_ptr()) <= 2 * (3 * (2 * 2 + 2 + 2) + cells) + 4


@pytest.mark.parametrize(("operator", "inputs"), OPERATORS)
@pytest.mark.parametrize("default", [torch.bfloat16, torch.float64])
def test_the_default_dtype_makes_no_difference(operator, inputs, default):
    leaves = inputs()

    def passes():
        outputs = operator(*leaves, ops.Noise(*ADDRESS))
        return *outputs, *torch.autograd.grad(sum(x.sum() for x in outputs), leaves)

    expected = passes()
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        results = passes()
    finally:
        torch.set_default_dtype(before)
    for got, wanted in zip(results, expected, strict=True):
        assert got.dtype == wanted.dtype
        assert torch.equal(got, wanted)


@pytest.mark.parametrize(("operator", "inputs"), OPERATORS)
def test_kernels_are_launched_on_the_device_of_their_tensors(operator, inputs):
    with mock.patch.object(torch.cuda, "device_of", wraps=torch.cuda.device_of) as entered:
        leaves = inputs()
        outputs = operator(*leaves, ops.Noise(*ADDRESS))
        forward = entered.call_count
        torch.autograd.grad(sum(x.sum() for x in outputs), leaves)
    assert 0 < forward < entered.call_count
    assert {call.args[0].device for call in entered.call_args_list} == {leaves[0].device}


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize(("operator", "inputs"), OPERATORS)
def test_another_device_than_the_current_one(operator, inputs):
    results = []
    for device in (0, 1):
        leaves = [x.detach().to(f"cuda:{device}").requires_grad_() for x in inputs()]
        outputs = operator(*leaves, ops.Noise(*ADDRESS))
        results.append((*outputs, *torch.autograd.grad(sum(x.sum() for x in outputs), leaves)))
    for first, second in zip(*results, strict=True):
        assert torch.equal(first.cpu(), second.cpu())


def test_an_older_gpu_is_refused_where_the_kernels_are_asked_for():
    with FakeTensorMode(), mock.patch.object(torch.cuda, "get_device_capability", return_value=(7, 5)):
        a, maps = torch.empty(2, 3, 4, 4, device="cuda"), torch.empty(2, 6, 4, 4, device="cuda")
        with pytest.raises(ValueError, match=r"backend='triton' needs a GPU of compute capability 8.0 or newer"):
            ops.patch_bottleneck(a, maps, maps, sample=False, backend="triton")
        assert choose_backend("patch_bottleneck", None, a, maps, maps) == "torch"


@pytest.mark.gpu
def test_cuda_tensors_take_the_kernels_unless_told_otherwise():
    names = [event.name for event in profiled(lambda: ops.weighted_squared_error(*images(), 4))]
    assert any("patch_kernel" in name for name in names)


def profiled(function):
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        function()
        torch.cuda.synchronize()
    return profile.events()


@pytest.mark.gpu
def test_a_replayed_graph_draws_anew_as_the_reference_does():
    a, mean, log_variance = bottleneck_inputs()
    seed, step, first_image = (torch.tensor(x, device=DEVICE) for x in ADDRESS)
    temperature = torch.tensor(0.6, device=DEVICE)

    def passes():
        noise = ops.Noise(seed, step, first_image)
        out = ops.patch_bottleneck(a, mean, log_variance, temperature=temperature, noise=noise)
        return out.code, *torch.autograd.grad(out.code.sum(), (a, mean, log_variance))

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        passes()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        code, *gradients = passes()
    arrays = [x.detach().cpu().double().numpy() for x in (a, mean, log_variance)]
    for now, tau in ((7, 0.6), (8, 0.3)):
        step.fill_(now)
        temperature.fill_(tau)
        graph.replay()
        noise = reference.Noise(ADDRESS[0], now, ADDRESS[2])
        expected = reference.patch_bottleneck(*arrays, temperature=tau, noise=noise)
        assert_close("code", code, expected.code, relative=2e-5)
        nothing = {field: 0.0 * getattr(expected, field) for field in FIELDS}
        d_output = reference.PatchBottleneck(**nothing | {"code": 0.0 * expected.code + 1.0})
        wanted = reference.patch_bottleneck_gradients(d_output, *arrays, temperature=tau, noise=noise)
        for name, got, gradient in zip("aμs", gradients, wanted, strict=True):
            assert_close(f"gradient of {name}", got, gradient, relative=1e-4, absolute=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize(("operator", "inputs"), OPERATORS)
def test_a_replayed_graph_repeats_the_same_bits(operator, inputs):
    leaves = inputs()
    noise = ops.Noise(*(torch.tensor(x, device=DEVICE) for x in ADDRESS))

    def passes():
        outputs = operator(*leaves, noise)
        return *outputs, *torch.autograd.grad(sum(x.sum() for x in outputs), leaves)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        expected = [x.clone() for x in passes()]
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = passes()
    for x in results:
        x.detach().fill_(float("nan"))
    graph.replay()
    for got, wanted in zip(results, expected, strict=True):
        assert torch.equal(got, wanted)
