"""The variants of the sweep can be trained, and each of them changes something."""

import dataclasses

import numpy as np
import pytest

from accel.training import TrainingConfig
from accel.training.catalogue import SYSTEMS
from bench.experiments import sweep


@pytest.mark.parametrize("name", [name for name, options in sweep.VARIANTS.items() if options])
def test_a_variant_changes_what_it_names_and_that_has_an_effect(name):
    options = sweep.VARIANTS[name]
    baseline, variant = TrainingConfig(data="x", **sweep.BASELINE), TrainingConfig(data="x", **sweep.BASELINE | options)
    changed = {field.name for field in dataclasses.fields(variant) if field.name in options}
    assert changed == options.keys()
    assert all(getattr(variant, option) != getattr(baseline, option) for option in options)
    assert not options.keys() & SYSTEMS[variant.system].without_effect


def test_halves_share_no_image_and_hold_no_test_image(tmp_path):
    images = np.arange(40, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)
    labels = np.arange(40) % 4
    np.savez(
        tmp_path / "d.npz",
        train_images=images,
        train_labels=labels,
        test_images=images[:5] + 100,
        test_labels=labels[:5],
    )
    halves = sweep.halves(str(tmp_path / "d.npz"), 15)
    one, other = (set(part.images[:, 0, 0, 0].tolist()) for part in (halves.train, halves.test))
    assert len(one) == len(other) == 15
    assert not one & other
    assert max(one | other) < 40
