"""Models on disk: identical after loading, written atomically, and one sentence for each invalid file."""

import inspect
import json
import shutil
import sys
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from accel import BetaVAE, Noise, PatchVAE
from accel.models.storage import load_tensors, tensors_to_bytes
from tests.common.disk import files_limited_to


def same_bits(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(a[n].dtype == b[n].dtype and torch.equal(a[n], b[n]) for n in a)


def small(**options):
    return PatchVAE(**{"num_parts": 3, "part_dim": 2, "image_size": (16, 8), "channels": 1} | options)


@pytest.fixture
def saved(tmp_path):
    folder = tmp_path / "model"
    small().save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "build",
    [
        lambda: small(occurrence_prior=1 / 3, straight_through=True, detach_weights=False, head="separate"),
        lambda: small(variance="arithmetic", head_kernel_size=1, encoder="release").to(torch.bfloat16),
        lambda: BetaVAE(image_size=16, channels=1, latent_dim=5).double(),
    ],
    ids=["patchvae", "bfloat16", "beta-vae"],
)
def test_comes_back_with_the_same_bits_and_arguments(build, tmp_path):
    model = build()
    model(torch.rand(2, 1, *model.image_size), noise=Noise(0))  # moves batch-norm statistics
    model.save_pretrained(tmp_path / "new" / "folder")
    state = torch.get_rng_state()
    loaded = type(model).from_pretrained(tmp_path / "new" / "folder")
    assert torch.equal(state, torch.get_rng_state())
    assert same_bits(model, loaded)
    assert loaded.config == model.config
    assert set(model.config) == set(inspect.signature(type(model)).parameters) - {"backend"}
    assert not any(module.training for module in loaded.modules())
    assert all(p.requires_grad and p.is_leaf for p in loaded.parameters())
    images = torch.rand(2, 1, *model.image_size)
    assert torch.equal(model.eval()(images).reconstruction, loaded.eval()(images).reconstruction)


def test_config_says_what_to_build(saved):
    description = json.loads((saved / "config.json").read_text())
    assert description["system"] == "PatchVAE"
    assert description["arguments"]["num_parts"] == 3
    assert description["arguments"]["occurrence_prior"] == 1 / 3
    assert same_bits(PatchVAE.from_pretrained(saved), PatchVAE.from_pretrained(str(saved), device="cpu"))


def test_where_it_computes_is_no_part_of_the_model(tmp_path):
    small(backend="torch").save_pretrained(tmp_path)
    assert PatchVAE.from_pretrained(tmp_path).backend is None


def test_saving_again_replaces_and_leaves_nothing_beside(saved):
    model = small(num_parts=5)
    model.save_pretrained(saved)
    assert same_bits(model, PatchVAE.from_pretrained(saved))
    assert sorted(path.name for path in saved.iterdir()) == ["config.json", "weights.pt"]


@pytest.mark.parametrize("size", [0, 100, 100_000])
def test_a_full_disk_leaves_the_previous_model(saved, size):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    with files_limited_to(size), pytest.raises(OSError, match=r"File too large: '.*(config\.json|weights\.pt)'"):
        small(num_parts=5).save_pretrained(saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    PatchVAE.from_pretrained(saved)


def test_missing_files_are_named(saved, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere: no such folder, expected one that save_pretrained wrote"):
        PatchVAE.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"^part: no such folder, .* that comes with the package: parts$"):
        PatchVAE.from_pretrained("part")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"config\.json: no such file"):
        PatchVAE.from_pretrained(tmp_path / "empty")
    (saved / "weights.pt").unlink()
    with pytest.raises(FileNotFoundError, match=r"weights\.pt: no such file"):
        PatchVAE.from_pretrained(saved)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda d: d["arguments"].update(num_part=4),
            "PatchVAE has no argument 'num_part', the nearest is 'num_parts'",
        ),
        (lambda d: d["arguments"].update(num_parts=-4), "num_parts must be a positive integer, got -4"),
        (
            lambda d: d["arguments"].update(num_parts=4),
            r"weights.pt: does not fit the configuration, 'decoder.input.conv.weight' is \(256, 6, 1, 1\)",
        ),
        (lambda d: d["arguments"].update(encoder="release"), r"'encoder\.layer1.* \(and \d+ more\) is missing"),
        (lambda d: d["arguments"].update(image_size="big"), "image_size must be a positive integer, got 'big'"),
        (lambda d: d.update(system="BetaVAE"), "config.json: holds a BetaVAE, not a PatchVAE"),
        (lambda d: d.update(format=99), "config.json: written in format 99, this version reads format 1"),
        (lambda d: d.pop("arguments"), "config.json: not the configuration of a model"),
    ],
    ids=["unknown", "value", "shape", "missing", "type", "system", "format", "foreign"],
)
def test_a_configuration_that_does_not_fit_is_refused_in_a_sentence(saved, change, sentence):
    description = json.loads((saved / "config.json").read_text())
    change(description)
    (saved / "config.json").write_text(json.dumps(description))
    with pytest.raises(ValueError, match=sentence) as refusal:
        PatchVAE.from_pretrained(saved)
    assert str(refusal.value).startswith(str(saved))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("text", ["", "{", "[1]", "\xff"])
def test_a_configuration_that_is_none_is_refused(saved, text):
    (saved / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"config\.json (is not|must be a dictionary)"):
        PatchVAE.from_pretrained(saved)


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ([torch.zeros(2)], "expected one dictionary of tensors"),
        ({"occurrence_head.weight": 1.0}, "expected one dictionary of tensors"),
        ({"epoch": torch.tensor(3)}, "'appearance_log_variance_head.bias' .* is missing"),
    ],
)
def test_other_files_of_tensors_are_refused(saved, weights, sentence):
    (saved / "weights.pt").write_bytes(tensors_to_bytes(weights))
    with pytest.raises(ValueError, match=rf"weights\.pt: .*{sentence}"):
        PatchVAE.from_pretrained(saved)


def test_unknown_tensors_and_integers_for_numbers_are_refused(saved):
    weights = load_tensors(saved / "weights.pt")
    (saved / "weights.pt").write_bytes(tensors_to_bytes(weights | {"extra": torch.zeros(1)}))
    with pytest.raises(ValueError, match="it holds the unknown 'extra'"):
        PatchVAE.from_pretrained(saved)
    weights["occurrence_head.bias"] = weights["occurrence_head.bias"].long()
    (saved / "weights.pt").write_bytes(tensors_to_bytes(weights))
    with pytest.raises(ValueError, match=r"'occurrence_head.bias' is \(3,\) torch.int64, not \(3,\) torch.float32"):
        PatchVAE.from_pretrained(saved)


def test_only_plain_data_is_read_and_nothing_executed(tmp_path):
    class Trap:
        def __reduce__(self):
            return open, (str(tmp_path / "executed"), "w")

    path = tmp_path / "weights.pt"
    for value, name in ((Trap(), "io.open"), (Fraction(1, 2), "fractions.Fraction")):
        path.write_bytes(tensors_to_bytes({"value": value}))
        with pytest.raises(ValueError, match=rf"weights\.pt: .*it holds {name}, and only plain data is read"):
            load_tensors(path)
    assert not (tmp_path / "executed").exists()


@settings(max_examples=60)
@given(st.data())
def test_damage_is_noticed_or_harmless(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "damaged"
    folder.mkdir(exist_ok=True)
    path = folder / "weights.pt"
    value = {"weight": torch.arange(300.0), "bias": torch.arange(5)}
    contents = bytearray(tensors_to_bytes(value))
    if data.draw(st.booleans(), label="truncated"):
        contents = contents[: data.draw(st.integers(0, len(contents) - 1))]
    else:
        position = data.draw(st.integers(0, len(contents) - 1))
        contents[position] ^= data.draw(st.integers(1, 255))
    path.write_bytes(contents)
    try:
        loaded, sentence = load_tensors(path), None
    except ValueError as error:
        loaded, sentence = value, str(error)
    assert sentence is None or sentence.startswith(f"{path}: not a readable file of tensors")
    assert "\n" not in (sentence or "")
    assert all(torch.equal(loaded[name], value[name]) for name in value)


def test_a_model_moved_as_a_folder_still_loads(saved, tmp_path):
    shutil.move(saved, tmp_path / "elsewhere")
    PatchVAE.from_pretrained(tmp_path / "elsewhere")


def test_a_run_is_as_good_as_its_model_folder(tmp_path):
    model = small()
    model.save_pretrained(tmp_path / "run" / "model")
    (tmp_path / "run" / "config.json").write_text("{}")  # the run's own
    assert same_bits(type(model).from_pretrained(tmp_path / "run"), model)


def test_weights_are_read_under_the_names_that_they_had(tmp_path):
    model = small()
    model.save_pretrained(tmp_path)
    weights = torch.load(tmp_path / "weights.pt", weights_only=True)
    torch.save({name.replace("_head.", "."): value for name, value in weights.items()}, tmp_path / "weights.pt")
    assert same_bits(type(model).from_pretrained(tmp_path), model)


def test_safetensors_stand_beside_and_hold_the_same_bits(tmp_path):
    library = pytest.importorskip("safetensors.torch")
    model = small(variance="arithmetic").to(torch.bfloat16, memory_format=torch.channels_last)
    model.save_pretrained(tmp_path, safetensors=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors", "weights.pt"]
    stored = library.load_file(tmp_path / "model.safetensors")
    assert stored.keys() == model.state_dict().keys()
    assert same_bits(PatchVAE.from_pretrained(tmp_path), model)
    (tmp_path / "weights.pt").unlink()
    assert same_bits(PatchVAE.from_pretrained(tmp_path), model)


def test_safetensors_of_an_earlier_model_go(tmp_path):
    pytest.importorskip("safetensors")
    small().save_pretrained(tmp_path, safetensors=True)
    small(num_parts=5).save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "weights.pt"]


def test_a_run_s_model_may_be_safetensors_alone(tmp_path):
    pytest.importorskip("safetensors")
    small().save_pretrained(tmp_path / "model", safetensors=True)
    (tmp_path / "model" / "weights.pt").unlink()
    assert PatchVAE.from_pretrained(tmp_path).num_parts == 3


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda weights: weights | {"extra": torch.zeros(1)}, "it holds the unknown 'extra'"),
        (lambda weights: {"occurrence_head.bias": torch.zeros(3)}, "is missing"),
        (lambda weights: weights | {"occurrence_head.bias": torch.zeros(4)}, r"'occurrence_head.bias' is \(4,\)"),
    ],
)
def test_safetensors_that_do_not_fit_are_refused(tmp_path, change, sentence):
    library = pytest.importorskip("safetensors.torch")
    small().save_pretrained(tmp_path, safetensors=True)
    weights = load_tensors(tmp_path / "weights.pt")
    (tmp_path / "weights.pt").unlink()
    library.save_file(change(weights), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=rf"model\.safetensors: does not fit the configuration, .*{sentence}"):
        PatchVAE.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda contents: b"",
        lambda contents: contents[:-1],
        lambda contents: contents + b"0",
        lambda contents: b"\xff" * 8 + contents[8:],
        lambda contents: contents.replace(b'"F32"', b'"F33"'),
        lambda contents: b"PK\x03\x04" + bytes(100),
    ],
    ids=["empty", "cut", "longer", "endless header", "unknown dtype", "an archive"],
)
def test_damaged_safetensors_are_refused_in_a_sentence(tmp_path, damage):
    pytest.importorskip("safetensors")
    small().save_pretrained(tmp_path, safetensors=True)
    (tmp_path / "weights.pt").unlink()
    path = tmp_path / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"model\.safetensors: not a readable file of safetensors \(") as refusal:
        PatchVAE.from_pretrained(tmp_path)
    assert "\n" not in str(refusal.value)


def test_without_the_package_safetensors_the_command_is_named(saved, tmp_path, monkeypatch):
    (saved / "model.safetensors").touch()
    for name in ("safetensors", "safetensors.torch"):
        monkeypatch.setitem(sys.modules, name, None)
    assert PatchVAE.from_pretrained(saved).num_parts == 3  # whose weights.pt is there
    sentence = r"safetensors is missing: pip install safetensors"
    with pytest.raises(ImportError, match=sentence):
        small().save_pretrained(tmp_path / "new", safetensors=True)
    assert not (tmp_path / "new").exists()
    (saved / "weights.pt").unlink()
    with pytest.raises(ImportError, match=sentence):
        PatchVAE.from_pretrained(saved)


def test_a_subclass_that_passes_its_arguments_on_comes_back(tmp_path):
    class Own(PatchVAE):
        def __init__(self, **options):
            super().__init__(**options)

    Own(image_size=16, num_parts=3, encoder="small").save_pretrained(tmp_path)
    assert Own.from_pretrained(tmp_path).num_parts == 3
    described = json.loads((tmp_path / "config.json").read_text())
    described["arguments"]["num_part"] = 4
    (tmp_path / "config.json").write_text(json.dumps(described))
    with pytest.raises(ValueError, match=r"config.json: PatchVAE\(\) has no argument 'num_part', the nearest is"):
        Own.from_pretrained(tmp_path)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    model = PatchVAE(image_size=16, num_parts=3, encoder="small")
    model.occurrence_head.weight.data[0] = torch.nan
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"weights.pt: 'occurrence_head.weight' holds numbers that are not finite"):
        PatchVAE.from_pretrained(tmp_path)
