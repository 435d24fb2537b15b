"""Training curves, and bar charts of results."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from accel.figures.canvas import COLOURS, GRID, QUIET, charts, legible, points

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = {
    "total": "loss, nats per image",
    "reconstruction": "reconstruction error, nats per image",
    "kl_appearance": "appearance divergence, nats per image",
    "kl_occurrence": "occurrence divergence, nats per image",
    "kl_ground": "background divergence, nats per image",
    "identity": "which part occurs, nats per image",
    "psnr": "PSNR, dB",
    "active_parts": "parts that occur somewhere",
    "images_per_second": "images per second",
    "occurrences": "expected occurrences per image (Σ p)",  # in logs of earlier versions
    "effective_parts": "effective number of parts",
    "average_precision": "average precision of best parts",
    "localisation_error": "localisation error, cells",
    "purity": "purity of parts",
}
WIDE = 5  # ratio of the values of a loss from which its axis is logarithmic
LARGEST = 1e100  # of a curve; matplotlib's logarithmic scales overflow at larger ranges
PREFIXES = {"train_": "training", "held_out_": "held out"}


def training_curves(history: Sequence[Mapping]) -> "Figure":
    """A Figure with a chart for each logged quantity, over epochs.

    history: the lines of metrics.jsonl. `train_X` and `held_out_X` share the chart of X; other numbers, except epoch,
    step and seconds, have their own charts; booleans have none. Missing values, and None for values that were not
    finite, are gaps. Raises ImportError if matplotlib is missing.
    """
    series: dict[str, dict[str, str]] = {}
    for line in history:
        for key in line:
            if key in ("epoch", "step", "seconds") or isinstance(line[key], bool):
                continue
            prefix = next((prefix for prefix in PREFIXES if key.startswith(prefix)), "")
            series.setdefault(key.removeprefix(prefix), {})[key] = PREFIXES.get(prefix, "")
    figure, axes = charts(
        len(series),
        title="Training curves",
        text=f"All logged quantities over {len(history)} epochs. Blue: training images; orange: held-out images; "
        f"green: no such distinction. Losses that change by more than a factor of {WIDE} have a logarithmic axis.",
    )
    epochs = [line["epoch"] for line in history]
    for axis, (name, lines) in zip(axes, series.items(), strict=True):
        for key, label in lines.items():
            values = np.array([np.nan if line.get(key) is None else line[key] for line in history], float)
            known = np.abs(values) < LARGEST  # false for what is missing
            colour = COLOURS[1] if label == "held out" else COLOURS[0] if label else COLOURS[2]
            marker = "o" if known.sum() <= 15 else None
            axis.plot(np.array(epochs)[known], values[known], color=colour, marker=marker, markersize=3, label=label)
        title = legible(NAMES.get(name, name.replace("_", " ")))
        axis.set_title(title, fontsize=points(12), loc="left", parse_math=False)
        axis.set_xlabel("epoch", fontsize=points(11))
        axis.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)
        axis.xaxis.get_major_locator().set_params(integer=True)
        drawn = np.concatenate([line.get_ydata() for line in axis.lines])
        low, high = drawn.min(initial=np.inf), drawn.max(initial=-np.inf)
        if title.endswith("nats per image") and high > WIDE * low > 0:
            axis.set_yscale("log", subs=(2, 5))
            axis.yaxis.set_major_formatter("{x:g}")
            axis.yaxis.set_minor_formatter("{x:g}" if high < 1000 * low else "")  # or labels would overlap
        else:
            axis.ticklabel_format(axis="y", useOffset=False)
        if low == high:
            far = 2 * high or 1
            axis.set_ylim(sorted((-0.05 * far, far)))
    return figure


def discovery_bars(
    average_precision: Mapping[str, Sequence[float]], chance: float, part_names: Sequence[str]
) -> "Figure":
    """A Figure of the average precision of each true type, for each of several methods.

    average_precision: {method: one number per type}. part_names: names of the types. Raises ImportError if
    matplotlib is missing.
    """
    means = ", ".join(f"{name} {np.nanmean(values):.2f}" for name, values in average_precision.items())
    return _bars(
        {name: np.array(values, float) for name, values in average_precision.items()},
        part_names,
        title="How well the true parts were found",
        text="Average precision over the cells of held-out images; the part of each type was chosen on training "
        f"images. Averages: {means}; chance (dashed line): {chance:.2f}.",
        line=chance,
        limit=1.0,
        form="{:.2f}",
    )


def transfer_bars(results: Sequence[Mapping]) -> "Figure":
    """A Figure of the accuracies of transfers, from the results of transfer.json, with a bar for each protocol.

    A second bar is that of the untrained encoder, if it was measured. A bar is the mean of all results with the
    settings of the last one for a protocol and data set. Raises ImportError if matplotlib is missing.
    """

    def bar(result: Mapping) -> str:
        return f"{result['protocol']}\n{Path(result['data']).name}"

    def settings(result: Mapping) -> tuple:
        return result.get("epochs"), result.get("parameters")

    latest = {bar(result): settings(result) for result in results}
    accuracies: dict[str, list[float]] = {}
    untrained: dict[str, list[float]] = {}
    for result in results:
        if settings(result) == latest[bar(result)]:
            accuracies.setdefault(bar(result), []).append(result["last_top1"])
            untrained.setdefault(bar(result), []).append(result.get("untrained_top1", np.nan))
    names = list(accuracies)
    groups = {"the run's encoder": np.array([np.mean(accuracies[name]) for name in names])}
    baselines = np.array([np.mean(untrained[name]) for name in names])  # of the same runs, or none
    if np.isfinite(baselines).any():
        groups["untrained encoder"] = baselines
    return _bars(
        groups,
        names,
        title="Recognition accuracy with the run's features",
        text="Top-1 accuracy in per cent on test images after the last epoch, for classifiers on top of the frozen "
        "layers: "
        + ", ".join(f"{name} ({len(accuracies[name])})" for name in names).replace("\n", " on ")
        + "; in brackets: number of runs averaged.",
        limit=100.0,
        form="{:.1f}",
    )


def reproduction_bars(result: Mapping) -> "Figure":
    """A Figure of a table of accuracies from `evaluation.collecting.collect`, with a group of bars for each row.

    Bars are means over seeds after the last epoch, whiskers are standard deviations, black marks the paper's figures.
    Raises ImportError if matplotlib is missing.
    """
    rows, columns = result["rows"], list(result["rows"][0]["cells"])
    cells = {column: [row["cells"][column] for row in rows] for column in columns}

    def numbers(column: str, read) -> np.ndarray:
        return np.array([np.nan if read(cell) is None else read(cell) for cell in cells[column]], float)

    means = {column: numbers(column, lambda cell: cell["last"]["mean"]) for column in columns}
    deviations = {column: numbers(column, lambda cell: cell["last"]["deviation"]) for column in columns}
    papers = {column: numbers(column, lambda cell: cell["paper"]) for column in columns}
    limit = min(100.0, 1.2 * np.nanmax([1.0, *np.concatenate([*means.values(), *papers.values()])]))
    seeds = f"{result['seeds']} seed" + ("s" if result["seeds"] > 1 else "")
    figure = _bars(
        means,
        [row["name"] for row in rows],
        title=f"{result['caption']}: {Path(result['data']).stem}",
        text=f"Mean accuracy in per cent after the last epoch, over {seeds}; whiskers show the standard deviation, "
        "black marks the paper's figures.",
        form="{:.1f}",
        limit=limit,
    )
    axis = figure.axes[0]
    height = 0.8 / len(columns)
    for index, column in enumerate(columns):
        at = np.arange(len(rows)) + (index - (len(columns) - 1) / 2) * height
        axis.errorbar(means[column], at, xerr=deviations[column], fmt="none", ecolor="#333333", linewidth=1, capsize=2)
        axis.vlines(papers[column], at - 0.45 * height, at + 0.45 * height, color="black", linewidth=2)
    for text, mean in zip(axis.texts, np.concatenate(list(means.values())), strict=True):
        if mean > limit / 10:  # inside the bar, where there is no whisker or mark
            text.set(x=limit / 100, color="white")
    return figure


def _bars(groups: Mapping[str, np.ndarray], names: Sequence[str], *, title, text, form, limit, line=None):
    """Horizontal bars: a group for each name, in it a bar for each of `groups`, with its value at its end."""
    rows = len(names) * len(groups)
    size = (760, 90 + 19 * rows + 8 * len(names))
    figure, (axis,) = charts(1, title=title, text=text, columns=1, size=size)
    box = axis.get_position()
    left = (max(len(part) for name in names for part in name.split("\n")) * 7 + 16) / size[0]
    axis.set_position((left, box.y0, box.x1 - left - 0.04, box.height))
    axis.grid(axis="y", visible=False)
    axis.grid(axis="x", color=GRID, linewidth=0.8)
    height = 0.8 / len(groups)
    for index, (label, values) in enumerate(groups.items()):
        at = np.arange(len(names)) + (index - (len(groups) - 1) / 2) * height
        axis.barh(at, np.nan_to_num(values), height * 0.9, color=COLOURS[index % len(COLOURS)], label=label)
        for y, value in zip(at, values, strict=True):
            words = form.format(value) if np.isfinite(value) else "none"
            end = np.clip(np.nan_to_num(value), 0, limit)  # a file may say anything
            axis.text(end + limit / 100, y, words, va="center", fontsize=points(11))
    if line is not None:
        axis.axvline(line, color=QUIET, linestyle="--", linewidth=1)
    axis.set_yticks(np.arange(len(names)), list(map(legible, names)), parse_math=False)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.set_xlim(0, limit)
    if len(groups) > 1:
        figure.legend(loc="lower left", bbox_to_anchor=(left, 0), ncols=len(groups), fontsize=points(12), frameon=False)
        axis.set_position((left, box.y0 + 0.02, box.x1 - left - 0.04, box.height))
    return figure
