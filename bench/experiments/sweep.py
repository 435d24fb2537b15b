"""Effects of training options on recognition, each changed separately from one baseline.

    python bench/experiments/sweep.py --data cifar10 --out runs/sweep --results bench/results/sweep.json

It trains on some of the training images, and measures the encoder on other training images; the test images are never
used. It reports Conv[1-5] and linear-probe accuracies of each run after the last epoch. Finished runs are not repeated,
so a sweep may be interrupted and continued. Results are JSON and a Markdown table.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
from accel.common.files import write_whole
from accel.data import Dataset, load
from accel.evaluation.transfer import transfer
from accel.training import TrainingConfig, train
from accel.training.protocols import TransferConfig
from accel.training.record import processor
from accel.training.run_folder import read_history

# Short runs need longer steps than the paper's 90 epochs of 1e-4.
BASELINE = {"system": "patchvae+w", "encoder": "small", "batch_size": 32, "learning_rate": 1e-3, "device": "cpu"}
VARIANTS = {
    "baseline": {},
    "beta_occ 0.1": {"beta_occ": 0.1},
    "beta_occ 10": {"beta_occ": 10.0},
    "beta_app 0.1": {"beta_app": 0.1},
    "beta_app 5": {"beta_app": 5.0},
    "variance arithmetic": {"variance": "arithmetic"},
    "detach_weights no": {"detach_weights": False},
    "occurrence_prior 0.2": {"occurrence_prior": 0.2},
    "baseline, seed 1": {"seed": 1},
    "untrained": {"epochs": 0},
    "beta-vae+w": {"system": "beta-vae+w"},
    "patchvae": {"system": "patchvae"},
    "temperature falls to 0.1": {"temperature_rate": 2e-3},
    "baseline, seed 2": {"seed": 2},
    "beta_app 0.1, seed 1": {"beta_app": 0.1, "seed": 1},
    "beta_app 0.1, seed 2": {"beta_app": 0.1, "seed": 2},
    "beta-vae+w, seed 1": {"system": "beta-vae+w", "seed": 1},
    "beta-vae+w, seed 2": {"system": "beta-vae+w", "seed": 2},
}


def halves(data: str, train_images: int) -> Dataset:
    """So many training images to learn from, and as many others of them to test on."""
    whole = load(data, train_images=2 * train_images)
    order = np.random.default_rng(0).permutation(2 * train_images)
    parts = [whole.train.chosen(np.sort(order[part::2])) for part in range(2)]
    return Dataset(f"{data}, {train_images} training images and {train_images} others", *parts, whole.class_names)


def measure(name: str, options: dict, dataset: Dataset, given: argparse.Namespace) -> dict:
    """Trains and measures one variant, or reads what is there."""
    folder = given.out / name.replace(" ", "-").replace(",", "")
    settings = {"data": given.data, "epochs": given.epochs} | BASELINE | options
    config = TrainingConfig(**settings, out=str(folder))
    began = time.monotonic()
    train(config, dataset, resume=(folder / "checkpoint.pt").exists())
    seconds = time.monotonic() - began
    row = {"name": name, "options": options, "seconds": seconds}
    for protocol in ("conv5", "linear"):
        entry = transfer(folder, protocol, TransferConfig(epochs=given.transfer_epochs, device="cpu"), dataset)
        row[protocol] = entry["last_top1"]
    history = read_history(folder)
    last = history[-1] if history else {}
    for term in ("kl_appearance", "kl_occurrence", "psnr", "active_parts"):
        row[term] = last.get(f"held_out_{term}")
    return row


def table(result: dict) -> str:
    """The rows in Markdown, with what they were measured by."""

    def cell(value, digits):
        return "" if value is None else f"{value:.{digits}f}"

    lines = [
        f"`{result['command']}`",
        "",
        f"{result['data']}, {result['epochs']} epochs, transfers of {result['transfer_epochs']}; "
        f"{result['hardware']}; seed 0 unless another is named.",
        "",
        "| changed | Conv[1-5] % | linear % | KL app, nats | KL occ, nats | PSNR, dB | parts in use |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        numbers = (cell(row[name], 1) for name in ("conv5", "linear", "kl_appearance", "kl_occurrence", "psnr"))
        lines.append(f"| {row['name']} | {' | '.join(numbers)} | {cell(row['active_parts'], 0)} |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description="Train and measure variants of the defaults.")
    parser.add_argument("--data", default="cifar10", help="data as for train --data")
    parser.add_argument(
        "--train-images", type=int, default=2000, help="number of training images; as many others for testing"
    )
    parser.add_argument("--epochs", type=int, default=6, help="epochs of training")
    parser.add_argument("--transfer-epochs", type=int, default=30, help="epochs of each transfer")
    parser.add_argument("--out", type=Path, default=Path("runs/sweep"), help="folder of the run folders")
    parser.add_argument("--results", type=Path, required=True, help="JSON file to write; a .md file goes beside it")
    given = parser.parse_args()
    dataset = halves(given.data, given.train_images)
    result = {
        "command": " ".join(["python", *sys.argv]),
        "data": dataset.name,
        "epochs": given.epochs,
        "transfer_epochs": given.transfer_epochs,
        "hardware": f"{processor()}, {torch.get_num_threads()} thread(s)",
        "torch": torch.__version__,
        "baseline": BASELINE,
        "rows": [],
    }
    given.results.parent.mkdir(parents=True, exist_ok=True)
    before = json.loads(given.results.read_text()) if given.results.exists() else {"rows": []}
    settings = ("data", "epochs", "transfer_epochs", "baseline")
    same = all(before.get(name) == result[name] for name in settings)
    done = {row["name"]: row for row in before["rows"] if same and row["options"] == VARIANTS.get(row["name"])}
    for name, options in VARIANTS.items():
        result["rows"].append(done[name] if name in done else measure(name, options, dataset, given))
        files = {given.results: json.dumps(result, indent=2) + "\n", given.results.with_suffix(".md"): table(result)}
        write_whole({path: words.encode() for path, words in files.items()})


if __name__ == "__main__":
    main()
