"""The data behind the figures against a stored file, so that changes are deliberate.

`golden.json` has the results of an earlier version, on generated images and a model without weights, whose parts are
the three colours. Run this file as a program (`python -m tests.figures.test_golden`) to update it.
"""

import json
from pathlib import Path

import numpy as np
import torch

from accel.data import Dataset, draw_parts
from accel.evaluation import consistency, discover, find_occurrences, receptive_field
from accel.figures import aggregated_samples, swap_appearance, vary_appearance
from accel.figures.appearances import most_different
from tests.figures.oracle import Oracle

PATH = Path(__file__).with_name("golden.json")


def pictured() -> dict:
    """The content of the gallery, the statistics, the swaps, the interpolations, the samples and the bars."""
    model, train, test = Oracle(), draw_parts(400), draw_parts(300, first_image=1000)
    found = find_occurrences(model, test.images, 12)
    batch = torch.from_numpy(test.images.transpose(0, 3, 1, 2).copy())
    result = {
        "gallery": {name: getattr(found, name).tolist() for name in ("image", "row", "column", "probability")},
        "statistics": {
            name: getattr(found, name).tolist() for name in ("expected", "occupied", "information", "overlap")
        },
        "order": found.order.tolist(),
        "consistency": consistency(model, test.images, found, side=16),
        "receptive_field": receptive_field(model, test.images[:4]),
    }
    appearances = model.encode(batch).appearance_mean
    chosen = [most_different(appearances[found.image[part], part].numpy()) for part in range(3)]
    result["swaps"] = [[first, *order[:3].tolist()] for first, order in chosen]
    before, after = swap_appearance(model, batch[:1], batch[1:5], part=2)
    result["swapped"] = (after - before)[:, 2, ::8, ::8].tolist()
    varied = vary_appearance(model, batch[:1], 0, torch.tensor([[-1.0, 0.0], [0.0, 0.0], [1.0, 0.5]]))
    result["varied"] = varied[:, :, ::8, ::8].mean((2, 3)).tolist()
    result["samples"] = aggregated_samples(model, batch[:6], seed=3)[:, :, ::8, ::8].mean((2, 3)).tolist()
    discovery = discover(model, Dataset("parts", train, test))
    result["discovery"] = {name: getattr(discovery, name).tolist() for name in ("part", "average_precision", "purity")}
    result["discovery"] |= discovery.summary()
    return result


def assert_like(name, got, expected):
    """Integers and strings must be equal; floats must agree up to float32 sums over a few thousand cells."""
    if isinstance(expected, dict):
        assert got.keys() == expected.keys(), name
        for key, value in expected.items():
            assert_like(f"{name} {key}", got[key], value)
    elif np.asarray(expected).dtype.kind == "f":
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5, err_msg=name)
    else:
        assert got == expected, name


def test_pictures_show_what_they_showed():
    assert_like("pictured", json.loads(json.dumps(pictured())), json.loads(PATH.read_text()))


if __name__ == "__main__":
    PATH.write_text(json.dumps(pictured()) + "\n")
