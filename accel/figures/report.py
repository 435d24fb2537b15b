"""A self-contained HTML report of runs: tables, figures as data URIs, style sheet and script."""

import base64
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from string import Template
from typing import Any

from accel.evaluation.measures import PART_TITLES, TITLES
from accel.figures.curves import PREFIXES


@dataclass(frozen=True)
class Picture:
    """The bytes of a PNG file, with title and description."""

    file: str  # file name, by which figures of several runs are matched
    title: str
    text: str
    png: bytes
    dark: bytes | None = None  # the same for a dark page
    heading: int = 0  # pixels at its top that title and text take, which the report shows as text of its own


@dataclass(frozen=True)
class RunRecord:
    """The content of a run folder that a report shows; missing items are empty."""

    name: str
    config: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]] = ()  # the lines of metrics.jsonl
    measures: Mapping[str, Any] | None = None  # of measures.json
    transfer: Sequence[Mapping[str, Any]] = ()  # the results of transfer.json
    pictures: Sequence[Picture] = ()


def html_report(runs: Sequence[RunRecord], made: str = "") -> str:
    """The HTML text of a report on one or more runs; `made` is the footer: command, version and date.

    The output depends only on the arguments.
    """
    sections = [
        ("pictures", "Pictures", _pictures(runs)),
        ("summary", "Summary", _summary(runs)),
        ("parts", "Parts", _parts(runs)),
        ("measures", "Measures", _measures(runs)),
        ("transfer", "Transfer", _transfer(runs)),
        ("ledger", "Terms of the loss", _ledger(runs)),
        ("configuration", "Configuration", _configuration(runs)),
        ("words", "Glossary", _glossary()),
    ]
    sections = [section for section in sections if section[2]]
    links = "".join(f'<a href="#{key}">{title}</a>' for key, title, _ in sections)
    body = "".join(
        f'<section id="{key}" aria-labelledby="{key}-title"><h2 id="{key}-title">{title}</h2>{content}</section>'
        for key, title, content in sections
    )
    title = "PatchVAE: " + ", ".join(run.name for run in runs)
    return PAGE.substitute(title=escape(title), links=links, body=body, made=escape(made), style=STYLE, script=SCRIPT)


# Numbers, words and tables.


def _words(value: Any) -> str:
    """A value as text: numbers with about four digits, – for missing values."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and value != round(value, 3) and abs(value) < 0.01:
        return f"{value:.2g}"
    if isinstance(value, float):
        return f"{value:,.{0 if abs(value) >= 1000 else 2 if abs(value) >= 10 else 3}f}"
    return str(value)


def _cell(value: Any) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return f'<td class="number" data-value="{value!r}">{_words(value)}</td>'
    return f"<td>{escape(_words(value))}</td>"


def _table(caption: str, header: Sequence[str], rows: Iterable[Sequence[Any]], marked: Iterable[bool] = ()) -> str:
    """A table that can be sorted by each column; first cells are row headers. marked: rows to highlight."""
    head = "".join(
        f'<th scope="col" aria-sort="none"><button type="button">{escape(title)}</button></th>' for title in header
    )
    marks = iter(marked)
    lines = []
    for first, *rest in rows:
        mark = ' class="marked"' if next(marks, False) else ""
        lines.append(
            f'<tr{mark}><th scope="row">{escape(_words(first))}</th>{"".join(_cell(value) for value in rest)}</tr>'
        )
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


# The content of each section; empty if there is nothing to show.


def _reconstructions(run: RunRecord) -> dict[str, Mapping]:
    return {one["name"]: one for one in (run.measures or {}).get("reconstructions", ())}


# Columns for part discovery, with their keys in measures.json, and the baselines.
DISCOVERY = {"average precision of best parts": "average_precision", "purity of parts": "purity"}
BASELINES = {"k_means": "k-means on cells", "untrained": "untrained encoder"}


def _discovery(run: RunRecord, finder: str) -> Mapping[str, Any]:
    return (run.measures or {}).get("discovery", {}).get(finder, {})


def _accuracies(run: RunRecord, key: str) -> dict[str, float]:
    """{protocol: accuracy}, of the last transfer of each protocol, if it has that accuracy"""
    last = {result["protocol"]: result for result in run.transfer}
    return {protocol: result[key] for protocol, result in last.items() if key in result}


def _title(name: str) -> str:
    return TITLES.get(name, name.replace("_", " "))


def _logged(key: str) -> str:
    """A key of metrics.jsonl as text; earlier versions logged expected occurrences."""
    return key.replace("_", " ") + (" (Σ p)" if key.endswith("occurrences") else "")


def _names(lists: Iterable[Iterable[str]]) -> list[str]:
    """All names without duplicates, in the order of first appearance."""
    return list(dict.fromkeys(name for names in lists for name in names))


def _summary(runs: Sequence[RunRecord]) -> str:
    columns: dict[str, list] = {"run": [run.name for run in runs]}
    for option in ("system", "data"):
        columns[option] = [run.config.get(option) for run in runs]
    last = [run.history[-1] if run.history else {} for run in runs]
    columns["epochs"] = [line.get("epoch") for line in last]
    columns["held-out loss"] = [line.get("held_out_total") for line in last]
    for name in _names(_reconstructions(run) for run in runs):
        columns[_title(name)] = [_reconstructions(run).get(name, {}).get("value") for run in runs]
    for title, key in DISCOVERY.items():
        columns[title] = [_discovery(run, "model").get(key) for run in runs]
    columns["dead parts"] = [(run.measures or {}).get("parts", {}).get("dead") for run in runs]
    for protocol in _names((result["protocol"] for result in run.transfer) for run in runs):
        columns[f"{protocol}, top-1 %"] = [_accuracies(run, "last_top1").get(protocol) for run in runs]
    for run in runs:
        for finder, title in BASELINES.items():
            found = _discovery(run, finder)
            values = {title: found[key] for title, key in DISCOVERY.items() if key in found}
            if finder == "untrained":
                accuracies = _accuracies(run, "untrained_top1")
                values |= {f"{protocol}, top-1 %": value for protocol, value in accuracies.items()}
            if values:
                values |= {"run": f"{title} ({run.name})", "data": run.config.get("data")}
                for column, cells in columns.items():
                    cells.append(values.get(column))
    known = {title: values for title, values in columns.items() if any(value is not None for value in values)}
    return _table("Runs, each with the baselines on its data", list(known), zip(*known.values(), strict=True))


def _measures(runs: Sequence[RunRecord]) -> str:
    rows = []
    for run in runs:
        for one in _reconstructions(run).values():
            network = f"{one['network']}, {one.get('dimensions')} dimensions" if "network" in one else ""
            title = _title(one["name"]) + (f", {one['unit']}" if one["unit"] else "")
            rows.append([title, run.name, one["value"], one["count"], one["range"], one["resize"], network])
    header = ["measure", "run", "value", "images", "range", "resize", "features"]
    if not rows:
        return ""
    note = "<p>All measures are of held-out images, reconstructed from the means of their codes."
    if any(row[0] == TITLES["frechet_encoder"] for row in rows):
        note += " Fréchet distances in the features of a run's own encoder cannot be compared between runs."
    return note + "</p>" + _table("Quality of reconstructions, with the settings of each measurement", header, rows)


def _ledger(runs: Sequence[RunRecord]) -> str:
    def terms(line: Mapping) -> list[str]:
        return [key.removeprefix(kind) for kind in PREFIXES for key in line if key.startswith(kind)]

    trained = [run for run in runs if run.history]
    if not trained:
        return ""
    header = ["nats per image, except PSNR (dB) and counts"]
    header += [f"{run.name}, {kind}" for run in trained for kind in PREFIXES.values()]
    rows = [
        [_logged(term)] + [run.history[-1].get(kind + term) for run in trained for kind in PREFIXES]
        for term in _names(terms(run.history[-1]) for run in trained)
    ]
    content = _table("Terms of the loss in the last epoch", header, rows)
    for run in trained:
        columns = _names(run.history)
        every = _table(
            f"Every epoch of {run.name}",
            [_logged(column) for column in columns],
            [[line.get(column) for column in columns] for line in run.history],
        )
        content += f"<details><summary>Every epoch of {escape(run.name)}</summary>{every}</details>"
    return content


def _parts(runs: Sequence[RunRecord]) -> str:
    content = ""
    found = [run for run in runs if run.measures and "parts" in run.measures]
    if found:
        rows = [[title] + [run.measures["parts"][name] for run in found] for name, title in PART_TITLES.items()]
        content += _table(
            "Parts on held-out images, without ground truth", ["measure", *[run.name for run in found]], rows
        )
    header = {
        "name": "true type",
        "part": "best part",
        "average_precision": "average precision",
        "k_means": "k-means",
        "untrained": "untrained",
        "chance": "chance",
        "localisation_error": "localisation error, cells",
        "coverage": "covered",
    }
    for run in found:
        if "types" in run.measures:
            rows = [[one[key] for key in header] for one in run.measures["types"]]
            content += _table(f"True part types, {run.name}", list(header.values()), rows)
        purity = {one["part"]: one for one in run.measures.get("purity", ())}
        columns = ["part", "state", "share of cells", "bits per cell", "largest overlap", "with part"]
        rows = []
        for one in run.measures["parts"]["parts"]:
            row = [one["part"], one["state"], one["occupied"], one["information_bits"]]
            row += [one["largest_overlap"], one["overlaps_most"]]
            if purity:
                row += [purity.get(one["part"], {}).get(key) for key in ("purity", "type")]
            rows.append(row)
        content += _table(f"Learned parts, {run.name}", columns + (["purity", "main type"] if purity else []), rows)
    return content


def _transfer(runs: Sequence[RunRecord]) -> str:
    header = {
        "protocol": "protocol",
        "data": "data",
        "seed": "seed",
        "epochs": "epochs",
        "last_top1": "top-1 %, last",
        "selected_top1": "top-1 %, selected",
        "selected_epoch": "selected epoch",
        "untrained_top1": "untrained, last",
        "untrained_selected_top1": "untrained, selected",
    }
    rows = [[run.name] + [one.get(key) for key in header] for run in runs for one in run.transfer]
    return _table("Recognition accuracy with the run's encoder", ["run", *header.values()], rows) if rows else ""


def _pictures(runs: Sequence[RunRecord]) -> str:
    content = ""
    for file in _names((picture.file for picture in run.pictures) for run in runs):
        shown = [(run, picture) for run in runs for picture in run.pictures if picture.file == file]
        first = shown[0][1]
        same = all(picture.text == first.text for _, picture in shown)
        figures = "".join(_picture(run, picture, "" if same else picture.text) for run, picture in shown)
        words = f"<p>{escape(first.text)}</p>" if same else ""
        content += f'<h3>{escape(first.title)}</h3>{words}<div class="side">{figures}</div>'
    return content


def _picture(run: RunRecord, picture: Picture, words: str) -> str:
    width, height = struct.unpack(">II", picture.png[16:24])  # of a PNG file's first chunk
    title, text, name = (escape(words) for words in (picture.title, picture.text, run.name))
    image = f'<img src="{_data(picture.png)}" width="{width}" height="{height}" alt="{title}, {name}: {text}">'
    kind = "scroll"
    if picture.dark is not None:
        source = f'<source media="(prefers-color-scheme: dark)" srcset="{_data(picture.dark)}">'
        image, kind = f"<picture>{source}{image}</picture>", "scroll themed"
    if picture.heading:
        # Above the box's upper edge; per cent are of its width.
        style = f"max-width: {width}px; --above: -{100 * min(max(picture.heading, 0), height) / width:.3f}%"
        image = f'<div class="cropped" style="{style}">{image}</div>'
    return (
        f'<figure><div class="{kind}" role="region" tabindex="0" aria-label="{title}, {name}">{image}</div>'
        f"<figcaption><strong>{name}</strong> {escape(words)}</figcaption></figure>"
    )


def _data(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _configuration(runs: Sequence[RunRecord]) -> str:
    rows = [[name] + [run.config.get(name) for run in runs] for name in _names(run.config for run in runs)]
    differs = [len({str(value) for value in row[1:]}) > 1 for row in rows]
    rows = [[f"≠ {row[0]}" if mark else row[0], *row[1:]] for row, mark in zip(rows, differs, strict=True)]
    caption = "Options" + ("; ≠ marks those that differ between runs" if any(differs) else "")
    return _table(caption, ["option", *[run.name for run in runs]], rows, differs)


GLOSSARY = {
    "part": "a pattern that recurs in images. A model learns, for each part, a map of where it occurs and, in each "
    "image, a vector that describes how it looks there.",
    "occurrence": "a part occurs in a cell of the image's grid if its probability there is above one half.",
    "share of cells": "of all cells of the images, those in which the part occurs.",
    "dead, saturated, live": "a part that occurs nowhere, in nearly all cells, or in some of them.",
    "expected occurrences (Σ p)": "sum of the parts' probabilities over the cells of an image. Those below one half "
    "count, too, so it is above 0 even if no part occurs.",
    "bits per cell": "mutual information of cell and occurrence: H(mean p) − mean H(p). It is 0 for a part that occurs "
    "everywhere or nowhere, and at most 1.",
    "effective number of parts": "number of parts with equal expected occurrences that would have the same entropy.",
    "overlap": "how often two parts occur in the same cells: 0 for never, 1 for equal maps.",
    "consistency": "similarity of the patches at a part's most probable occurrences, in pixels or in features; 1 if a "
    "part always looks the same.",
    "nats": "unit of the loss: information in natural logarithms; one bit is 0.69 nats.",
    "reconstruction": "squared error of the reconstructed image, summed over pixels, and weighted by gradient energy "
    "for +w.",
    "KL, appearance and occurrence": "divergence of the posterior from the prior: information in the code about how "
    "parts look, and where they occur. If it is near 0, the code has no such information.",
    "KL ground": "divergence of the code of the background model from its prior.",
    "identity": "the part of the occurrence divergence that says which part occurs; --beta-identity weighs it.",
    "PSNR, SSIM": "similarity of reconstructions and images: PSNR in dB, about 12 for one colour and 20 for a blurred "
    "image; SSIM from 0 to 1, by local structure.",
    "Fréchet distance": "distance between the distributions of reconstructions and images, in the features of a "
    "network; lower is better.",
    "average precision (AP)": "how well a part's map ranks the cells that hold a true type before all others; 1 is "
    "perfect, and chance is the share of cells that hold the type.",
    "localisation error": "distance, in cells, from the most probable cell of a type's part to the nearest true cell.",
    "covered": "share of a type's cells in which any part occurs, except saturated parts.",
    "k-means, untrained": "baselines: the same measure for clusters of the pixels of cells, and for an untrained "
    "model.",
    "purity": "share of a part's most probable occurrences that lie on one true type.",
    "top-1, knn, linear, conv1 to conv5": "recognition accuracy in %: with k nearest neighbours, with a linear "
    "classifier on the frozen encoder, or with the first layers of the encoder frozen and the others fine-tuned on "
    "labels.",
}


def _glossary() -> str:
    entries = "".join(f"<dt>{escape(word)}</dt><dd>{escape(text)}</dd>" for word, text in GLOSSARY.items())
    return f"<dl>{entries}</dl>"


STYLE = """
:root { color-scheme: light dark; --page: #fff; --ink: #1a1a1a; --quiet: #5a5a5a; --line: #d5d5d5; --soft: #f4f4f2;
  --link: #00558b; --mark: #fff2cc; }
@media (prefers-color-scheme: dark) { :root { --page: #16181b; --ink: #ececec; --quiet: #a8adb3; --line: #3a3f45;
  --soft: #202428; --link: #7cc4f5; --mark: #4a3d12; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; }
header, main, footer { max-width: 90rem; margin: 0 auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; line-height: 1.25; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.75rem 0 .25rem; }
a { color: var(--link); }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1rem; }
.skip { position: absolute; left: -99rem; }
.skip:focus { left: 1rem; top: .5rem; background: var(--page); padding: .5rem; }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
.scroll { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; margin: .75rem 0; font-size: .9rem; }
caption { text-align: left; color: var(--quiet); padding-bottom: .25rem; }
th, td { padding: .2rem .6rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
thead th { background: var(--soft); }
tbody th { font-weight: 500; white-space: nowrap; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
tr.marked { background: var(--mark); }
th button { font: inherit; font-weight: 600; color: inherit; background: none; border: 0; padding: .2rem 0;
  text-align: left; cursor: pointer; }
th button::after { content: " \\2195"; color: var(--quiet); }
th[aria-sort="ascending"] button::after { content: " \\2191"; color: inherit; }
th[aria-sort="descending"] button::after { content: " \\2193"; color: inherit; }
.side { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); gap: 1rem;
  align-items: start; }
figure { margin: 0; min-width: 0; }
figure .scroll { background: #fff; border: 1px solid var(--line); border-radius: .4rem; padding: .4rem; }
figure .themed { background: var(--page); }
picture { display: block; }
.cropped { overflow: hidden; }
.cropped img { width: 100%; margin-top: var(--above); }
img { display: block; max-width: 100%; height: auto; }
figcaption { color: var(--quiet); font-size: .9rem; padding: .25rem 0; overflow-wrap: anywhere; }
figcaption strong { color: var(--ink); }
dt { font-weight: 600; }
dd { margin: 0 0 .5rem 1rem; max-width: 50rem; }
footer { color: var(--quiet); font-size: .9rem; padding-bottom: 2rem; overflow-wrap: anywhere; }
summary { cursor: pointer; padding: .25rem 0; }
@media (max-width: 40rem) { figure .scroll > * { width: 42rem; } figure img { max-width: none; width: 42rem; } }
"""

SCRIPT = """
document.addEventListener("click", event => {
  const button = event.target.closest("th button");
  if (!button) return;
  const header = button.parentElement, table = header.closest("table"), column = header.cellIndex;
  const descending = header.getAttribute("aria-sort") === "ascending";
  for (const other of header.parentElement.children) other.setAttribute("aria-sort", "none");
  header.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const value = row => {
    const cell = row.cells[column];
    return cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value);
  };
  const missing = one => one === "\\u2013";
  const order = (a, b) => {
    const x = value(a), y = value(b);
    if (missing(x) || missing(y)) return missing(x) - missing(y);
    const sign = descending ? -1 : 1;
    if (typeof x === "number" && typeof y === "number") return sign * (x - y);
    return sign * String(x).localeCompare(String(y), undefined, {numeric: true});
  };
  const body = table.tBodies[0];
  body.append(...[...body.rows].sort(order));
});
"""

PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>$title</title>
<style>$style</style>
</head>
<body>
<a class="skip" href="#content">Skip to the content</a>
<header><h1>$title</h1><nav aria-label="Sections">$links</nav></header>
<main id="content">$body</main>
<footer>$made</footer>
<script>$script</script>
</body>
</html>
""")
