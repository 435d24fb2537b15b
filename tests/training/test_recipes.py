"""Recipes: chosen by images and device, and never overriding given options."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from accel import cli
from accel.commands.train import RecipeOptions, with_recipe, with_threads
from accel.data import Dataset, ImageSet
from accel.models import PatchVAE
from accel.training import TrainingConfig, config_for, pace, recipes
from accel.training.advice import before_training
from accel.training.catalogue import SYSTEMS
from accel.training.config import OTHER_PARTS_RECIPE, PARTS_RECIPE
from accel.training.run_folder import read_history
from tests.training.tiny import tiny_dataset


def images_of(count, size=32):
    """An image set with so many training images, which take no memory."""
    image = np.zeros((1, size, size, 3), np.uint8)
    return Dataset("photographs", *(ImageSet(np.broadcast_to(image, (n, size, size, 3))) for n in (count, 10)))


def chosen(count, device="cpu", recipe="auto", size=32, **named):
    """(name, configuration) of the recipe for so many images on a device."""
    named = {"data": "photographs"} | named
    config = TrainingConfig(**named)
    name, why, options = recipes.choose_options(recipe, config, named, images_of(count, size), device)
    assert why
    return name, TrainingConfig(**options, **named)


def steps_of(config, count):
    return config.epochs * (count // min(config.batch_size, count))


@given(count=st.integers(2, 200_000), device=st.sampled_from(["cpu", "cuda"]), size=st.sampled_from([16, 32, 64, 224]))
def test_every_number_of_images_gets_enough_steps(count, device, size):
    name, config = chosen(count, device, size=size)
    steps = steps_of(config, count)
    if name == "paper":
        assert (device, config) == ("cuda", TrainingConfig(data="photographs"))
        assert steps >= recipes.PAPER_STEPS * 0.99  # the last batch of an epoch may be left out
    else:
        wanted = recipes.QUICK_STEPS[device]
        assert wanted <= steps < wanted + count // min(config.batch_size, count)  # whole epochs
        # The temperature arrives where it is to end, up to two digits of its rate.
        assert np.exp(-config.temperature_rate * steps) == pytest.approx(config.temperature_floor, rel=0.1)
        assert config.warm_up <= steps / 2


def test_a_gpu_and_the_papers_data_take_the_papers_recipe():
    assert chosen(50_000, "cuda")[0] == "paper"
    assert chosen(50_000, "cpu")[0] == "quick"
    assert chosen(4_000, "cuda")[0] == "quick"
    for system in ("bigan", "supervised", "patchvae-gan+w"):
        assert chosen(4_000, "cpu", system=system)[0] == "paper"


NAMED = {
    "learning_rate": 3e-4,
    "batch_size": 7,
    "epochs": 3,
    "occurrence": "bernoulli",
    "encoder": "release",
    "beta_app": 0.7,
    "warm_up": 5,
    "temperature": 0.2,
    "temperature_rate": 1e-5,
    "temperature_floor": 0.15,
    "num_parts": 4,
    "occurrence_prior": 0.3,
}


@given(
    names=st.sets(st.sampled_from(sorted(NAMED))),
    recipe=st.sampled_from(["auto", "paper", "quick"]),
    data=st.sampled_from(["parts", "photographs"]),
    count=st.integers(2, 60_000),
)
def test_what_is_named_always_wins_and_always_fits(names, recipe, data, count):
    named = {name: NAMED[name] for name in names}
    _, config = chosen(count, recipe=recipe, data=data, **named)
    for name, value in named.items():
        assert getattr(config, name) == value
    if recipe == "paper":
        assert config == dataclasses.replace(TrainingConfig(data="photographs", **named), data=data)
    if not (data == "parts" and recipe == "auto"):
        PatchVAE(
            image_size=32, num_parts=config.num_parts, part_dim=config.part_dim, encoder="small",
            occurrence=config.occurrence, occurrence_prior=config.occurrence_prior,
        )  # fmt: skip


def test_the_main_job_keeps_its_recipe():
    assert chosen(8000, data="parts") == ("parts", TrainingConfig())
    name, config = chosen(8000, data="parts", recipe="quick")
    assert name == "quick"
    assert config.train_images == PARTS_RECIPE["train_images"]


def test_systems_without_parts_give_up_the_recipe_of_their_own_for_the_papers():
    named = {"system": "beta-vae"}
    config = TrainingConfig(**named)
    assert recipes.choose_options("auto", config, named, images_of(8000), "cpu")[2] == {}
    _, _, options = recipes.choose_options("paper", config, named, images_of(8000), "cpu")
    assert options.keys() == OTHER_PARTS_RECIPE.keys()


def test_a_folder_has_no_recipe_whatever_its_name():
    for name in TrainingConfig.RECIPES.keys() - {"parts"}:
        assert TrainingConfig(data=name) == dataclasses.replace(TrainingConfig(data="photographs"), data=name)
        assert chosen(8000, data=name)[0] == "quick"


def test_the_log_counts_the_steps_of_the_images_that_are_learned_from():
    images = images_of(100)
    train = dataclasses.replace(images.train, labels=np.zeros(100, np.int64))
    dataset = dataclasses.replace(images, train=train, supervised=np.arange(100) < 30)
    given = {"data": "photographs", "batch_size": 10, "epochs": 2}
    for system, steps in (("supervised", 6), ("patchvae", 20)):
        named = given | {"system": system}
        gpu = torch.device("cuda")
        config, whose = with_recipe(TrainingConfig(**named), named, "paper", dataset, gpu)
        _, opening = with_threads(config, whose, dataset, gpu)
        assert f" 2 epochs, {steps} steps of 10 images" in opening


@pytest.mark.parametrize(("seconds", "words"), [(0.5, ""), (3.0, "--train-images 100 it takes about 5 min\n")])
def test_a_long_epoch_names_a_number_of_images(seconds, words, monkeypatch):
    monkeypatch.setattr(pace, "measure_pace", lambda *_: pace.Pace({1: seconds}, 1))
    given = {"data": "photographs", "batch_size": 1, "epochs": 2, "device": "cpu"}
    _, opening = with_threads(TrainingConfig(**given), "options", images_of(600), torch.device("cpu"))
    assert opening.endswith(words or "threads: 1 of 1\n")
    assert ("an epoch takes about 30 min, and results are shown at its end" in opening) == bool(words)


def test_the_help_of_the_recipe_says_what_quick_sets():
    (field,) = dataclasses.fields(RecipeOptions)
    words = field.metadata["help"].replace("-", "_")
    assert f"about {recipes.QUICK_STEPS['cpu']:,} steps of {recipes.batch_size_for(64)} images" in words
    assert (
        f"of {recipes.batch_size_for(65)} above 64 pixels, on a CPU, {recipes.QUICK_STEPS['cuda']:,} on a GPU" in words
    )
    for name, value in recipes.QUICK.items():
        assert f"{name.replace('learning_rate', 'learning rate')} {value}" in words or f"{value} {name}" in words


def test_options_without_effect_are_left_alone():
    named = {"data": "photographs", "system": "beta-vae"}
    for system, row in SYSTEMS.items():
        named["system"] = system
        _, _, options = recipes.choose_options("quick", TrainingConfig(**named), named, images_of(400), "cpu")
        assert not row.without_effect & options.keys()


def test_the_command_says_what_it_chose_and_trains_by_it(capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(recipes.QUICK_STEPS, "cpu", 7)
    data = tiny_dataset()
    np.savez(tmp_path / "squares.npz", train_images=data.train.images, test_images=data.test.images)
    words = ["train", "--data", str(tmp_path / "squares.npz"), "--device", "cpu", "--batch-size", "6", "--threads", "1"]
    assert cli.main([*words, "--out", str(tmp_path / "quick")]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(
        "recipe quick (the paper's recipe is slow on a CPU): 2 epochs, 8 steps of 6 images each, about "
    )
    assert "\nthreads: 1 of 1\n" in out
    assert "8 steps with learning rate" in err
    config = TrainingConfig.from_json_file(tmp_path / "quick" / "config.json")
    assert (config.batch_size, config.learning_rate) == (6, recipes.QUICK["learning_rate"])
    assert len(read_history(tmp_path / "quick")) == 2
    assert cli.main([*words, "--recipe", "paper", "--epochs", "1", "--out", str(tmp_path / "paper")]) == 0
    paper = TrainingConfig.from_json_file(tmp_path / "paper" / "config.json")
    expected = TrainingConfig(
        data=str(tmp_path / "squares.npz"), device="cpu", batch_size=6, threads=1, epochs=1, out=str(tmp_path / "paper")
    )
    assert paper == expected
    capsys.readouterr()
    assert cli.main(["train", "--resume", "--recipe", "quick", "--out", str(tmp_path / "quick")]) == 2
    assert capsys.readouterr().err == (
        "patchvae: --recipe has no effect with --resume: a resumed run keeps its options\n"
    )


@pytest.mark.parametrize("count", [2_000, 60_000])
@pytest.mark.parametrize("options", [{}, {"epochs": 3, "system": "beta-vae"}])
def test_python_gets_the_options_of_the_command(count, options, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    dataset = images_of(count)
    config = config_for(dataset, **options)
    assert config == chosen(count, **options)[1]
    steps = count // config.batch_size
    if not options:
        assert [words for words in before_training(config, dataset, steps) if "copies" not in words
                and "also training" not in words] == []  # fmt: skip
    assert config_for(dataset, recipe="paper", **options) == chosen(count, recipe="paper", **options)[1]
    with pytest.raises(ValueError, match="recipe must be one of auto, paper, quick, got 'fast'"):
        config_for(dataset, recipe="fast")
    with pytest.raises(ValueError, match=r"warm_up has no effect on bigan"):
        config_for(dataset, system="bigan", warm_up=3)
