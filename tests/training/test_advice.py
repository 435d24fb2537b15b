"""The warnings of a run, each provoked in a run of seconds."""

import dataclasses
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from accel.data import Dataset, ImageSet, load
from accel.training import TrainingConfig, advice, config_for, loop, train
from accel.training.schedule import temperature_at
from tests.training.tiny import STEPS, starting_from, tiny_config, tiny_dataset


@pytest.fixture
def soon(monkeypatch):
    """Gives advice after two epochs of a tiny run, without the advice that every run so short gets."""
    monkeypatch.setattr(advice, "STEPS_TO_JUDGE", 2 * STEPS)
    monkeypatch.setattr(advice, "DISTANCE", 0)


def named(name):
    """The tiny data set under another name."""
    return dataclasses.replace(tiny_dataset(), name=name)


def warnings(capsys):
    """The sentences so far, without their prefixes."""
    return [line.removeprefix("patchvae: warning: ") for line in capsys.readouterr().err.splitlines()]


def said(capsys, out, dataset=None, **options):
    """The advice of a tiny run of four epochs, whose temperature decreases on schedule."""
    defaults = {"epochs": 4, "temperature_rate": 0.1}
    train(tiny_config(out, **defaults | options), dataset or tiny_dataset())
    return warnings(capsys)


@given(
    psnr=st.floats(13.1, 30),
    kl=st.floats(0.1, 100),
    active=st.integers(12, 16),
    errors=st.lists(st.floats(100, 119), min_size=5, max_size=5),
    speeds=st.lists(st.floats(600, 1000), min_size=5, max_size=5),
)
def test_a_run_that_goes_well_says_nothing(psnr, kl, active, errors, speeds):
    line = {"held_out_psnr": psnr, "held_out_kl_appearance": kl, "held_out_kl_occurrence": kl}
    line |= {"held_out_active_parts": active, "held_out_saturated_parts": 0}
    history = [
        line | {"step": 500 * (number + 1), "train_reconstruction": error, "images_per_second": speed}
        for number, (error, speed) in enumerate(zip(errors, speeds, strict=True))
    ]
    config = TrainingConfig(data="photographs", threads=2)
    for epochs in range(1, 6):
        assert advice.after_epoch(config, history[:epochs], 2500, 12.0) == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"occurrence_prior": 1e-4}, "no part occurs anywhere with a probability above one half"),
        ({"occurrence_prior": 0.999}, "3 of 3 parts occur nearly everywhere"),
        ({"learning_rate": 1e-7, "occurrence_prior": 0.6}, "hardly more than the mean colour of all images"),
    ],
)
def test_what_is_wrong_with_parts_is_said_once_with_an_option(tmp_path, capsys, soon, options, sentence):
    sentences = [words for words in said(capsys, tmp_path / "run", **options) if sentence in words]
    assert len(sentences) == 1
    assert " --" in sentences[0]


def silence(*heads):
    """Changes a model so that the given heads output the prior for every image, and the others differ from it."""

    def change(model):
        model.occurrence_head.weight.mul_(30)
        for name in heads:
            getattr(model, name).weight.zero_()
            if name != "occurrence_head":  # whose bias already is the prior's logit
                getattr(model, name).bias.zero_()

    return change


@pytest.mark.parametrize(
    ("heads", "sentence"),
    [
        (
            ("occurrence_head", "appearance_mean_head", "appearance_log_variance_head"),
            "both divergences are near 0 nats, so reconstructions do not depend on the image: in a new run, use a "
            "smaller --beta-app and --beta-occ",
        ),
        (
            ("appearance_mean_head", "appearance_log_variance_head"),
            "the appearance divergence is near 0 nats, so codes contain no information about appearance: in a new run, "
            "use a smaller --beta-app",
        ),
    ],
)
def test_a_code_that_carries_nothing(tmp_path, capsys, soon, monkeypatch, heads, sentence):
    starting_from(monkeypatch, silence(*heads))
    assert said(capsys, tmp_path / "run", learning_rate=1e-7, occurrence_prior=0.3) == [sentence]


def test_dead_parts_are_counted(capsys, tmp_path, soon, monkeypatch):
    """A bias, which training has no time to change, prevents two of three parts from occurring."""

    def change(model):
        model.occurrence_head.bias += torch.tensor([8.0, -9.0, -9.0])

    starting_from(monkeypatch, change)
    sentences = said(capsys, tmp_path / "run", learning_rate=1e-4)
    (dead,) = [words for words in sentences if "occur nowhere" in words]
    assert dead.startswith("2 of 3 parts occur nowhere: in a new run, --warm-up 6 gives")  # of 12 steps
    assert "--num-parts 1" in dead
    sentences = said(capsys, tmp_path / "renewed", learning_rate=1e-4, renew=1.0)
    assert not [words for words in sentences if "occur nowhere" in words]  # retired parts are no mistake


def test_a_rising_loss_names_a_smaller_step(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(advice, "DISTANCE", 0)

    def jump(model, dataset, epoch):
        if epoch == 3:  # as a step far too large would leave the decoder
            for parameter in model.decoder.parameters():
                parameter.data += torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
        return {}

    run = loop.open_run(
        tiny_config(tmp_path / "run", epochs=5, learning_rate=1e-4, temperature_rate=0.1), tiny_dataset()
    )
    run.fit(jump)
    (sentence,) = [words for words in warnings(capsys) if "risen" in words]  # others judge the run at its end
    assert sentence.startswith("the reconstruction error has risen from ")
    assert sentence.endswith("nats: in a new run, try a smaller --learning-rate, for example 3e-05")


def test_an_interruption_does_not_say_things_twice(tmp_path, capsys, soon):
    config = tiny_config(tmp_path / "run", epochs=3, occurrence_prior=1e-4, temperature_rate=0.1)
    train(config, tiny_dataset())
    assert len(warnings(capsys)) == 1
    train(dataclasses.replace(config, epochs=6), tiny_dataset(), resume=True)
    assert warnings(capsys) == []


def test_a_busy_machine_is_noticed():
    lines = [{"step": 3, "images_per_second": speed} for speed in (900.0, 1000.0, 300.0)]
    config = TrainingConfig(threads=2)
    assert advice.after_epoch(config, lines[:2], 9, 10.0) == []
    (sentence,) = advice.after_epoch(config, lines, 9, 10.0)
    assert sentence.startswith("300 images per second instead of 1,000")
    assert sentence.endswith("--resume --threads 1")
    assert advice.after_epoch(dataclasses.replace(config, threads=1), lines, 9, 10.0) == []


def test_too_few_steps_and_a_temperature_that_stays(tmp_path, capsys):
    config = TrainingConfig(data="photographs", epochs=40)
    dataset = tiny_dataset()
    few, stays = advice.before_training(config, dataset, 20)
    assert few == (
        "800 steps with learning rate 0.0001 are too few to learn much: use a larger --learning-rate, or at least "
        "--epochs 250"
    )
    assert stays.startswith("the temperature will decrease by only 2% over the 800 steps")
    enough = dataclasses.replace(config, epochs=250, temperature_rate=0.003)
    assert advice.before_training(enough, dataset, 20) == []
    rate = float(stays.split("--temperature-rate ")[1].split()[0])
    followed = dataclasses.replace(config, temperature_rate=rate)
    assert not any("temperature" in words for words in advice.before_training(followed, dataset, 20))
    assert said(capsys, tmp_path / "run")[0].startswith("12 steps with learning rate 0.001 are too few")


def test_the_papers_run_on_its_own_data_and_the_main_job_say_nothing():
    assert advice.before_training(TrainingConfig(data="cifar100"), tiny_dataset(), 50_000 // 128) == []
    assert advice.before_training(TrainingConfig(), named("parts"), 8000 // 32) == []


def test_the_recipe_of_other_images_is_noticed():
    (sentence,) = advice.before_training(TrainingConfig(), tiny_dataset(), 8000 // 32)
    assert sentence.startswith("the options are those of the data set parts, but the images are tiny: accel.training")
    assert advice.before_training(config_for(tiny_dataset()), tiny_dataset(), 8000 // 32) == []


@pytest.mark.parametrize(("size", "said"), [(16, []), (32, []), (64, ["2 cells"]), (80, ["2.5 cells"])])
def test_large_images_of_the_set_parts_are_noticed(size, said):
    images = ImageSet(np.random.default_rng(0).integers(0, 256, (9, size, size, 3), dtype=np.uint8))
    train, test = images.chosen(range(8)), images.chosen([8])
    dataset = dataclasses.replace(tiny_dataset(), name="parts", train=train, test=test)
    sentences = advice.before_training(TrainingConfig(), dataset, 8000 // 32)
    assert [re.search("[0-9.]+ cells", sentence)[0] for sentence in sentences] == said
    assert all("--image-size" in sentence for sentence in sentences)
    assert advice.before_training(TrainingConfig(encoder="resnet18", decoder="pyramid"), dataset, 8000 // 32) == []


@given(copies=st.integers(0, 20), shared=st.integers(0, 8))
def test_copies_are_counted(copies, shared):
    images = np.random.default_rng(0).integers(0, 256, (48, 4, 4, 3), dtype=np.uint8)
    train_set, test_set = images[:40].copy(), images[40:].copy()
    train_set[40 - copies :] = train_set[0]
    test_set[:shared] = train_set[1]
    sentences = advice.about_images(Dataset("photographs", ImageSet(train_set), ImageSet(test_set)))
    assert len(sentences) == (copies > 0) + (shared > 0)
    if copies:
        assert sentences[0].startswith(
            f"{copies} of 40 training images are copies of others (one image occurs {copies + 1} times)"
        )
    if shared:
        assert sentences[-1].startswith(f"{shared} of 8 held-out images are also training images")
    assert all(words.endswith("from photographs") for words in sentences)


def write_classes(folder):
    """Two class folders of five images each."""
    image_module = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(len(str(folder)))
    for name in "ab":
        (folder / name).mkdir(parents=True)
        for number in range(5):
            pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            image_module.fromarray(pixels).save(folder / name / f"{number}.png")


def test_one_class_folder_names_the_folder_below(tmp_path):
    write_classes(tmp_path / "photos")
    (sentence,) = advice.about_images(load(tmp_path))
    assert sentence.startswith("all images are in one class folder, photos")
    assert sentence.endswith(f"use --data {tmp_path / 'photos'}")
    assert advice.about_images(load(tmp_path / "photos")) == []


def test_one_class_folder_in_each_split_is_to_be_left_out(tmp_path):
    write_classes(tmp_path / "train" / "photos")
    write_classes(tmp_path / "test" / "photos")
    (sentence,) = advice.about_images(load(tmp_path))
    assert sentence.startswith("all images are in one class folder, photos")
    assert sentence.endswith("if the folders inside it are the classes, move them up one level, out of photos")


@given(steps=st.integers(500, 10_000), floor=st.floats(0.01, 0.5))
def test_the_proposed_temperature_rate_reaches_the_floor(steps, floor):
    config = TrainingConfig(data="photographs", epochs=1, temperature_rate=1e-9, temperature_floor=floor)
    (sentence,) = [words for words in advice.before_training(config, tiny_dataset(), steps) if "temperature" in words]
    rate = float(sentence.split("--temperature-rate ")[1].split()[0])
    last = temperature_at(steps, dataclasses.replace(config, temperature_rate=rate))
    assert last == floor
    assert math.exp(-rate * steps) > floor**1.2  # and hardly sooner: one digit more, rounded up


def test_one_emptiness_does_not_hide_another():
    empty = {"held_out_psnr": 20.0, "held_out_kl_appearance": 0.0, "held_out_kl_occurrence": 0.0}
    full = {"held_out_psnr": 20.0, "held_out_kl_appearance": 5.0, "held_out_kl_occurrence": 5.0}
    parts = {"train_reconstruction": 9.0, "held_out_active_parts": 0}
    lines = [full | parts | {"step": 600}, empty | parts | {"step": 1200}]
    config = TrainingConfig(data="photographs")
    assert advice.after_epoch(config, lines[:1], 2400, 12.0)[0].startswith("no part occurs anywhere")
    assert advice.after_epoch(config, lines, 2400, 12.0)[0].startswith("both divergences are near 0 nats")


def test_psnr_of_one_colour():
    """If half the images is black and half white, grey is wrong by ½: 20 log₁₀ 2 dB, up to rounding to 8 bits."""
    images = np.zeros((10, 8, 8, 3), np.uint8)
    images[:, :4] = 255
    assert advice.constant_psnr(Dataset("halves", ImageSet(images), ImageSet(images))) == pytest.approx(
        6.0206, abs=1e-4
    )


def test_a_short_run_is_judged_at_its_end():
    config = TrainingConfig(data="photographs", learning_rate=2e-3, warm_up=0)
    line = {"held_out_psnr": 20.0, "held_out_kl_appearance": 5.0, "held_out_kl_occurrence": 5.0}
    lines = [line | {"step": step, "held_out_active_parts": 0, "train_reconstruction": 9.0} for step in (225, 450)]
    assert advice.after_epoch(config, lines[:1], 450, 12.0) == []
    (sentence,) = advice.after_epoch(config, lines, 450, 12.0)
    assert sentence.startswith(
        "no part occurs anywhere with a probability above one half: in a new run, with --appearance"
    )
    assert advice.after_epoch(dataclasses.replace(config, learning_rate=1e-4), lines, 450, 12.0) == []  # too few steps


def test_no_warning_proposes_what_is_already_done():
    line = {"held_out_psnr": 20.0, "held_out_kl_appearance": 5.0, "held_out_kl_occurrence": 5.0, "step": 900}
    line |= {"train_reconstruction": 9.0, "held_out_active_parts": 0}
    done = TrainingConfig(data="photographs", appearance_prior_mean=2.0, warm_up=300)
    (none,) = advice.after_epoch(done, [line], 900, 12.0)
    assert none.startswith("no part occurs anywhere with a probability above one half: in a new run, a larger")
    (dead,) = advice.after_epoch(done, [line | {"held_out_active_parts": 3}], 900, 12.0)
    assert dead.startswith("13 of 16 parts occur nowhere: in a new run, a smaller --beta-occ")


@pytest.mark.parametrize(("mean", "step", "warned"), [(0.0, 900, True), (2.0, 900, False), (2.0, 1000, True)])
def test_appearances_may_be_learned_late_with_a_prior_mean(mean, step, warned):
    line = {"held_out_psnr": 20.0, "held_out_kl_appearance": 0.005, "held_out_kl_occurrence": 5.0, "step": step}
    config = TrainingConfig(data="photographs", appearance_prior_mean=mean)
    sentences = advice.after_epoch(config, [line], 2000, 10.0)
    assert [words.split(",")[0] for words in sentences] == warned * ["the appearance divergence is near 0 nats"]
