"""A figure of parts that runs have found in photographs, each in a selection of held-out images.

    python bench/experiments/found.py photographs.png RUN=FOLDER RUN=FOLDER     # what trained on what

One row per part, sorted by information. Each row shows the most probable images, at most two of a class, which for
`bench/experiments/photographs.py` is one photograph; cells where the part is likely are bright and outlined.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2]))
from accel.data import load
from accel.evaluation import find_occurrences, occurrence_maps
from accel.figures.canvas import mosaic
from accel.figures.parts import overlay
from accel.training import load_run
from accel.training.held_out import OCCURS

COLUMNS, A_CLASS = 8, 2
SIDE = 96  # pixels of a tile
COLOURS = 160  # of the file's palette, which makes it a fifth as large


def row_of(model, images, found, part: int) -> list[np.ndarray]:
    """Tiles of the images that are shown of a part, and white ones up to the row's end."""
    shown, taken = [], Counter()
    for index, probability in zip(found.image[part], found.probability[part], strict=True):
        kind = images.labels[index]
        if probability > OCCURS and taken[kind] < A_CLASS and len(shown) < COLUMNS:
            taken[kind] += 1
            shown.append(index)
    maps = occurrence_maps(model, images.images[shown])[:, part]
    tiles = [overlay(image, cells) for image, cells in zip(images.images[shown], maps, strict=True)]
    return tiles + [np.full_like(tiles[0], 255)] * (COLUMNS - len(tiles))


def main():
    parser = argparse.ArgumentParser(description="Draw parts that runs have found in photographs.")
    parser.add_argument("out", type=Path, help="PNG file to write")
    parser.add_argument("runs", nargs="+", metavar="RUN=FOLDER", help="run folder, and the images it trained on")
    parser.add_argument(
        "--parts", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="ranks of the parts to show, by information"
    )
    given = parser.parse_args()
    rows, labels = [], []
    for run, _, folder in (word.partition("=") for word in given.runs):
        (model, _), images = load_run(run), load(folder).test
        found = find_occurrences(model, images.images, 200)
        for part in found.order[given.parts]:
            tiles = [Image.fromarray(tile) for tile in row_of(model, images, found, part)]
            rows.append([np.asarray(tile.resize((SIDE, SIDE), Image.Resampling.NEAREST)) for tile in tiles])
            labels.append(f"{images.images.shape[2]} px\npart {part}")
    mosaic(rows, labels).savefig(given.out)
    Image.open(given.out).convert("RGB").quantize(COLOURS).save(given.out, optimize=True)


if __name__ == "__main__":
    main()
