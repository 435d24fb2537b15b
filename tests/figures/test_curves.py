"""Charts hold the numbers of the log and of the results."""

import numpy as np
import pytest

from accel.figures import discovery_bars, training_curves, transfer_bars

pytest.importorskip("matplotlib")


def test_every_term_has_a_chart_with_training_and_held_out():
    history = [
        {"epoch": 1, "step": 3, "seconds": 1.0, "train_total": 5.0, "held_out_total": 6.0, "temperature": 1.0},
        {"epoch": 2, "step": 6, "seconds": 1.0, "train_total": None, "held_out_total": 4.0, "discovery_purity": 0.5},
        {"epoch": 3, "step": 9, "seconds": 1.0, "train_total": 3.0, "held_out_total": 3.5, "temperature": 0.8},
    ]
    figure = training_curves(history)
    charts = {axis.get_title(loc="left"): axis for axis in figure.axes}
    assert list(charts) == ["loss, nats an image", "temperature", "discovery purity"]
    training, held_out = charts["loss, nats an image"].lines
    assert training.get_xydata().tolist() == [[1, 5], [3, 3]]  # what was not finite is left out
    assert held_out.get_xydata().tolist() == [[1, 6], [2, 4], [3, 3.5]]
    assert charts["discovery purity"].lines[0].get_xydata().tolist() == [[2, 0.5]]


def test_transfer_bars_are_means_of_runs_of_one_protocol_on_one_set():
    results = [
        {"protocol": "conv1", "data": "cifar10", "last_top1": 70.0},
        {"protocol": "conv1", "data": "cifar10", "last_top1": 72.0},
        {"protocol": "knn", "data": "cifar10", "last_top1": 40.0},
    ]
    figure = transfer_bars(results)
    assert [bar.get_width() for bar in figure.axes[0].patches] == [71.0, 40.0]
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["conv1\ncifar10", "knn\ncifar10"]
    assert "conv1 on cifar10 (2), knn on cifar10 (1)" in figure.get_label()


def test_discovery_bars_compare_means_type_by_type():
    figure = discovery_bars({"model": [0.9, np.nan], "k-means": [0.5, 0.25]}, 0.03, ["moon", "star"])
    assert [bar.get_width() for bar in figure.axes[0].patches] == [0.9, 0.0, 0.5, 0.25]
    assert "model 0.90, k-means 0.38; chance 0.03" in figure.get_label()
    assert "none" in [text.get_text() for text in figure.axes[0].texts]
