"""Trains and measures the models that come with the package, and writes them with their model cards.

    python bench/experiments/pretrained.py             # trains the default run, about four minutes on one core
    python bench/experiments/pretrained.py --run RUN   # or takes a run that was trained with the command of the card

It writes accel/models/weights/parts: config.json and weights.pt; figures.json (options, versions, last epoch and
measures of the run, the digest of the weights, and average precisions on a few held-out images); and README.md, the
card, which is made from figures.json only. tests/models/test_weights.py checks that all four agree.
"""

import argparse
import dataclasses
import json
import string
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))
from accel.commands.finished import FinishedRun, FinishedRunOptions, open_finished_run
from accel.commands.measure import MeasureOptions, measure_run
from accel.common.files import write_whole
from accel.common.options import flag
from accel.data import Dataset
from accel.evaluation import occurrence_maps
from accel.evaluation.discovery import one_grid, part_average_precision
from accel.evaluation.occurrences import SUREST
from accel.training import TrainingConfig, record
from accel.training.run_folder import read_history

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "accel" / "models" / "weights" / "parts"
COMMAND = "python -m accel train --threads 1 --device cpu"
CHECKED = 300  # number of held-out images on which the test repeats the average precision
PLACES = ("out", "data_dir")  # options that say where things were on one machine


def logits_and_truth(model, images) -> tuple[np.ndarray, np.ndarray]:
    """The log-odds of each part in each cell, float64 (n, N, h, w), and the truth, bool (n, T, h, w), on one grid."""
    maps, truth = one_grid(occurrence_maps(model, images.images), images.truth)
    maps = np.clip(maps.astype(np.float64), 2.0**-149, 1 - 2.0**-25)  # what float32 rounds to 0 or 1
    return np.log(maps) - np.log1p(-maps), truth


def average_precision(logits: np.ndarray, truth: np.ndarray, part: list[int]) -> list[float]:
    """Average precision of the part of each type, (T,)."""
    return [float(part_average_precision(logits[:, [one]], truth[:, [kind]])[0, 0]) for kind, one in enumerate(part)]


def figures_of(opened: FinishedRun) -> dict:
    """The content of figures.json for a finished run."""
    measures = measure_run(opened, MeasureOptions(device="cpu"))
    session = record.read(opened.folder)["sessions"][0]
    few: Dataset = dataclasses.replace(opened.dataset, test=opened.dataset.test.chosen(np.arange(CHECKED)))
    parts = [one["part"] for one in measures["types"]]
    return {
        "training": {k: v for k, v in dataclasses.asdict(opened.config).items() if k not in PLACES},
        "session": {name: session[name] for name in ("began", "device", "threads", "processes", "versions")},
        "last_epoch": read_history(opened.folder)[-1],
        "weights": record.digest_of(opened.model),
        "parameters": sum(one.numel() for one in opened.model.parameters()),
        "measures": measures,
        "checked": {
            "images": CHECKED,
            "average_precision": average_precision(*logits_and_truth(opened.model, few.test), parts),
        },
    }


def table(header: list[str], rows: list[list[object]]) -> str:
    """A Markdown table."""
    words = [["–" if cell is None else f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row]
             for row in rows]  # fmt: skip
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *words])


def card(figures: dict) -> str:
    """The card, made from figures.json only."""
    training, session, measures = (figures[name] for name in ("training", "session", "measures"))
    versions, last = session["versions"], figures["last_epoch"]
    defaults = {one.name: one.metadata["default"] for one in dataclasses.fields(TrainingConfig)}
    own = [
        f"`{flag(name)} {value}`"
        for name, value in training.items()
        if name not in ("data", "device", "threads", "seed", "epochs") and value not in (defaults[name], None)
    ]
    quality = {one["name"]: one["value"] for one in measures["reconstructions"]}
    types = [
        [one[key] for key in ("name", "part", "average_precision", "k_means", "untrained", "chance")]
        for one in measures["types"]
    ]
    means = [measures["discovery"][name]["average_precision"] for name in ("model", "k_means", "untrained")]
    types.append(["mean", "", *means, float(measures["chance"])])
    purity = {one["part"]: one for one in measures["purity"]}
    parts = []
    for one in sorted(measures["parts"]["parts"], key=lambda one: -one["occurrences_an_image"]):
        on = purity[one["part"]] if one["state"] == "live" else {}
        parts.append([one["part"], one["state"], one["occurrences_an_image"], on.get("type"), on.get("purity")])
    facts = [
        f"**Model.** {training['system']}, {figures['parameters'] / 1e6:.2f} million weights, {training['num_parts']} "
        "parts, images of 32 × 32 pixels in three channels.",
        f"**Data.** The generated set `parts`, drawn by `accel.data.draw_parts`: {training['train_images']:,} images "
        f"for training and {measures['parts']['images']:,} held out. Each shows two of eight types of glyphs among "
        "clutter. Training used neither labels nor ground truth.",
        f"**Command.** `{COMMAND}`: {training['epochs']} epochs, {last['step']:,} steps, seed {training['seed']}. "
        "Other seeds, or sums in another order, give other parts; the repository's README shows how much means differ.",
        f"**Recipe.** Options that differ from the paper's: {', '.join(own)}.",
        f"**Computed** at commit `{versions['git']}` on {session['device']}, threads: {session['threads']}, Python "
        f"{versions['python']}, torch {versions['torch']}, NumPy {versions['numpy']}. SHA-256 of the weights, names "
        f"included: `{figures['weights']}`.",
    ]
    terms = ", ".join(f"{name.removeprefix('held_out_').replace('_', ' ')} {last[name]:.2f}" for name in LOSS)
    return CARD.substitute(
        facts="\n".join(textwrap.fill(f"- {fact}", 118, subsequent_indent="  ", **WHOLE_WORDS) for fact in facts),
        types=table(["true part type", "part", "average precision", "k-means on cells", "untrained", "chance"], types),
        quality=f"PSNR {quality['psnr']:.2f} dB, SSIM {quality['ssim']:.3f}",
        terms=terms,
        parts=table(["part", "state", "expected occurrences (Σ p)", "main type", "share"], parts),
        surest=SUREST,
    )


WHOLE_WORDS = {"break_long_words": False, "break_on_hyphens": False}
LOSS = ("held_out_total", "held_out_reconstruction", "held_out_kl_appearance", "held_out_kl_occurrence")
CARD = string.Template("""# The model `parts`

`PatchVAE.from_pretrained("parts")` loads it from the package, without network access.
`python bench/experiments/pretrained.py` made it; all numbers below are in `figures.json`.

$facts

## Results

Average precision over the cells of held-out images, for the part that was chosen for each type on training images:

$types

Reconstructions of held-out images: $quality. Terms of the loss on held-out images, in nats per
image: $terms.

## Parts

For each part, the table shows its expected occurrences per image, and the type on which most of its $surest most
probable occurrences lie, with their share. A live part without a type models the background or clutter. The probability
of a dead part is not above one half in any cell.

$parts

## Limits

The model was trained on the data set `parts` only: its parts are meaningless in photographs, at other sizes, or for
types that differ only in shape. A type with a low average precision is shared by several parts, or not found. Use the
model to try the library, to see the output of a trained model, and in tests; for your own images, train your own model.

## Licence

MIT, like the code, which also generated the images.
""")


def write(run: Path, folder: Path) -> None:
    """Writes the model of a run with its figures and card."""
    opened = open_finished_run(run, FinishedRunOptions(device="cpu"))
    figures = figures_of(opened)
    opened.model.save_pretrained(folder)
    files = {"figures.json": json.dumps(figures, indent=2) + "\n", "README.md": card(figures)}
    write_whole({folder / name: words.encode() for name, words in files.items()})


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, help="finished run of the card's command to use, instead of training one")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = given.run
        if run is None:
            run = Path(folder) / "run"
            words = [sys.executable, *COMMAND.split()[1:], "--out", str(run)]
            subprocess.run(words, cwd=ROOT, check=True)
        write(run, FOLDER)
    print(f"{FOLDER.relative_to(ROOT)}: {', '.join(sorted(path.name for path in FOLDER.iterdir()))}")


if __name__ == "__main__":
    main()
