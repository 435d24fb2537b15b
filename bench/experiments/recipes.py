"""Results of training options on photographs, for several folders and seeds, on one core of a CPU.

    python bench/experiments/recipes.py --data photos=FOLDER --data cifar=cifar.npz --variants quick --seeds 0 1

It trains, and measures on held-out images: PSNR, parts, and the encoder's accuracy with 20 nearest neighbours and a
linear probe, compared with the same encoder untrained. It uses one process with one thread; seconds are processor time,
since other programs may be running. Finished runs are not repeated; each call adds rows to the results.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
from accel.common.files import write_whole
from accel.data import Dataset, load
from accel.evaluation import find_occurrences
from accel.evaluation.measures import measure_reconstructions
from accel.evaluation.transfer import transfer
from accel.training import TrainingConfig, advice, load_run, train
from accel.training.config import PARTS_RECIPE
from accel.training.protocols import TransferConfig
from accel.training.recipes import choose_options
from accel.training.record import processor
from accel.training.run_folder import read_history

SMALL = {"encoder": "small", "learning_rate": 1e-3, "batch_size": 32, "epochs": 16}
THREE = {"occurrence": "categorical", "appearance_prior_mean": 2.0, "warm_up": 1000}
VARIANTS = {  # of the defaults; "quick" is the recipe as it is
    "quick": None,
    "paper's, 10 epochs": {"epochs": 10},
    "that of the set parts, 12 epochs": PARTS_RECIPE | {"train_images": None, "epochs": 12},
    "larger steps": SMALL,
    "three options": SMALL | THREE,
    "three options, encoder paper": SMALL | THREE | {"encoder": "paper"},
    "three options, beta_app 0.1": SMALL | THREE | {"beta_app": 0.1},
    "three options, beta_app 0.03, batch 16": SMALL | THREE | {"beta_app": 0.03, "batch_size": 16, "epochs": 8},
    "prior mean 0, beta_app 0.1, learning rate 2e-3": SMALL
    | THREE
    | {"appearance_prior_mean": 0.0, "beta_app": 0.1, "learning_rate": 2e-3},
}


def options_of(variant: str, path: str, dataset: Dataset) -> dict:
    """The options of training that a variant stands for on a data set."""
    if VARIANTS[variant] is not None:
        return VARIANTS[variant]
    named = {"data": path}
    return choose_options("quick", TrainingConfig(**named), named, dataset, "cpu")[2]


def measure(name: str, path: str, dataset: Dataset, variant: str, seed: int, out: Path) -> dict:
    """Trains one run, unless it is there, and measures it."""
    folder = out / "-".join([name, *variant.replace(",", "").replace("'", "").split(), f"seed-{seed}"])
    options = options_of(variant, path, dataset)
    config = TrainingConfig(data=path, seed=seed, out=str(folder), device="cpu", **options)
    done = len(read_history(folder)) == config.epochs
    began = time.process_time()
    train(config, dataset, resume=(folder / "checkpoint.pt").exists())
    seconds = None if done else time.process_time() - began
    model, _ = load_run(folder)
    found, last = find_occurrences(model, dataset.test.images), read_history(folder)[-1]
    row = {"data": name, "images": len(dataset.train), "size": "×".join(map(str, dataset.train.images.shape[1:3]))}
    row |= {"variant": variant, "seed": seed, "options": options, "steps": last["step"], "cpu_seconds": seconds}
    quality = measure_reconstructions(model, dataset.test.images)[0]["value"]
    row |= {"psnr": quality, "one_colour": advice.constant_psnr(dataset), "parts": model.num_parts}
    row |= {"alive": int((~found.dead).sum()), "distinct": found.distinct(), "covered": found.covered}
    for protocol, asked in (("knn", {"neighbours": 20}), ("linear", {"epochs": 30})):
        if dataset.train.labels is not None:
            entry = transfer(folder, protocol, TransferConfig(device="cpu", **asked), dataset, untrained=True)
            row |= {protocol: entry["last_top1"], f"{protocol}_untrained": entry["untrained_top1"]}
    return row


def table(result: dict) -> str:
    """The rows in Markdown."""
    lines = [
        *(f"`{command}`  " for command in result["commands"]),
        "",
        f"{result['hardware']}, one thread, torch {result['torch']}; other programs ran beside it.",
        "",
        "| folder | images | options | seed | steps | CPU s | PSNR, dB (one colour) | parts alive | differ | cover | "
        "20 neighbours % (untrained) | linear % (untrained) |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        seconds = "" if row["cpu_seconds"] is None else f"{row['cpu_seconds']:.0f}"
        probes = " | ".join(
            f"{row[name]:.1f} ({row[f'{name}_untrained']:.1f})" if name in row else "" for name in ("knn", "linear")
        )
        lines.append(
            f"| {row['data']} | {row['images']:,} of {row['size']} | {row['variant']} | {row['seed']} | "
            f"{row['steps']:,} | "
            f"{seconds} | {row['psnr']:.1f} ({row['one_colour']:.1f}) | {row['alive']} of {row['parts']} | "
            f"{row['distinct']} | {row['covered']:.0%} | {probes} |"
        )
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description="Train with recipes on photographs, and measure the results.")
    parser.add_argument(
        "--data", action="append", required=True, metavar="NAME=PATH", help="name, and data as for train --data"
    )
    parser.add_argument("--variants", nargs="+", default=["quick"], choices=VARIANTS, metavar="VARIANT")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, default=Path("runs/recipes"), help="folder of the run folders")
    parser.add_argument("--results", type=Path, default=Path("bench/results/recipes.json"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    result = {"commands": [], "hardware": processor(), "torch": torch.__version__, "rows": []}
    if given.results.exists():
        result = json.loads(given.results.read_text())
    words = [f'"{word}"' if " " in word else word for word in sys.argv]
    result["commands"] = list(dict.fromkeys([*result["commands"], " ".join(["python", *words])]))
    done = {(row["data"], row["variant"], row["seed"]) for row in result["rows"]}
    for name, _, path in (word.partition("=") for word in given.data):
        dataset = load(path)
        for variant in given.variants:
            for seed in given.seeds:
                if (name, variant, seed) not in done:
                    result["rows"].append(measure(name, path, dataset, variant, seed, given.out))
                    text = json.dumps(result, indent=2, ensure_ascii=False) + "\n"
                    files = {given.results: text, given.results.with_suffix(".md"): table(result)}
                    write_whole({path: words.encode() for path, words in files.items()})


if __name__ == "__main__":
    main()
