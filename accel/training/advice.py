"""What a run says while there is time to do something about it: what is wrong, and the option that mends it.

Everything is a function of the configuration, the images and the lines of metrics.jsonl, so a run that was resumed says
what it would have said, and each thing once.
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

COLLAPSED = 0.01  # nats an image below which nothing passes the bottleneck
STEPS_TO_JUDGE = 500  # before which a code may still be empty
DISTANCE = 0.5  # Σ of step sizes over a run, below which Adam hardly leaves the initial weights
RISEN = 1.2  # times the least reconstruction error so far, beyond which two epochs in a row have risen
LIKE_A_CONSTANT = 1.0  # dB above one colour for all images, up to which nothing was learned of them
FALLEN = 0.9  # of the first temperature, above which it is said not to fall
SLOWER = 0.5  # of the fastest epoch's images a second, below which the machine is busier than it was
COPIES = 0.01  # of images, from which copies are worth a word
HASHED = 2**28  # bytes of a set that are looked at for copies, at most
FEW = 256  # images that stand for a set's colours

Line = dict[str, float]  # of metrics.jsonl


def constant_psnr(dataset: Dataset) -> float:
    """PSNR, dB, of held-out images against the mean colour of the training images: what seeing nothing gives."""
    train, test = (images[:: max(1, len(images) // FEW)] for images in (dataset.train.images, dataset.test.images))
    colour = train.mean((0, 1, 2)) / 255
    errors = np.array([((image / 255 - colour) ** 2).mean() for image in test])
    return float((-10 * np.log10(np.maximum(errors, 1e-10))).mean())


def before_training(config: TrainingConfig, dataset: Dataset, steps_an_epoch: int) -> list[str]:
    """What can be said of the options and the images before the first step."""
    said, steps = [], config.epochs * steps_an_epoch
    if not steps:
        return said
    learns_codes = "beta_app" not in SYSTEMS[config.system].without_effect
    if learns_codes and steps * config.learning_rate < DISTANCE:
        epochs = math.ceil(DISTANCE / config.learning_rate / steps_an_epoch)
        said.append(
            f"{steps:,} steps of size {config.learning_rate:g} are planned, too few for much to be learned: give a "
            f"larger --learning-rate, or --epochs {epochs:,} or more"
        )
    if "temperature" not in SYSTEMS[config.system].without_effect and config.temperature > config.temperature_floor:
        last = temperature_at(steps - 1, config) / config.temperature
        if last > FALLEN and steps >= STEPS_TO_JUDGE:
            rate = math.log(config.temperature / config.temperature_floor) / steps
            said.append(
                f"the temperature will fall by only {1 - last:.0%} within the {steps:,} steps, so occurrences stay "
                f"blurred: --temperature-rate {rate:.1g} lets it reach {config.temperature_floor:g} at the end"
            )
    return said + about_images(dataset)


def about_images(dataset: Dataset) -> list[str]:
    """Copies among the images, and labels that tell nothing apart."""
    said = []
    train, test = (_hashes(images) for images in (dataset.train, dataset.test))
    copies = len(train) - len({*train})
    if copies > COPIES * len(train):
        _, times = Counter(train).most_common(1)[0]
        said.append(
            f"{copies:,} of {len(train):,} training images are copies of others, one of them {times:,} times: what is "
            f"repeated is learned instead of what recurs, so take copies out of --data {dataset.name}"
        )
    seen = set(train)
    shared = sum(value in seen for value in test)
    if shared > COPIES * len(test):
        said.append(
            f"{shared:,} of {len(test):,} held-out images are training images too, so held-out figures flatter: take "
            f"them out of --data {dataset.name}"
        )
    if dataset.class_names is not None and len(dataset.class_names) == 1 and Path(dataset.name).is_dir():
        (name,) = dataset.class_names
        deeper = Path(dataset.name) / name
        said.append(
            f"all images are in one class folder, {name}, so labels tell nothing apart: if the folders in it are the "
            f"classes, give --data {deeper}"
        )
    return said


def _hashes(images: ImageSet) -> list[int]:
    count = HASHED // images.images[0].nbytes
    return [zlib.crc32(np.ascontiguousarray(image)) for image in images.images[:count]]


def after_epoch(config: TrainingConfig, history: Sequence[Line], steps: int, constant: float) -> list[str]:
    """What the last line says that no line before it has said. steps: of the whole run; constant: `constant_psnr`."""
    said: set[str] = set()
    new: list[str] = []
    lowest, recent, fastest = math.inf, deque[float](maxlen=2), 0.0  # errors and images a second so far
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
    """Name → sentence of what is wrong after a line.

    recent: the last two reconstruction errors. lowest, fastest: of all lines up to this one.
    """
    found = {}
    if recent and min(recent) > RISEN * lowest:
        found["rising"] = (
            f"the reconstruction error has risen from {lowest:.4g} to {recent[-1]:.4g} nats: a smaller "
            f"--learning-rate, {config.learning_rate / 3:.1g}, say"
        )
    rate = line.get("images_per_second") or 0.0
    if config.threads is not None and config.threads > 1 and rate < SLOWER * fastest:
        found["busy"] = (
            f"{rate:,.0f} images a second instead of {fastest:,.0f}: other programs use the cores, and "
            "threads wait for each other; stop with Ctrl-C and go on with --resume --threads 1"
        )
    if line["step"] < STEPS_TO_JUDGE:
        return found
    if problem := collapse(line, config):
        found["collapse"] = problem
        return found
    if "held_out_psnr" in line and line["held_out_psnr"] < constant + LIKE_A_CONSTANT:
        found["constant"] = (
            f"reconstructions have {line['held_out_psnr']:.1f} dB, and one colour for all images has {constant:.1f}: "
            "a larger --learning-rate, more --epochs, or smaller --beta-app and --beta-occ"
        )
    if "held_out_active_parts" in line and line["step"] >= steps / 2:
        dead = config.num_parts - line["held_out_active_parts"]
        if dead > config.num_parts / 4:
            found["dead"] = (
                f"{dead} of {config.num_parts} parts occur nowhere: --warm-up lets all be tried, a smaller "
                f"--beta-occ keeps more, and --num-parts {config.num_parts - dead} spares the work for them"
            )
        if saturated := line.get("held_out_saturated_parts", 0):
            found["saturated"] = (
                f"{saturated} of {config.num_parts} parts occur nearly everywhere, which says nothing about a place: "
                "a larger --beta-occ or a smaller --occurrence-prior"
            )
    return found


def collapse(line: Line, config: TrainingConfig) -> str | None:
    """What, by a line of metrics.jsonl, codes do not carry, and what helps; None if they carry all."""
    if "held_out_kl_appearance" not in line:
        return None
    if line["held_out_kl_appearance"] + line["held_out_kl_occurrence"] < COLLAPSED:
        return (
            "both divergences are near 0 nats, so reconstructions do not depend on the image: smaller --beta-app and "
            "--beta-occ let more through"
        )
    if line["held_out_kl_appearance"] < COLLAPSED and config.appearance_prior_mean == 0:
        return (
            "the appearance divergence is near 0 nats, so codes do not say how anything looks: a smaller --beta-app "
            "lets more through"
        )
    if line.get("held_out_active_parts") == 0:
        return (
            "no part occurs anywhere with a probability above one half: --appearance-prior-mean 2 makes parts "
            "visible before they have a look, a larger --learning-rate or more --epochs give them time, a smaller "
            "--beta-occ lets them occur"
        )
    return None
