"""Charts show the numbers of the log and of the results."""

import numpy as np
import pytest

from accel.figures import discovery_bars, reproduction_bars, training_curves, transfer_bars

pytest.importorskip("matplotlib")


def test_every_term_has_a_chart_with_training_and_held_out():
    history = [
        {"epoch": 1, "step": 3, "seconds": 1.0, "train_total": 5.0, "held_out_total": 6.0, "temperature": 1.0},
        {"epoch": 2, "step": 6, "seconds": 1.0, "train_total": None, "held_out_total": 4.0, "discovery_purity": 0.5},
        {"epoch": 3, "step": 9, "seconds": 1.0, "train_total": 3.0, "held_out_total": 3.5, "temperature": 0.8},
    ]
    figure = training_curves(history)
    charts = {axis.get_title(loc="left"): axis for axis in figure.axes}
    assert list(charts) == ["loss, nats per image", "temperature", "discovery purity"]
    training, held_out = charts["loss, nats per image"].lines
    assert training.get_xydata().tolist() == [[1, 5], [3, 3]]  # what was not finite is left out
    assert held_out.get_xydata().tolist() == [[1, 6], [2, 4], [3, 3.5]]
    assert charts["discovery purity"].lines[0].get_xydata().tolist() == [[2, 0.5]]


def test_losses_of_a_wide_range_have_a_logarithmic_axis_and_constants_a_readable_one():
    history = [
        {"epoch": 1, "train_total": 900.0, "train_kl_ground": 9.0, "train_kl_appearance": 0.0, "saturated_parts": 0},
        {"epoch": 2, "train_total": 100.0, "train_kl_ground": 8.0, "train_kl_appearance": 9.0, "saturated_parts": 0},
    ]
    figure = training_curves(
        [line | {"temperature": 0.5, "images_per_second": 10 ** line["epoch"]} for line in history]
    )
    charts = {axis.get_title(loc="left"): axis for axis in figure.axes}
    # Neither a small range, nor zero, nor what is no loss.
    assert [name for name, axis in charts.items() if axis.get_yscale() == "log"] == ["loss, nats per image"]
    assert charts["saturated parts"].get_ylim()[1] == 1
    low, high = charts["temperature"].get_ylim()
    assert low < 0
    assert high == 1


def test_transfer_bars_are_means_of_runs_of_one_protocol_on_one_set():
    results = [
        {"protocol": "knn", "data": "/far/away/photos.npz", "last_top1": 90.0, "parameters": {"k": 7}},  # older
        {"protocol": "conv1", "data": "cifar10", "last_top1": 70.0},
        {"protocol": "conv1", "data": "cifar10", "last_top1": 72.0},
        {"protocol": "knn", "data": "/far/away/photos.npz", "last_top1": 40.0, "parameters": {"k": 5}},
    ]
    figure = transfer_bars(results)
    assert [bar.get_width() for bar in figure.axes[0].patches] == [71.0, 40.0]
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["conv1\ncifar10", "knn\nphotos.npz"]
    assert "conv1 on cifar10 (2), knn on photos.npz (1)" in figure.get_label()
    results[1]["untrained_top1"], results[2]["untrained_top1"] = 50.0, 54.0
    assert [bar.get_width() for bar in transfer_bars(results).axes[0].patches] == [71.0, 40.0, 52.0, 0.0]
    del results[1]["untrained_top1"]  # then there is no mean of the same runs
    assert [bar.get_width() for bar in transfer_bars(results).axes[0].patches] == [71.0, 40.0]


def test_discovery_bars_compare_means_type_by_type():
    figure = discovery_bars({"model": [0.9, np.nan], "k-means": [0.5, 0.25]}, 0.03, ["moon", "star"])
    assert [bar.get_width() for bar in figure.axes[0].patches] == [0.9, 0.0, 0.5, 0.25]
    assert "model 0.90, k-means 0.38; chance (dashed line): 0.03" in figure.get_label()
    assert "none" in [text.get_text() for text in figure.axes[0].texts]


def test_reproduction_bars_stand_beside_the_papers_marks():
    def cell(mean, deviation, paper):
        return {"last": {"mean": mean, "deviation": deviation}, "paper": paper}

    rows = [
        {"name": "beta-vae", "cells": {"Conv1": cell(60.0, 1.5, 44.12), "Conv[1-5]": cell(40.0, None, None)}},
        {"name": "patchvae", "cells": {"Conv1": cell(None, None, 43.07), "Conv[1-5]": cell(50.0, 2.0, 28.72)}},
    ]
    figure = reproduction_bars({"caption": "Top-1", "data": "cifar100", "seeds": 3, "rows": rows})
    axis = figure.axes[0]
    assert [bar.get_width() for bar in axis.patches] == [60.0, 0.0, 40.0, 50.0]  # column by column
    assert [tick.get_text() for tick in axis.get_yticklabels()] == ["beta-vae", "patchvae"]
    lines = [line for group in axis.collections for line in group.get_segments() if len(line) == 2]
    whiskers = [line for line in lines if line[0, 1] == line[-1, 1]]
    assert [np.ptp(line[:, 0]) for line in whiskers] == pytest.approx([3.0, 4.0])
    places = {round(line[0, 0], 2): line[:, 1].mean() for line in lines if line[0, 0] == line[-1, 0]}
    bars = {(bar.get_width(), bar.get_y() + bar.get_height() / 2) for bar in axis.patches}
    assert sorted(places) == [28.72, 43.07, 44.12]
    for paper, mean in ((28.72, 50.0), (43.07, 0.0), (44.12, 60.0)):
        assert any(width == mean and abs(y - places[paper]) < 1e-9 for width, y in bars)
    assert "none" in [text.get_text() for text in axis.texts]


def test_logs_of_earlier_versions_name_expected_occurrences():
    history = [{"epoch": 2, "held_out_occurrences": 6.5, "held_out_occurrences_per_image": 1.0}]
    titles = [axis.get_title(loc="left") for axis in training_curves(history).axes]
    assert titles == ["expected occurrences per image (Σ p)", "occurrences per image"]
