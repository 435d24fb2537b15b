"""Options: defaults, recipes, checks, and conversion to JSON and back."""

import argparse
import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.common.options import add_options, flag
from accel.models.encoder import PRESETS
from accel.training import TrainingConfig
from accel.training.catalogue import SYSTEMS
from accel.training.config import CHANGEABLE, ENCODERS, PARTS_RECIPE

FIELDS = {field.name: field for field in dataclasses.fields(TrainingConfig)}


def test_defaults_are_the_papers_recipe():
    config = TrainingConfig(data="cifar100")
    assert (config.learning_rate, config.batch_size, config.epochs) == (1e-4, 128, 90)
    assert (config.num_parts, config.part_dim, config.occurrence_prior) == (16, 6, None)
    assert (config.temperature, config.temperature_rate, config.temperature_floor) == (1.0, 3e-5, 0.1)
    assert config.system == "patchvae+w"
    assert config.weighted
    assert not dataclasses.replace(config, system="patchvae").weighted


def test_recipe_fills_only_what_is_not_set():
    config = TrainingConfig(epochs=3)
    assert config.data == "parts"
    for name, value in PARTS_RECIPE.items():
        assert getattr(config, name) == (3 if name == "epochs" else value)
    assert TrainingConfig(data="parts", epochs=90).epochs == 90
    other = TrainingConfig(system="beta-vae")
    assert (other.encoder, other.epochs, other.decoder) == ("small", PARTS_RECIPE["epochs"], "pyramid")


def test_named_sets_of_options_exist():
    assert {*PARTS_RECIPE, *CHANGEABLE}.union(*(row.without_effect for row in SYSTEMS.values())) <= FIELDS.keys()
    assert set(ENCODERS) == set(PRESETS)


def test_configuration_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainingConfig().epochs = 2


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "data": st.sampled_from(["parts", "cifar10", "a/b.npz"]),
            "train_images": st.none() | st.integers(1, 10**6),
            "system": st.sampled_from(["patchvae", "beta-vae+w"]),
            "occurrence_prior": st.none() | st.floats(0, 1, exclude_min=True, exclude_max=True),
            "learning_rate": st.floats(1e-300, 1e3),
            "beta_occ": st.integers(0, 9) | st.floats(0, 1e6),
            "straight_through": st.booleans(),
            "seed": st.integers(0, 2**63 - 1),
            "out": st.none() | st.text(max_size=5),
        },
    )
)
def test_json_round_trip(values):
    config = TrainingConfig(**values)
    again = TrainingConfig.from_dict(json.loads(config.to_json()), "config.json")
    assert again == config
    assert all(type(getattr(again, name)) is type(getattr(config, name)) for name in FIELDS)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", -1),
        ("epochs", 2.0),
        ("epochs", "3"),
        ("epochs", True),
        ("batch_size", -1),
        ("head_kernel_size", 4),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("beta_app", -0.5),
        ("beta_occ", float("inf")),
        ("occurrence_prior", 1.0),
        ("appearance_prior_mean", float("nan")),
        ("temperature", 0),
        ("temperature_floor", -1.0),
        ("seed", -1),
        ("seed", 2**63),
        ("straight_through", 1),
        ("flip", "always"),
        ("device", "gpu"),
        ("device", "cuda:"),
        ("data", 3),
    ],
)
def test_value_out_of_range_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be .*, got") as error:
        TrainingConfig(**{name: value})
    assert "\n" not in str(error.value)


def test_nearest_choice_and_key_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"nearest: beta-vae\+w"):
        TrainingConfig(system="betavae+w")
    with pytest.raises(ValueError, match=r"config\.json: unknown option 'lr_rate' \(nearest: learning_rate\)"):
        TrainingConfig.from_dict({"lr_rate": 1e-4}, "config.json")
    with pytest.raises(ValueError, match=r"config\.json: epochs must be at least 0"):
        TrainingConfig.from_dict({"epochs": -1}, "config.json")
    path = tmp_path / "config.json"
    for text in ("{", "[1]", "\x00"):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"config\.json"):
            TrainingConfig.from_json_file(path)


def test_a_recipe_for_categorical_occurrences_admits_others():
    assert TrainingConfig(data="parts").beta_identity == 0
    assert TrainingConfig(data="parts", occurrence="bernoulli").beta_identity == 1
    assert TrainingConfig(data="parts", occurrence="bernoulli", beta_identity=0.5).beta_identity == 0.5
    assert TrainingConfig(data="a.npz", occurrence="categorical").beta_identity == 1


def test_an_option_that_a_file_does_not_know_has_its_own_default_not_the_recipes():
    saved = json.loads(TrainingConfig(data="parts").to_json())
    del saved["appearance_prior_mean"]
    assert TrainingConfig.from_dict(saved, "config.json").appearance_prior_mean == 0


def test_every_option_is_on_the_command_line():
    parser = argparse.ArgumentParser()
    add_options(parser, TrainingConfig)
    assert vars(parser.parse_args([])) == {}
    for name, field in FIELDS.items():
        value = getattr(TrainingConfig(data="cifar10"), name)
        if field.type == bool | None:
            words, value = [flag(name)], True
        elif isinstance(value, bool):
            words = [flag(name) if not value else flag(name).replace("--", "--no-")]
            value = not value
        else:
            value = {"occurrence_prior": 0.25, "head": "fused"}.get(name, value)
            if value is None:
                value = 16 if field.type == int | None else "somewhere"
            words = [flag(name), str(value)]
        assert vars(parser.parse_args(words)) == {name: value}


def test_help_shows_every_default():
    parser = argparse.ArgumentParser(formatter_class=lambda prog: argparse.HelpFormatter(prog, width=1000))
    add_options(parser, TrainingConfig)
    text = parser.format_help()
    assert text.count("(default: ") == len(FIELDS)
    assert "(default: 1.0)" in text
    assert f"(default: 90, {PARTS_RECIPE['epochs']} for parts)" in text
    assert "(default: bernoulli, categorical for parts)" in text
    assert "(default: paper, fine for parts, small for parts with another model than PatchVAE)" in text
    assert "None" not in text


def test_run_folder_is_named_after_data_and_system():
    assert str(TrainingConfig().folder) == "runs/parts-patchvae+w"
    assert str(TrainingConfig(data="photos/birds.npz", system="beta-vae").folder) == "runs/birds-beta-vae"
    assert str(TrainingConfig(data="photos/birds/").folder) == "runs/birds-patchvae+w"
    assert str(TrainingConfig(data=".").folder) == f"runs/{Path.cwd().name}-patchvae+w"
    assert str(TrainingConfig(out="here").folder) == "here"
