"""Warnings during a run: what is wrong, and which option helps.

Everything is a function of the configuration, the images and the lines of metrics.jsonl. So a resumed run gives the
same warnings as an uninterrupted one, and each warning once.
"""

import math
import zlib
from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from accel.data import Dataset, ImageSet
from accel.training.catalogue import SYSTEMS
from accel.training.config import TrainingConfig
from accel.training.schedule import temperature_at

COLLAPSED = 0.01  # nats per image below which a code carries no information
STEPS_TO_JUDGE = 500  # before these, a code may still be empty
DISTANCE = 0.5  # sum of learning rates over a run, below which Adam hardly leaves the initial weights
RISEN = 1.2  # times the lowest reconstruction error so far: two epochs in a row above it count as a rise
LIKE_A_CONSTANT = 1.0  # dB above the PSNR of one colour for all images; below this, nothing was learned
FALLEN = 0.9  # of the initial temperature: a final temperature above it gives a warning
SLOWER = 0.5  # of the fastest epoch's images per second: slower epochs mean a busier machine
DRAWN = 32  # pixels per side of an image of the data set parts in which a part is as wide as a cell
COPIES = 0.01  # of the images: more copies give a warning
HASHED = 2**28  # bytes of a data set that are searched for copies, at most
FEW = 256  # images from which the colours of a data set are estimated

Line = dict[str, float]  # of metrics.jsonl


def constant_psnr(dataset: Dataset) -> float:
    """PSNR in dB of the mean colour of the training images as reconstruction of held-out images: a lower baseline."""
    train, test = (images[:: max(1, len(images) // FEW)] for images in (dataset.train.images, dataset.test.images))
    colour = train.mean((0, 1, 2)) / 255
    errors = np.array([((image / 255 - colour) ** 2).mean() for image in test])
    return float((-10 * np.log10(np.maximum(errors, 1e-10))).mean())


def before_training(config: TrainingConfig, dataset: Dataset, steps_an_epoch: int) -> list[str]:
    """Warnings about the options and the images before the first step."""
    said, steps = [], config.epochs * steps_an_epoch
    if not steps:
        return said
    if config.recipe() is not None and dataset.name != config.data:
        said.append(
            f"the options are those of the data set {config.data}, but the images are {dataset.name}: "
            "accel.training.config_for(dataset) chooses options for them"
        )
    elif config.recipe() == "parts" and config.encoder == "fine" and (size := dataset.train.images.shape[1]) > DRAWN:
        said.append(
            f"at {size} pixels the parts of the data set parts are {size / DRAWN:g} cells wide, and few are found: "
            "leave out --image-size"
        )
    learns_codes = "beta_app" not in SYSTEMS[config.system].without_effect
    if learns_codes and steps * config.learning_rate < DISTANCE:
        epochs = math.ceil(DISTANCE / config.learning_rate / steps_an_epoch)
        said.append(
            f"{steps:,} steps with learning rate {config.learning_rate:g} are too few to learn much: use a larger "
            f"--learning-rate, or at least --epochs {epochs:,}"
        )
    if "temperature" not in SYSTEMS[config.system].without_effect and config.temperature > config.temperature_floor:
        last = temperature_at(steps - 1, config) / config.temperature
        if last > FALLEN and steps >= STEPS_TO_JUDGE:
            rate = math.log(config.temperature / config.temperature_floor) / steps
            digit = 10.0 ** (math.floor(math.log10(rate)) - 1)  # the second one, rounded up
            said.append(
                f"the temperature will decrease by only {1 - last:.0%} over the {steps:,} steps, so occurrences stay "
                f"soft: with --temperature-rate {math.ceil(rate / digit) * digit:.2g} it reaches "
                f"{config.temperature_floor:g} at the end"
            )
    return said + about_images(dataset)


def about_images(dataset: Dataset) -> list[str]:
    """Warnings about copies among the images, and about labels that are all the same."""
    said = []
    train, test = (_hashes(images) for images in (dataset.train, dataset.test))
    copies = len(train) - len({*train})
    if copies > COPIES * len(train):
        _, times = Counter(train).most_common(1)[0]
        said.append(
            f"{copies:,} of {len(train):,} training images are copies of others (one image occurs {times:,} times), "
            f"and parts will model the copied images: remove the copies from {dataset.name}"
        )
    seen = set(train)
    shared = sum(value in seen for value in test)
    if shared > COPIES * len(test):
        said.append(
            f"{shared:,} of {len(test):,} held-out images are also training images, so held-out results are too "
            f"optimistic: remove them from {dataset.name}"
        )
    if dataset.class_names is not None and len(dataset.class_names) == 1 and Path(dataset.name).is_dir():
        (name,) = dataset.class_names
        deeper = Path(dataset.name) / name
        mended = f"use --data {deeper}" if deeper.is_dir() else f"move them up one level, out of {name}"
        said.append(
            f"all images are in one class folder, {name}, so all have the same label: if the folders inside it are the "
            f"classes, {mended}"
        )
    return said


def _hashes(images: ImageSet) -> list[int]:
    count = HASHED // images.images[0].nbytes
    return [zlib.crc32(np.ascontiguousarray(image)) for image in images.images[:count]]


def after_epoch(config: TrainingConfig, history: Sequence[Line], steps: int, constant: float) -> list[str]:
    """Warnings for the last line that no earlier line gave. steps: of the whole run; constant: `constant_psnr`."""
    said: set[str] = set()
    new: list[str] = []
    lowest, recent, fastest = math.inf, deque[float](maxlen=2), 0.0  # errors and images per second so far
    for line in history:
        if (error := line.get("train_reconstruction")) is not None:
            recent.append(error)
            lowest = min(lowest, error)
        fastest = max(fastest, line.get("images_per_second") or 0.0)
        found = _problems(config, line, lowest, recent, fastest, steps, constant)
        new = [words for name, words in found.items() if name not in said]
        said |= found.keys()
    return new


def _problems(
    config: TrainingConfig,
    line: Line,
    lowest: float,
    recent: Sequence[float],
    fastest: float,
    steps: int,
    constant: float,
) -> dict[str, str]:
    """{name: warning} after a line of metrics.jsonl.

    recent: the last two reconstruction errors. lowest, fastest: over all lines up to this one.
    """
    found = {}
    if recent and min(recent) > RISEN * lowest:
        found["rising"] = (
            f"the reconstruction error has risen from {lowest:.4g} to {recent[-1]:.4g} nats: in a new "
            f"run, try a smaller --learning-rate, for example {config.learning_rate / 3:.1g}"
        )
    rate = line.get("images_per_second") or 0.0
    if config.threads is not None and config.threads > 1 and rate < SLOWER * fastest:
        found["busy"] = (
            f"{rate:,.0f} images per second instead of {fastest:,.0f}: other programs use the cores, and the threads "
            "wait for each other; stop with Ctrl-C and continue with --resume --threads 1"
        )
    # A short run is judged at its end, unless it was said that its steps are too few.
    if line["step"] < STEPS_TO_JUDGE and (line["step"] < steps or steps * config.learning_rate < DISTANCE):
        return found
    if problem := collapse(line, config, steps):
        name, found[name] = problem
        return found
    if "held_out_psnr" in line and line["held_out_psnr"] < constant + LIKE_A_CONSTANT:
        found["constant"] = (
            f"reconstructions reach {line['held_out_psnr']:.1f} dB, hardly more than the mean colour of all images "
            f"({constant:.1f} dB): in a new run, try a larger --learning-rate, more --epochs, or smaller --beta-app "
            "and --beta-occ"
        )
    if "held_out_active_parts" in line and line["step"] >= steps / 2:
        dead = config.num_parts - line["held_out_active_parts"]
        if dead > config.num_parts / 4 and not config.renew:  # which retires parts on purpose
            warm_up = "" if config.warm_up else f"--warm-up {steps // 2} gives every part a chance, "
            found["dead"] = (
                f"{dead} of {config.num_parts} parts occur nowhere: in a new run, {warm_up}a smaller --beta-occ keeps "
                f"more of them, and --num-parts {config.num_parts - dead} saves their cost"
            )
        if saturated := line.get("held_out_saturated_parts", 0):
            found["saturated"] = (
                f"{saturated} of {config.num_parts} parts occur nearly everywhere, so they locate nothing: in a "
                "new run, try a larger --beta-occ or a smaller --occurrence-prior"
            )
    return found


def collapse(line: Line, config: TrainingConfig, steps: int) -> tuple[str, str] | None:
    """(name, warning) if, by a line of metrics.jsonl, codes carry no information on the image or its parts."""
    # With a prior mean, parts may be located before their appearance is learned.
    learned_late = config.appearance_prior_mean != 0 and line["step"] < steps / 2
    if "held_out_kl_appearance" not in line:
        return None
    if line["held_out_kl_appearance"] + line["held_out_kl_occurrence"] < COLLAPSED:
        return "no code", (
            "both divergences are near 0 nats, so reconstructions do not depend on the image: in a new run, use a "
            "smaller --beta-app and --beta-occ"
        )
    if line["held_out_kl_appearance"] < COLLAPSED and not learned_late:
        return "no appearance", (
            "the appearance divergence is near 0 nats, so codes contain no information about appearance: in a new run, "
            "use a smaller --beta-app"
        )
    if line.get("held_out_active_parts") == 0:
        first = "with --appearance-prior-mean 2 parts can be located before their appearance is learned, "
        first = "" if config.appearance_prior_mean else first
        return "no part", (
            f"no part occurs anywhere with a probability above one half: in a new run, {first}a larger "
            "--learning-rate or more --epochs let training progress further, and a smaller --beta-occ makes "
            "occurrences cheaper"
        )
    return None
