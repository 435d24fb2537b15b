"""What a finished run achieved, as a table for the terminal."""

import json
from pathlib import Path

import numpy as np
import torch
from torch import nn

from accel.data import Dataset, ImageSet
from accel.evaluation.discovery import discover
from accel.evaluation.occurrences import BATCH_SIZE
from accel.evaluation.quality import WINDOW_SIZE, psnr, ssim
from accel.models.autoencoder import pixels
from accel.training.held_out import evaluating, in_order


def reconstruction_quality(model: nn.Module, images: ImageSet) -> dict[str, float]:
    """Mean `psnr` and `ssim` of deterministic reconstructions; no `ssim` of images smaller than its window."""
    measures = {"psnr": psnr}
    if min(images.images.shape[1:3]) >= WINDOW_SIZE:
        measures["ssim"] = ssim
    values = {name: [] for name in measures}
    with evaluating(model) as device:
        for batch in in_order(images.images, BATCH_SIZE, device):
            reconstruction, original = model.reconstruct(batch), pixels(batch, torch.float32)
            for name, measure in measures.items():
                values[name].append(measure(reconstruction, original).cpu())
    return {name: torch.cat(batches).mean().item() for name, batches in values.items()}


def summary(folder: Path, model: nn.Module, dataset: Dataset) -> str:
    """The last epoch's loss terms, the quality of reconstructions and, where it is known, of the parts."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    last = json.loads(lines[-1]) if lines else {}
    rows = [f"{'nats an image':<28}{'training':>12}{'held out':>12}"] if lines else []
    names = {
        "total": "loss",
        "reconstruction": "reconstruction",
        "kl_appearance": "appearance divergence",
        "kl_occurrence": "occurrence divergence",
        "error": "wrong, %",
    }
    for term in (name.removeprefix("train_") for name in last if name.startswith("train_")):
        name = names.get(term, term.replace("_", " "))
        rows.append(f"{name:<28}{last[f'train_{term}']:12.3f}{last[f'held_out_{term}']:12.3f}")
    units = {"psnr": ("PSNR, dB", 2), "ssim": ("SSIM", 3)}
    quality = reconstruction_quality(model, dataset.test) if hasattr(model, "reconstruct") else {}
    for measure, value in quality.items():
        name, digits = units[measure]
        rows.append(f"{name:<40}{value:12.{digits}f}")
    if dataset.test.truth is not None and hasattr(model, "num_parts"):
        found = discover(model, dataset)
        rows += ["", f"{'true part type':<28}{'best part':>12}{'AP':>12}{'chance':>12}"]
        types = dataset.part_names or [f"type {index}" for index in range(len(found.part))]
        for name, part, value, chance in zip(types, found.part, found.average_precision, found.chance, strict=True):
            rows.append(f"{name:<28}{part:12d}{value:12.3f}{chance:12.3f}")
        mean, chance = np.nanmean(found.average_precision), found.chance.mean()
        rows.append(f"{'mean':<40}{mean:12.3f}{chance:12.3f}")
    return "\n".join(rows)
