"""PatchVAE gives the same result for each head, is deterministic by default, and equivariant in its parts."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import reference
from accel import BetaVAE, Noise, PatchVAE, elbo
from tests.support import assert_close, to_numpy


def pictures(*shape, dtype=torch.float32):
    return torch.rand(*shape, dtype=dtype) * 2 - 1


def equal(a, b):
    """Whether all fields of two results are bit-identical."""
    pairs = [(getattr(a, field.name), getattr(b, field.name)) for field in dataclasses.fields(a)]
    return all(x is y if x is None else torch.equal(x, y) for x, y in pairs)  # None is what the model does not have


def small(**options):
    return PatchVAE(**{"num_parts": 3, "part_dim": 2, "image_size": 16} | options)


@settings(max_examples=10)
@given(
    num_parts=st.integers(1, 5),
    part_dim=st.integers(1, 4),
    kernel=st.sampled_from([1, 3, 5]),
    grid=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    channels=st.sampled_from([1, 3]),
    occurrence=st.sampled_from(["bernoulli", "categorical"]),
    straight_through=st.booleans(),
    detach_weights=st.booleans(),
    sample=st.booleans(),
)
def test_heads_agree_in_values_and_gradients(num_parts, part_dim, kernel, grid, channels, sample, **options):
    images = pictures(2, channels, 8 * grid[0], 8 * grid[1], dtype=torch.float64)
    models = [
        PatchVAE(
            num_parts=num_parts, part_dim=part_dim, head_kernel_size=kernel, channels=channels, head=head, **options
        ).double()
        for head in ("separate", "fused", "pooled")
    ]
    results = []
    for model in models:
        model.load_state_dict(models[0].state_dict())
        model.eval()  # as one cell an image is too little for batch statistics
        out = model(images, temperature=0.7, noise=Noise(3, 4), sample=sample)
        gradients = torch.autograd.grad(elbo(out, images).total, list(model.parameters()))
        names = [name for name, _ in model.named_parameters()]
        present = {name: value for name, value in vars(out).items() if value is not None}
        results.append(present | dict(zip(names, gradients, strict=True)))
    for other in results[1:]:
        for name, expected in results[0].items():
            assert_close(name, other[name], expected, relative=1e-9, absolute=1e-9)


@pytest.mark.parametrize("variance", ["geometric", "arithmetic"])
@pytest.mark.parametrize("occurrence", ["bernoulli", "categorical"])
@pytest.mark.parametrize("straight_through", [True, False])
def test_the_bottleneck_is_the_specification_s(variance, occurrence, straight_through):
    options = {"variance": variance, "occurrence": occurrence, "straight_through": straight_through}
    options |= {"occurrence_prior": 0.2, "appearance_prior_mean": 1.5}
    model = small(head="fused", **options).double()
    images = pictures(2, 3, 16, 24, dtype=torch.float64)
    out = model.eval()(images, temperature=0.6, noise=Noise(seed=9, step=2, first_image=5))
    features = model.features(images)
    maps = (model.occurrence_head, model.appearance_mean_head, model.appearance_log_variance_head)
    expected = reference.patch_bottleneck(
        *(to_numpy(head(features)) for head in maps),
        temperature=0.6,
        noise=reference.Noise(seed=9, step=2, first_image=5),
        **options,
    )
    for name, value in vars(expected).items():
        assert_close(name, getattr(out, name), value, relative=1e-9)
    distribution = reference.BottleneckOptions(occurrence=occurrence).distribution
    p = distribution.relax(distribution.argument(to_numpy(model.occurrence_head(features).flatten(2))))
    assert_close("occurrence", out.occurrence.flatten(2), p, relative=1e-12)
    assert_close("log odds", out.occurrence_logits.flatten(2), np.log(p) - np.log1p(-p), relative=1e-12)
    assert_close("reconstruction", out.reconstruction, model.decode(out.code), relative=1e-12)


@settings(max_examples=10)
@given(
    grid=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    channels=st.sampled_from([1, 3]),
    num_parts=st.integers(1, 5),
    part_dim=st.integers(1, 4),
)
def test_shapes_on_any_grid_and_at_any_size(grid, channels, num_parts, part_dim):
    model = PatchVAE(image_size=(24, 8), channels=channels, num_parts=num_parts, part_dim=part_dim).eval()
    height, width = 8 * grid[0], 8 * grid[1]
    out = model(pictures(2, channels, height, width))
    assert model.grid == (3, 1)
    assert out.reconstruction.shape == (2, channels, height, width)
    assert out.occurrence.shape == out.occurrence_logits.shape == (2, num_parts, *grid)
    assert out.code.shape == (2, num_parts * part_dim, *grid)
    assert out.appearance_mean.shape == out.appearance_variance.shape == (2, num_parts, part_dim)
    assert out.kl_appearance.shape == out.kl_occurrence.shape == (2,)
    assert model.sample(2).shape == (2, channels, 24, 8)


@pytest.mark.parametrize(("encoder", "scale"), [("release", 8), ("resnet18", 32), ("small", 8)])
def test_the_encoder_sets_the_grid(encoder, scale):
    model = small(encoder=encoder, image_size=(64, 32)).eval()
    assert (model.scale, model.grid) == (scale, (64 // scale, 32 // scale))
    out = model(pictures(1, 3, 64, 32))
    assert out.occurrence.shape[2:] == model.grid
    assert out.reconstruction.shape == (1, 3, 64, 32)


@pytest.mark.parametrize("head", ["pooled", "separate", "fused"])
@pytest.mark.parametrize("sample", [True, False])
def test_the_loss_reaches_every_parameter(head, sample):
    model = small(head=head)
    images = pictures(4, 3, 16, 16)
    elbo(model(images, noise=Noise(1), sample=sample), images).total.backward()
    unreached = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # The mean code knows no variance, whose gradient then comes from its divergence alone.
    assert not unreached


@pytest.mark.parametrize("head", ["pooled", "separate", "fused"])
@pytest.mark.parametrize("detach_weights", [True, False])
def test_pooled_appearance_moves_occurrence_only_where_weights_are_attached(head, detach_weights):
    model = small(head=head, detach_weights=detach_weights)
    model.encode(pictures(2, 3, 16, 16)).appearance_mean.sum().backward()
    gradient = model.occurrence_head.weight.grad
    assert (gradient is not None and gradient.any()) == (not detach_weights)


def test_training_starts_at_the_prior():
    model = small(num_parts=8, occurrence_prior=0.1, appearance_prior_mean=20.0, image_size=32)
    out = model(pictures(16, 3, 32, 32))
    assert_close("occurrence", out.occurrence, torch.full_like(out.occurrence, 0.1), relative=0.5)
    assert out.occurrence_logits.std() > 1e-3  # and cells still differ, or parts would all learn the same
    at_one_half = 8 * 16 * (math.log(0.5) - 0.5 * math.log(0.1) - 0.5 * math.log(0.9))
    assert out.kl_occurrence.max() < 0.01 * at_one_half
    assert (out.appearance_mean - 20).abs().max() < 5


def test_permuting_parts_permutes_what_is_said_of_them_and_nothing_else():
    model, permuted = small(num_parts=4), small(num_parts=4)
    order = torch.tensor([2, 0, 3, 1])
    numbers = (order[:, None] * 2 + torch.arange(2)).flatten()
    weights = model.state_dict()
    for name in ("occurrence_head.weight", "occurrence_head.bias"):
        weights[name] = weights[name][order]
    for head in ("appearance_mean_head", "appearance_log_variance_head"):
        for name in (f"{head}.weight", f"{head}.bias"):
            weights[name] = weights[name][numbers]
    weights["decoder.input.conv.weight"] = weights["decoder.input.conv.weight"][:, numbers]
    permuted.load_state_dict(weights)
    images = pictures(2, 3, 16, 16)
    out, other = model.eval()(images), permuted.eval()(images)
    for name in ("occurrence", "appearance_mean", "appearance_variance"):
        assert_close(name, getattr(other, name), getattr(out, name)[:, order], relative=1e-5)
    assert_close("code", other.code, out.code[:, numbers], relative=1e-5)
    for name in ("reconstruction", "kl_appearance", "kl_occurrence"):
        assert_close(name, getattr(other, name), getattr(out, name), relative=1e-4)


@pytest.mark.parametrize("training", [True, False])
def test_nothing_is_drawn_unless_noise_is_given(training):
    model = small().train(training)
    images = pictures(3, 3, 16, 16)
    state = torch.get_rng_state()
    out = model(images)
    assert equal(out, model(images))
    assert equal(model.encode(images), model.encode(images))
    assert torch.equal(out.code, model.encode(images).code)
    assert torch.equal(out.code, model(images, noise=Noise(1), sample=False).code)
    assert torch.equal(model.eval()(images).reconstruction, model.reconstruct(images))
    model.train(training)
    assert equal(model(images, noise=Noise(1)), model(images, noise=Noise(1)))
    assert not torch.equal(out.code, model(images, noise=Noise(1)).code)
    assert not torch.equal(model(images, noise=Noise(1)).code, model(images, noise=Noise(1, step=1)).code)
    model.sample(2, seed=3)
    assert torch.equal(state, torch.get_rng_state())


def test_a_divided_batch_draws_what_the_whole_one_draws():
    model = small().double().eval()
    images = pictures(4, 3, 16, 16, dtype=torch.float64)
    whole = model(images, noise=Noise(7, 1, first_image=10)).code
    halves = [model(images[i : i + 2], noise=Noise(7, 1, first_image=10 + i)).code for i in (0, 2)]
    assert_close("code", torch.cat(halves), whole, relative=1e-12)


@pytest.mark.parametrize("prior_mean", [0.0, 2.0])
def test_samples_follow_the_prior(monkeypatch, prior_mean):
    model = small(num_parts=6, image_size=64, occurrence_prior=0.15, appearance_prior_mean=prior_mean)
    monkeypatch.setattr(model, "decode", lambda code: code)
    code = model.sample(200, seed=1).unflatten(1, (6, 2)).flatten(3)
    present = code != 0
    assert present.float().mean().item() == pytest.approx(0.15, abs=0.005)
    assert torch.equal(present[:, :, 0], present[:, :, 1])
    appearance = code.abs().amax(3, keepdim=True)
    assert torch.equal(code.abs(), appearance * present)  # one appearance an image and part
    occurring = present.any(3)  # not every part occurs in every image
    values = (code.sum(3) / present.sum(3))[occurring]
    assert values.mean().item() == pytest.approx(prior_mean, abs=0.05)
    assert values.std().item() == pytest.approx(1, abs=0.05)
    assert torch.equal(model.sample(3, seed=1).flatten(2), code[:3].flatten(1, 2))
    assert not torch.equal(model.sample(3, seed=2), model.sample(3, seed=1))


@pytest.mark.parametrize("occurrence", ["bernoulli", "categorical"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_samples_of_a_rare_part_are_as_rare_in_half_precision(monkeypatch, occurrence, dtype):
    model = small(image_size=64, occurrence_prior=1e-3, occurrence=occurrence).to(dtype)
    monkeypatch.setattr(model, "decode", lambda code: code)
    present = model.sample(400, seed=1).unflatten(1, (3, 2))[:, :, 0] != 0
    # 76,800 draws: five standard deviations.
    assert present.float().mean().item() == pytest.approx(1e-3, abs=5 * (1e-3 / present.numel()) ** 0.5)


def test_bytes_are_brought_to_the_range_of_the_decoder():
    model = small().eval()
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    assert equal(model(images), model(images.float() / 127.5 - 1))


def test_memory_layout_changes_nothing_and_channels_last_stays():
    model = small().eval()
    images = pictures(2, 3, 16, 24)
    expected = model(images, noise=Noise(2)).reconstruction
    strided = images.permute(2, 0, 3, 1).contiguous().permute(1, 3, 0, 2)
    assert_close("strided", model(strided, noise=Noise(2)).reconstruction, expected, relative=1e-5)
    model.to(memory_format=torch.channels_last)
    out = model(images.contiguous(memory_format=torch.channels_last), noise=Noise(2))
    assert_close("channels last", out.reconstruction, expected, relative=1e-5)
    for tensor in (out.reconstruction, out.code, out.occurrence_logits):
        assert tensor.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("head", ["pooled", "fused"])
def test_autocast_keeps_pooled_numbers_and_divergences_in_float32(head):
    model = small(head=head).eval()
    images = pictures(2, 3, 16, 16)
    expected = model(images)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(images)
    assert out.code.dtype == out.reconstruction.dtype == torch.bfloat16
    for name in ("occurrence", "appearance_mean", "appearance_variance", "kl_appearance", "kl_occurrence"):
        value = getattr(out, name)
        assert value.dtype == torch.float32, name
        assert_close(name, value, getattr(expected, name), relative=0.1, absolute=0.02)


@pytest.mark.parametrize(("head", "backend"), [("pooled", "aot_eager"), ("separate", "eager"), ("fused", "eager")])
def test_compiles_as_one_graph(head, backend):
    model = small(head=head)
    images = pictures(2, 3, 16, 16)

    def step(images, noise):
        out = model(images, noise=noise)
        return out, elbo(out, images).total

    noise = Noise(torch.tensor(3), torch.tensor(4))
    expected, loss = step(images, noise)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    out, loss = torch.compile(step, fullgraph=True, backend=backend)(images, noise)
    assert equal(out, expected)
    for got, gradient in zip(torch.autograd.grad(loss, list(model.parameters())), gradients, strict=True):
        assert torch.equal(got, gradient)


def test_gradients_of_each_image_by_vmap():
    model = small().eval()
    images = torch.rand(3, 3, 16, 16)
    weights = dict(model.named_parameters())

    def loss(weights, image):
        out = torch.func.functional_call(model, weights, (image[None],))
        return elbo(out, image[None]).total

    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(weights, images)
    for index, image in enumerate(images):
        gradients = torch.autograd.grad(loss(weights, image), list(weights.values()))
        for name, gradient in zip(weights, gradients, strict=True):
            torch.testing.assert_close(each[name][index], gradient, rtol=1e-3, atol=1e-4)


def test_an_unknown_argument_is_named_with_the_nearest_of_all():
    for wrong, near in (("num_part", "num_parts"), ("imagesize", "image_size"), ("ocurrence", "occurrence")):
        with pytest.raises(TypeError, match=rf"PatchVAE\(\) has no argument '{wrong}', the nearest is '{near}'"):
            PatchVAE(**{wrong: 3})


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"image_size": 30}, "image_size 30 is not divisible by 8, the scale of 'paper'"),
        ({"image_size": (32, 20)}, r"image_size \(32, 20\) is not divisible by 8"),
        ({"image_size": (32, 32, 3)}, r"image_size must be an integer or \(height, width\), got \(32, 32, 3\)"),
        ({"image_size": 32.0}, "image_size must be a positive integer, got 32.0"),
        ({"image_size": 0}, "image_size must be a positive integer, got 0"),
        ({"channels": 0}, "channels must be a positive integer, got 0"),
        ({"num_parts": 0}, "num_parts must be a positive integer, got 0"),
        ({"part_dim": True}, "part_dim must be a positive integer, got True"),
        ({"encoder": "resnet"}, "encoder must be one of 'paper', 'release', 'resnet18', 'small', 'fine', got 'resnet'"),
        ({"head": "map"}, "head must be 'pooled', 'separate' or 'fused', got 'map'"),
        ({"head": "pooled", "variance": "arithmetic"}, "head='pooled' needs variance='geometric'"),
        ({"head_kernel_size": 2}, "head_kernel_size must be odd, got 2"),
        ({"variance": "harmonic"}, "variance must be one of geometric, arithmetic, got 'harmonic'"),
        ({"occurrence_prior": 1.0}, "occurrence_prior must be between 0 and 1, both excluded, got 1.0"),
        ({"occurrence_prior": "low"}, "occurrence_prior must be a number, got 'low'"),
        ({"appearance_prior_mean": float("inf")}, "appearance_prior_mean must be a number, got inf"),
        ({"appearance_prior_mean": "high"}, "appearance_prior_mean must be a number, got 'high'"),
    ],
    ids=lambda value: "" if isinstance(value, str) else str(value),
)
def test_bad_arguments_are_refused_in_a_sentence(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        PatchVAE(**arguments)


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (torch.zeros(3, 32, 32), r"images must be \(B, 3, H, W\), got \(3, 32, 32\)"),
        (torch.zeros(2, 1, 32, 32), r"images must be \(B, 3, H, W\), got \(2, 1, 32, 32\)"),
        (torch.zeros(2, 3, 32, 30), "image height and width must be multiples of 8, got 32 and 30"),
        (torch.zeros(2, 3, 0, 32), "image height and width must be multiples of 8, got 0 and 32"),
        (torch.zeros(2, 3, 32, 32, dtype=torch.int32), r"images must be uint8, or floating point in \[-1, 1\]"),
    ],
    ids=["rank", "channels", "size", "empty", "dtype"],
)
def test_bad_images_are_refused_in_a_sentence(images, sentence):
    for call in (small(), small().encode, small().reconstruct, small().features):
        with pytest.raises(ValueError, match=sentence):
            call(images)


@pytest.mark.parametrize("build", [small, lambda: BetaVAE(image_size=16, latent_dim=4, encoder="small")])
def test_reconstructing_and_sampling_move_no_statistic_and_no_mode(build):
    model = build().train()
    model.encoder.layer1.eval()  # somebody has frozen it
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    images = pictures(4, 3, 16, 16)
    reconstructed, drawn = model.reconstruct(images), model.sample(3, seed=1)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    # In evaluation mode an image's result does not depend on the batch.
    assert_close("alone", model.reconstruct(images[:1]), reconstructed[:1], relative=1e-5)
    assert_close("alone", model.sample(1, seed=1), drawn[:1], relative=1e-5)


@pytest.mark.parametrize("scale", [255.0, 30.0, -100.0])
def test_floats_far_outside_of_the_range_are_refused(scale):
    images = scale * torch.rand(2, 3, 16, 16)
    for call in (small(), small().encode, small().reconstruct, small().features):
        with pytest.raises(ValueError, match=r"images must be uint8, or floating point in \[-1, 1\], got floats from"):
            call(images)
    small().encode(2.7 * pictures(2, 3, 16, 16))  # normalised by ImageNet's statistics


def test_arrays_are_refused_with_what_makes_tensors_of_them():
    with pytest.raises(ValueError, match=r"images must be a tensor \(B, 3, H, W\), got ndarray; .*movedim"):
        small().encode(np.zeros((2, 16, 16, 3), np.uint8))
    with pytest.raises(ValueError, match=r"images must be a tensor \(B, 3, H, W\), got list$"):
        small().encode([1, 2])
    with pytest.raises(ValueError, match=r"images must be a tensor \(B, 3, H, W\), got ndarray; .*movedim"):
        BetaVAE(image_size=16, latent_dim=4, encoder="small").encode(np.zeros((2, 16, 16, 3), np.uint8))
    with pytest.raises(ValueError, match=r"code must be a tensor \(B, \d+, h, w\), got ndarray \(2, 3, 2, 2\)$"):
        small().decode(np.zeros((2, 3, 2, 2), np.float32))


def test_the_loss_refuses_images_that_do_not_belong_to_it():
    images = pictures(2, 3, 16, 16)
    out = small().eval()(images)
    with pytest.raises(ValueError, match=r"got floats from .*; bytes x as floats become x / 127\.5 - 1"):
        elbo(out, (images + 1) * 127.5)
    with pytest.raises(ValueError, match=r"images must be a tensor .*, got ndarray; "):
        elbo(out, images.numpy())


def test_results_show_shapes_and_no_numbers():
    out = small().eval()(pictures(2, 3, 16, 16))
    shown = repr(out)
    assert shown.startswith("PatchVAEOutput(occurrence_logits=float32 (2, 3, 2, 2), occurrence=float32 (2, 3, 2, 2), ")
    assert "tensor(" not in shown
    loss = elbo(out, pictures(2, 3, 16, 16))
    assert repr(loss).startswith(f"Elbo(total={loss.total.item():.6g}, ")


def test_bad_codes_counts_and_calls_are_refused_in_a_sentence():
    model = small()
    with pytest.raises(ValueError, match=r"code must be a tensor \(B, 6, h, w\), got Tensor \(2, 5, 4, 4\)"):
        model.decode(torch.zeros(2, 5, 4, 4))
    with pytest.raises(ValueError, match="count must be a positive integer, got 0"):
        model.sample(0)
    with pytest.raises(ValueError, match="sample=True needs noise"):
        model(pictures(2, 3, 16, 16), sample=True)


def test_defaults_depend_on_the_variance_rule():
    assert small().config["head"] == "pooled"
    assert small(variance="arithmetic").config["head"] == "fused"
    assert small(num_parts=1).config["occurrence_prior"] == 0.5
    assert small(num_parts=4).config["occurrence_prior"] == 0.25


@pytest.mark.parametrize("head", ["pooled", "separate"])
def test_a_categorical_cell_holds_one_part_at_most(head, tmp_path, monkeypatch):
    options = {"image_size": 16, "num_parts": 4, "part_dim": 1, "encoder": "small", "head": head}
    model = PatchVAE(**options, occurrence="categorical", straight_through=True).eval()
    assert model.bottleneck.occurrence_prior == 0.2
    images = torch.rand(3, 3, 16, 16) * 2 - 1
    out = model(images, noise=Noise(3))
    raw = model.occurrence_head(model.features(images))
    expected = torch.cat([raw, torch.zeros(3, 1, 2, 2)], 1).softmax(1)[:, :4]
    # Roundoff of log p, whose error the logit of a p near 1 magnifies.
    assert_close("occurrence", out.occurrence, expected, relative=1e-4)
    assert torch.equal(out.occurrence, out.occurrence_logits.sigmoid())
    total = out.occurrence.sum(1)
    assert (total < 1).all()
    assert total.mean().item() == pytest.approx(0.8, abs=0.1)  # near the prior, which starts with all alike
    assert ((out.code != 0).sum(1) <= 1).all()
    out.kl_occurrence.sum().backward()
    assert model.occurrence_head.weight.grad.any()
    model.save_pretrained(tmp_path)
    loaded = PatchVAE.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded(images, noise=Noise(3)).code, out.code)
    monkeypatch.setattr(model, "decode", lambda code: code)
    drawn = model.sample(400) != 0
    assert (drawn.sum(1) <= 1).all()
    # 6,400 cells of four parts with probability 0.2 each: five standard deviations.
    assert ((drawn.float().mean((0, 2, 3)) - 0.2).abs() < 5 * 0.4 / 1600**0.5).all()


def test_a_categorical_prior_leaves_room_for_none():
    with pytest.raises(
        ValueError, match=r"occurrence_prior must be below 1/N = 0.25 for categorical occurrences of 4 parts, got 0.25"
    ):
        PatchVAE(num_parts=4, occurrence="categorical", occurrence_prior=0.25)
    with pytest.raises(ValueError, match="occurrence must be one of bernoulli, categorical, got 'one'"):
        PatchVAE(occurrence="one")
