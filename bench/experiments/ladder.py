"""Part discovery on harder generated images, one difference at a time, with several methods.

    python bench/experiments/ladder.py [--rungs NAME …] [--methods NAME …] [--seeds 0 1 2]

The rungs are `accel.data.parts.RUNGS`, and those with large parts once more with images that were reduced to 32 pixels.
For each rung, method and seed, it measures the average precision over cells, like `python -m accel train`: the part of
each type is chosen on training images and evaluated on held-out ones. Results are written after every row, with a table
and a plot; finished rows are not repeated, so the command can be interrupted and continued. The seed also determines
the images. With --photographs, it includes the data set of `bench/common/held_back.py`.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[2]))
from accel.common.files import write_whole
from accel.data import Dataset, ImageSet, draw_parts
from accel.data.looks import ALIKE, LOOKS
from accel.data.parts import RUNGS
from accel.data.resize import fit_array
from accel.data.sources import FIRST_TEST_IMAGE, PARTS_TEST
from accel.evaluation.discovery import Discovery, compare, discover, discover_by_clustering, first_training_images
from accel.models.autoencoder import scaled_pixels
from accel.models.encoder import Encoder, layout_of
from accel.ops.placement import places_of_cells, split_places
from accel.training.config import PARTS_RECIPE, TrainingConfig
from accel.training.held_out import evaluating, in_order
from accel.training.loop import Run, open_run
from bench.common.held_back import held_back
from bench.common.records import write

IMAGES, STEPS = 8000, 2000  # drawn for training, and steps of 32 of them that a network is taught

# What the set `parts` was trained by when the ladder was made, and the paper's recipe on as many images.
FIRST_RECIPE = {
    "encoder": "small",
    "num_parts": 20,
    "part_dim": 1,
    "occurrence": "categorical",
    "beta_app": 3.0,
    "beta_occ": 3.0,
    "warm_up": 1000,
    "appearance_prior_mean": 2.0,
    "temperature_rate": 1e-3,
    "temperature_floor": 0.3,
    "learning_rate": 2e-3,
    "batch_size": 32,
    "epochs": 8,
}
PAPER_RECIPE = {"epochs": 8}
TRUTH_WEIGHT = 10.0  # of the cross-entropy between occurrences and true types, in nats per image
NEW_RECIPE = {name: value for name, value in PARTS_RECIPE.items() if name != "train_images"}

# What a method finds, and its last held-out loss if it has one.
Outcome = tuple[Discovery, float | None]

# Rungs whose images are reduced to SIZE, as --image-size does it, so that their parts are as wide as a cell.
SIZE = 32
REDUCED = {f"{rung}, reduced": rung for rung in ("parts of two cells", "parts of four cells")}
# The held-back set's two rungs: whether its centres lie anywhere.
HELD_BACK = {"held back": False, "held back, anywhere": True}
ALL_RUNGS = (*RUNGS, *REDUCED, *HELD_BACK)


def dataset(
    rung: str, seed: int, photographs: Path | None = None, images: int = IMAGES, tests: int = PARTS_TEST
) -> Dataset:
    """Images of a rung with ground truth, made like the data set `parts`."""
    if rung in HELD_BACK:
        return held_back(photographs, seed, images, tests, anywhere=HELD_BACK[rung])
    if rung in REDUCED:
        whole = dataset(REDUCED[rung], seed, images=images, tests=tests)
        return replace(whole, name=rung, train=reduced(whole.train), test=reduced(whole.test))
    options = {"seed": seed, **RUNGS[rung]}
    train = draw_parts(images, **options)
    looks = (ALIKE if options.get("alike") else LOOKS)[: train.truth.shape[1]]
    test = draw_parts(tests, first_image=FIRST_TEST_IMAGE, **options)
    return Dataset(rung, train, test, part_names=tuple(look.name for look in looks), flip=False)


def reduced(images: ImageSet) -> ImageSet:
    """The images at SIZE x SIZE pixels; a cell of the truth holds what any of the cells that it covers held."""
    count, types, height, width = images.truth.shape
    times = images.images.shape[1] // SIZE
    truth = images.truth.reshape(count, types, height // times, times, width // times, times).any((3, 5))
    return replace(images, images=fit_array(images.images, SIZE), truth=truth)


def train_and_discover(recipe: dict, data: Dataset, seed: int, change: Callable[[Run], None] | None = None) -> Outcome:
    """Trains by a recipe, after `change` has changed the run, in a temporary folder; with the last held-out loss."""
    with tempfile.TemporaryDirectory() as folder:
        # The paper's defaults for all that a recipe leaves out: another data set's name asks for none of `parts`.
        run = open_run(TrainingConfig(data="ladder", seed=seed, device="cpu", out=folder, **recipe), data)
        if change is not None:
            change(run)
        run.fit()
        return discover(run.model, data), run.history[-1]["held_out_total"] if run.history else None


def by_recipe(recipe: dict):
    """A method that trains by a recipe."""
    return lambda data, seed: train_and_discover(recipe, data, seed)


def begun_at_the_truth(data: Dataset, seed: int) -> Outcome:
    """The newest recipe with a further loss term in the first half: the true types of the first parts' occurrences.

    In the second half, the recipe's own loss decides whether the model stays there. Parts are not renewed.
    """
    recipe = {name: value for name, value in NEW_RECIPE.items() if name != "renew"}
    truth = torch.from_numpy(data.train.truth).float()
    # Labels are image numbers, by which the term finds the truth of a batch.
    train = replace(data.train, labels=np.arange(len(truth)))
    data = replace(data, train=train, test=replace(data.test, labels=np.zeros(len(data.test), int)))

    def give_truth(run: Run) -> None:
        objective, half = run.system.losses, recipe["epochs"] // 2 * len(run.batches)

        def losses(images, labels, step, noise):
            out, terms = objective(images, labels, step, noise)
            if run.model.training and step < half:
                probability = out.occurrence[:, : truth.shape[1]].clamp(1e-6, 1 - 1e-6)
                cross_entropy = functional.binary_cross_entropy(probability, truth[labels], reduction="sum")
                terms["total"] = terms["total"] + TRUTH_WEIGHT * cross_entropy / len(labels)
            return out, terms

        run.system.losses = losses

    return train_and_discover(recipe, data, seed, give_truth)


def without_training(data: Dataset, seed: int) -> Outcome:
    """The model of the newest recipe with its initial weights."""
    return train_and_discover({**NEW_RECIPE, "epochs": 0}, data, seed)


class Taught(nn.Module):
    """An encoder and its occurrence head, with one output per type: the logits of cells, summed over places."""

    def __init__(self, encoder: str, num_types: int):
        super().__init__()
        self.encoder, self.places = Encoder(encoder), layout_of(encoder).places
        self.head = nn.Conv2d(self.encoder.out_channels, num_types, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        logits = self.head(self.encoder(scaled_pixels(images, torch.float32)))
        grid = [side // self.places for side in logits.shape[2:]]
        return split_places(places_of_cells(logits, self.places))[0].unflatten(2, grid)


def taught(encoder: str, data: Dataset, seed: int) -> Outcome:
    """An encoder trained with the ground truth, as an upper bound for its architecture."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Taught(encoder, data.train.truth.shape[1])
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    truth = torch.from_numpy(data.train.truth)
    generator = torch.Generator().manual_seed(seed)
    images = torch.from_numpy(data.train.images).movedim(-1, 1)
    for _ in range(STEPS):
        chosen = torch.randint(len(images), (32,), generator=generator)
        loss = functional.binary_cross_entropy_with_logits(model(images[chosen]), truth[chosen].float())
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    def scores(images: np.ndarray) -> np.ndarray:
        with evaluating(model) as device:
            return np.concatenate([model(batch).sigmoid().numpy() for batch in in_order(images, 256, device)])

    train = first_training_images(data)
    return compare(scores(train.images), train, scores(data.test.images), data.test), None


def k_means(data: Dataset, seed: int) -> Outcome:
    """k-means clusters of the pixels of cells, as many as the newest recipe has parts."""
    return discover_by_clustering(data, NEW_RECIPE["num_parts"], 8, seed), None


METHODS = {
    "new recipe": by_recipe(NEW_RECIPE),
    "first recipe": by_recipe(FIRST_RECIPE),
    "paper's recipe, 8 epochs": by_recipe(PAPER_RECIPE),
    "paper's recipe, 90 epochs": by_recipe({"epochs": 90}),
    "k-means on cells": k_means,
    "untrained": without_training,
    "small encoder taught": partial(taught, "small"),
    "fine encoder taught": partial(taught, "fine"),
    "begun at the truth": begun_at_the_truth,
}
CHANCE = "chance"


def measure(rung: str, method: str, seed: int, data: Dataset) -> dict:
    """A row of the results."""
    began = time.monotonic()
    found, loss = METHODS[method](data, seed)
    return {
        "rung": rung,
        "method": method,
        "seed": seed,
        "mean": float(np.nanmean(found.average_precision)),
        "worst": float(np.nanmin(found.average_precision)),
        "types": dict(zip(data.part_names, found.average_precision.round(4).tolist(), strict=True)),
        "chance": float(found.chance.mean()),
        "loss": loss,
        "seconds": round(time.monotonic() - began, 1),
    }


def means(rows: list[dict]) -> dict[tuple[str, str], list[float]]:
    """{(rung, method): mean average precision of each seed}, and of chance one mean, which is that of the images."""
    found = {}
    for row in rows:
        found.setdefault((row["rung"], row["method"]), []).append(row["mean"])
        found.setdefault((row["rung"], CHANCE), []).append(row["chance"])
    return found | {key: [float(np.mean(values))] for key, values in found.items() if key[1] == CHANCE}


def table(rows: list[dict]) -> str:
    """A Markdown table: mean over seeds, their range if there are several, and their number."""
    found, methods = means(rows), [*METHODS, CHANCE]
    lines = [
        "Mean average precision over cells. Of several seeds: mean (worst to best, their number).",
        "",
        f"| rung | {' | '.join(methods)} |",
        "|---" * (1 + len(methods)) + "|",
    ]
    for rung in ALL_RUNGS:
        cells = []
        for method in methods:
            values = found.get((rung, method), [])
            text = f"{np.mean(values):.2f}" if values else ""
            cells.append(f"{text} ({min(values):.2f} to {max(values):.2f}, {len(values)})" if values[1:] else text)
        lines.append(f"| {rung} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def plot(rows: list[dict], path: Path) -> None:
    """A plot with one mark per seed, one line per method, and rungs from left to right."""
    from matplotlib.figure import Figure

    found = means(rows)
    rungs = [rung for rung in ALL_RUNGS if (rung, CHANCE) in found]
    figure = Figure(figsize=(10, 5), layout="constrained")
    axes = figure.subplots()
    for number, method in enumerate([*METHODS, CHANCE]):
        at = [(place, found[rung, method]) for place, rung in enumerate(rungs) if (rung, method) in found]
        if at:
            line = [np.mean(found.get((rung, method), np.nan)) for rung in rungs]  # gaps where none was measured
            axes.plot(line, color=f"C{number}", label=method)
            points = [(p, value) for p, values in at for value in values]
            axes.plot(*zip(*points, strict=True), ".", color=f"C{number}")
    axes.set_xticks(range(len(rungs)), rungs, rotation=30, ha="right")
    axes.set_ylabel("mean average precision over cells")
    axes.set_ylim(0, 1)
    figure.legend(loc="outside upper center", ncols=4)
    figure.savefig(path, dpi=100)


def main():
    parser = argparse.ArgumentParser(description="Measure part discovery on harder generated images.")
    parser.add_argument("--rungs", nargs="+", choices=ALL_RUNGS, metavar="NAME", help="rungs to measure (default: all)")
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="NAME", help="methods to compare"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="seeds of images, weights and noise")
    parser.add_argument("--photographs", type=Path, help="folder of photographs for the held-back data set")
    parser.add_argument(
        "--results", type=Path, default=Path("bench/results/ladder.json"), help="JSON file to write or continue"
    )
    given = parser.parse_args()
    rungs = given.rungs or [rung for rung in ALL_RUNGS if given.photographs or rung not in HELD_BACK]
    if given.photographs is None and HELD_BACK.keys() & set(rungs):
        parser.error("the set that is held back needs --photographs")
    rows = json.loads(given.results.read_text())["results"] if given.results.exists() else []
    done = {(row["rung"], row["method"], row["seed"]) for row in rows}
    for seed in given.seeds:
        for rung in rungs:
            missing = [method for method in given.methods if (rung, method, seed) not in done]
            data = dataset(rung, seed, given.photographs) if missing else None
            for method in missing:
                rows.append(measure(rung, method, seed, data))
                write(given.results, "mean average precision over cells", rows, recipe=NEW_RECIPE)
                write_whole({given.results.with_suffix(".md"): table(rows).encode()})
                print(rung, method, seed, f"{rows[-1]['mean']:.3f}", f"{rows[-1]['seconds']:.0f} s", flush=True)
    plot(rows, given.results.with_suffix(".png"))


if __name__ == "__main__":
    main()
