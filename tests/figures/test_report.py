"""The report is one file with complete tables and figures, and tables can be sorted in a browser."""

import base64
import re
import shutil
import struct
import subprocess
import threading
import zlib
from html.parser import HTMLParser

import pytest

from accel.figures.canvas import DARK_PAGE
from accel.figures.report import STYLE, Picture, RunRecord, html_report

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome-headless-shell")
VOID = {"meta", "img", "source", "br", "link", "input", "hr"}


def png(width, height):
    """The bytes of a PNG file: a white picture of that size."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress((b"\0" + b"\xff" * width) * height)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def run_record(name, system="patchvae", loss=300.0, **fields):
    """A small run with known content."""
    values = {
        "config": {"system": system, "data": "parts", "seed": 0, "epochs": 2},
        "history": [
            {"epoch": 1, "step": 5, "train_total": 400.0, "held_out_total": 410.0, "held_out_psnr": 15.0},
            {"epoch": 2, "step": 10, "train_total": 290.0, "held_out_total": loss, "held_out_psnr": 18.0},
        ],
        "measures": {
            "reconstructions": [
                {"name": "psnr", "value": 18.25, "unit": "dB", "count": 2000, "range": "[0, 1]", "resize": "none"},
                {"name": "fid", "value": 12.5, "unit": "", "count": 2000, "range": "[-1, 1]", "resize": "to 299×299"}
                | {"network": "Inception, weights.pth", "dimensions": 2048},
            ],
            "discovery": {"model": {"average_precision": 0.75, "purity": 0.5}},
        },
        "transfer": [{"protocol": "conv5", "data": "cifar10", "seed": 0, "epochs": 90, "last_top1": 55.5}],
        "pictures": [Picture("parts.png", "Where each part occurs", "A part a row & more.", png(40, 30))],
    }
    return RunRecord(name, **values | fields)


class Page(HTMLParser):
    """Elements with their attributes and text, in order; fails on a closing tag without an open one."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open = [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append({"tag": tag, "text": "", **dict(attributes)})
        if tag not in VOID:
            self.open.append((tag, self.elements[-1]))

    def handle_data(self, data):
        for _, element in self.open:
            element["text"] += data

    def handle_endtag(self, tag):
        opened, _ = self.open.pop()
        assert opened == tag

    def all(self, tag):
        return [element for element in self.elements if element["tag"] == tag]


def test_the_summary_has_the_untrained_encoder_s_accuracy_in_its_own_row():
    transfer = {"protocol": "conv5", "data": "cifar10", "seed": 0, "epochs": 90, "last_top1": 55.5}
    page = Page(html_report([run_record("one"), run_record("two", transfer=[transfer | {"untrained_top1": 33.25}])]))
    rows = [row["text"] for row in page.all("tr")]
    (row,) = [row for row in rows if "untrained encoder (two)" in row]
    assert "33.25" in row
    assert not any("untrained encoder (one)" in row for row in rows)
    later = [transfer | {"untrained_top1": 33.25}, transfer | {"data": "photos.npz", "last_top1": 91.0}]
    text = html_report([run_record("two", transfer=later)])
    assert "untrained encoder (two)" not in text  # whose accuracy belongs to another transfer than the last one


def test_everything_is_in_the_one_file():
    text = html_report([run_record("one"), run_record("two", "beta-vae", loss=250.0)])
    page = Page(text)
    names = ("src", "srcset", "href")
    sources = [value for element in page.elements for name in names if (value := element.get(name))]
    assert sources
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert not re.search(r"https?:|url\(|@import|fetch\(", text)
    identifiers = {element["id"] for element in page.elements if "id" in element}
    assert {link["href"][1:] for link in page.all("a")} <= identifiers
    assert html_report([run_record("one")]) == html_report([run_record("one")])


def test_pictures_stand_side_by_side_with_their_words():
    page = Page(html_report([run_record("one"), run_record("two")]))
    one, two = page.all("img")
    assert one["alt"] == "Where each part occurs, one: A part a row & more."
    assert two["alt"].startswith("Where each part occurs, two")
    assert (one["width"], one["height"]) == ("40", "30")
    assert len([title for title in page.all("h3") if title["text"] == "Where each part occurs"]) == 1


def test_a_picture_for_a_dark_page_is_shown_on_one():
    light, dark = png(40, 30), png(41, 31)
    pictures = [Picture("a.png", "A", "See a.", light, dark), Picture("b.png", "B", "See b.", light)]
    page = Page(html_report([run_record("one", pictures=pictures)]))
    (source,) = page.all("source")
    assert source["media"] == "(prefers-color-scheme: dark)"
    assert source["srcset"] == f"data:image/png;base64,{base64.b64encode(dark).decode()}"
    assert [image["src"] for image in page.all("img")] == [
        f"data:image/png;base64,{base64.b64encode(light).decode()}"
    ] * 2
    boxes = [box["class"] for box in page.all("div") if box.get("class", "").startswith("scroll") and "text" in box]
    assert boxes.count("scroll themed") == 1  # the other picture keeps its white ground
    assert f"--page: {DARK_PAGE}" in STYLE


def test_a_heading_within_a_picture_is_not_shown_beside_the_report_s_own():
    pictures = [Picture("a.png", "A", "See a.", png(40, 30), heading=10), Picture("b.png", "B", "See b.", png(40, 30))]
    page = Page(html_report([run_record("one", pictures=pictures)]))
    (box,) = [box for box in page.all("div") if box.get("class") == "cropped"]
    assert box["style"] == "max-width: 40px; --above: -25.000%"


def test_tables_hold_the_numbers_and_can_be_sorted_by_key():
    page = Page(html_report([run_record("one"), run_record("two", loss=250.0)]))
    cells = {cell.get("data-value") for cell in page.all("td")}
    assert {"300.0", "250.0", "290.0", "18.25", "12.5", "0.75", "55.5"} <= cells
    headers = [header for header in page.all("th") if header.get("scope") == "col"]
    assert len(headers) == len(page.all("button"))
    assert all(header["aria-sort"] == "none" for header in headers)
    assert all(button["text"] for button in page.all("button"))
    assert all(table["text"] for table in page.all("caption"))
    assert len(page.all("caption")) == len(page.all("table"))
    scrolled = [element for element in page.all("div") if element.get("class") == "scroll"]
    assert all(element["tabindex"] == "0" and element["aria-label"] for element in scrolled)
    words = " ".join(cell["text"] for cell in page.all("td"))
    assert "Inception, weights.pth, 2048 dimensions" in words
    assert "to 299×299" in words


def test_options_that_differ_are_marked_by_more_than_a_colour():
    page = Page(html_report([run_record("one"), run_record("two", "beta-vae")]))
    rows = [header["text"] for header in page.all("th") if header.get("scope") == "row"]
    assert "≠ system" in rows
    assert "data" in rows
    assert not [row for row in Page(html_report([run_record("one")])).all("th") if row["text"].startswith("≠")]


def test_names_and_words_are_not_taken_for_html():
    picture = Picture("a.png", "<i>title</i>", '"quoted" <script>', png(2, 2))
    record = run_record("<b>run</b>", config={"data": "<img src=x onerror=alert(1)>"}, pictures=[picture])
    page = Page(html_report([record]))
    assert len(page.all("script")) == 1
    assert len(page.all("img")) == 1
    assert not page.all("b") + page.all("i")
    assert page.all("img")[0]["alt"] == '<i>title</i>, <b>run</b>: "quoted" <script>'


def test_the_words_of_its_tables_are_explained():
    page = Page(html_report([run_record("one")]))
    words = " ".join(one["text"] for one in page.all("dt"))
    assert len(page.all("dt")) == len(page.all("dd")) > 10
    for word in ("PSNR", "average precision", "dead", "bits per cell", "purity", "k-means", "knn", "nats"):
        assert word in words


def test_a_dead_part_takes_no_share_of_the_cells_and_expected_occurrences_are_named_so():
    part = {"part": 10, "state": "dead", "occurrences_an_image": 1.157, "occupied": 0.0, "information_bits": 0.01}
    part |= {"largest_overlap": 0.5, "overlaps_most": 3}
    totals = {"effective_parts": 9.0, "mean_overlap": 0.25, "consistency_pixels": None, "consistency_features": None}
    totals |= {"occurrences_an_image": 63.625, "dead": 7, "saturated": 0, "parts": [part]}
    history = [{"epoch": 2, "held_out_occurrences": 63.5, "held_out_occurrences_per_image": 24.75}]
    page = Page(html_report([run_record("one", measures={"parts": totals}, history=history)]))
    rows = [row["text"] for row in page.all("tr")]
    assert "partstateshare of cellsbits per celllargest overlapwith part" in rows
    assert "10dead0.0000.0100.5003" in rows
    assert "expected occurrences (Σ p)63.62" in rows
    assert next(row for row in rows if "63.50" in row).startswith("occurrences (Σ p)")
    assert [row for row in rows if row.startswith("occurrences per image") and "24.75" in row]


def test_what_is_not_there_leaves_its_section_out():
    bare = RunRecord("bare", {"system": "beta-vae"})
    assert [title["text"] for title in Page(html_report([bare])).all("h2")] == ["Summary", "Configuration", "Glossary"]
    page = Page(html_report([bare, run_record("full")]))
    assert "–" in [cell["text"] for cell in page.all("td")]


def test_a_caption_that_runs_share_is_shown_once_and_the_end_says_how_the_report_was_made():
    page = html_report([run_record("one"), run_record("two")], "patchvae report one two, 2026")
    assert page.count("<p>A part a row &amp; more.</p>") == 1
    assert page.count("A part a row &amp; more.") == 3  # and in either picture's alternative text
    assert "<footer>patchvae report one two, 2026</footer>" in page
    other = Picture("parts.png", "Where each part occurs", "Another text.", png(40, 30))
    page = html_report([run_record("one"), run_record("two", pictures=[other])])
    assert "<strong>two</strong> Another text." in page
    assert "<strong>one</strong> A part a row &amp; more." in page


def test_baselines_stand_beside_each_run():
    found = {"model": {"average_precision": 0.75, "purity": 0.5}, "k_means": {"average_precision": 0.5}}
    record = run_record("one", measures={"reconstructions": [], "discovery": found})
    rows = [row["text"] for row in Page(html_report([record])).all("th") if row.get("scope") == "row"]
    assert rows[:2] == ["one", "k-means on cells (one)"]


@pytest.mark.skipif(not any(map(shutil.which, BROWSERS)), reason="no Chromium is installed here")
def test_a_browser_sorts_tables_and_shows_all_pictures(tmp_path):
    """An added script clicks and prints its findings on the console, where errors would also appear."""
    check = """<script>addEventListener("load", () => {
      const table = document.querySelector("table"), names = [...table.querySelectorAll("thead button")];
      const runs = () => [...table.tBodies[0].rows].map(row => row.cells[0].textContent).join(",");
      const loss = names.find(name => name.textContent === "held-out loss");
      const seen = [runs()];
      loss.click(); seen.push(runs(), loss.parentElement.ariaSort);
      loss.focus(); loss.click(); seen.push(runs(), loss.parentElement.ariaSort, document.activeElement === loss);
      names[0].click(); seen.push(runs(), loss.parentElement.ariaSort);
      seen.push([...document.images].every(image => image.complete && image.naturalWidth > 0));
      seen.push(document.documentElement.scrollWidth <= innerWidth);
      const sources = [...document.querySelectorAll("source")];
      seen.push(sources.length, sources.every(source => source.nextElementSibling.currentSrc === source.srcset));
      const box = document.querySelector(".cropped").getBoundingClientRect();
      seen.push(Math.round(box.width), Math.round(box.height));
      console.log("found " + seen.join(" ") + " end");
    })</script></body>"""
    names = ("b", "a", "c")
    # 10 of its 30 rows are a heading.
    pictures = [Picture("parts.png", "Where each part occurs", "A part a row.", png(40, 30), png(40, 30), heading=10)]
    losses = (1000.5, None, 90.25)
    runs = [run_record(name, loss=loss, pictures=pictures) for name, loss in zip(names, losses, strict=True)]
    path = tmp_path / "report.html"
    path.write_text(html_report(runs).replace("</body>", check))
    browser = next(filter(None, map(shutil.which, BROWSERS)))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--window-size=500,800"]
    options += [f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr"]
    options += ["--blink-settings=preferredColorScheme=0"]  # dark
    process = subprocess.Popen([browser, *options, path.as_uri()], stderr=subprocess.PIPE, text=True)
    limit = threading.Timer(120, process.kill)
    limit.start()
    console = []
    for line in process.stderr:
        if "CONSOLE" in line:
            console.append(line)
            if "found" in line:
                break
    limit.cancel()
    process.kill()
    process.communicate()
    assert len(console) == 1, console
    seen = re.search(r"found (.*?) end", console[0])[1]
    assert seen == "b,a,c c,b,a ascending b,c,a descending true a,b,c none true true 3 true 40 20"
