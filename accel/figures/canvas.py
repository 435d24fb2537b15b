"""Shared layout of all figures: title, text, colours, and rows of small images with labels.

Figures are made without global state. The label of a Figure, `figure.get_label()`, is its title and, on the next line,
its description, which also serves as alternative text.
"""

import contextlib
import textwrap
from collections.abc import Iterator, Sequence

import numpy as np

TILE_SIZE = 96  # approximate size in pixels to which smaller images are enlarged
GAP = 6
DOTS_PER_INCH = 100
LETTER = 0.6  # width of an average letter in font sizes
TITLE_SIZE, TEXT_SIZE = 15, 12  # of fonts, in pixels
LINE = 1.45  # from one line of text to the next, in font sizes
INK, QUIET, FRAME, GRID = "#1a1a1a", "#555555", "#bbbbbb", "#e5e5e5"
# The colours of lines and letters on a dark page, and the colour of that page, the report's.
DARK = {INK: "#ececec", QUIET: "#b4b9bf", FRAME: "#5d646c", GRID: "#33383e", "#000000": "#ececec", "#333333": "#d0d0d0"}
DARK_PAGE = "#16181b"
# The palette of Okabe and Ito, which colour-blind readers can distinguish.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#999999", "#cc79a7", "#56b4e9", "#e69f00")


def new_figure(width: float, height: float):
    """An empty matplotlib Figure of this size in pixels; ImportError with the command that installs matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("matplotlib is missing: pip install matplotlib") from error
    return Figure(figsize=(width / DOTS_PER_INCH, height / DOTS_PER_INCH), dpi=DOTS_PER_INCH)


def points(size: float) -> float:
    """A font size in pixels as matplotlib counts it."""
    return size * 72 / DOTS_PER_INCH


def legible(words: str) -> str:
    """The words of a file, such as a folder's name, with ? for what is not text and could not be drawn."""
    return words.encode(errors="replace").decode()


def heading(title: str, text: str, width: float) -> tuple[list[tuple[str, float]], float]:
    """The title's and the text's lines with their font sizes, wrapped to `width` pixels, and their height in pixels."""
    lines = []
    for words, size in ((title, TITLE_SIZE), (text, TEXT_SIZE)):
        letters = max(16, int((width - 2 * GAP) / (LETTER * size)))
        lines += [(line, size) for line in textwrap.wrap(legible(words), letters)]
    return lines, sum(LINE * size for _, size in lines) + (GAP if lines else 0)


def write_heading(figure, title: str, text: str, lines: Sequence[tuple[str, float]]) -> None:
    """Puts a `heading`'s lines at the top left and makes title and text the figure's label."""
    figure.set_label(legible(f"{title}\n{text}"))
    width, height = figure.get_size_inches() * DOTS_PER_INCH
    top = height - GAP
    for line, size in lines:
        bold = size == TITLE_SIZE
        figure.text(
            GAP / width,
            top / height,
            line,
            ha="left",
            va="top",
            fontsize=points(size),
            fontweight="bold" if bold else "normal",
            color=INK if bold else QUIET,
            parse_math=False,  # names in it are no formulas
        )
        top -= LINE * size


def enlarge(image: np.ndarray, size: int = TILE_SIZE) -> np.ndarray:
    """uint8 (H, W, 1 or 3) → (H', W', 3), each pixel repeated so that H' is about `size`."""
    factor = max(1, round(size / len(image)))
    image = np.broadcast_to(image, (*image.shape[:2], 3))
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def heat(values: np.ndarray) -> np.ndarray:
    """Numbers in [0, 1], of any shape, as colours from black over red to near white: uint8 (…, 3)."""
    red, green, blue = 3 * values, 3 * values - 1, 3 * values - 2
    return (np.stack([red, green, blue], axis=-1).clip(0, 1) * 255).astype(np.uint8)


def mosaic(
    rows: Sequence[Sequence[np.ndarray]],
    labels: Sequence[str],
    *,
    title: str = "",
    text: str = "",
    headers: Sequence[str] = (),
    captions: Sequence[Sequence[str]] = (),
):
    """A matplotlib Figure of rows of equally large RGB images (H, W, 3), each row with its label on the left.

    title, text: above all. headers: one above each column. captions: one under each image, cut to its width.
    If the figure is saved at its own resolution, each pixel of an image is a pixel of the file. Raises ImportError with
    the command that installs matplotlib if it is missing.
    """
    height, width = rows[0][0].shape[:2]
    columns = max(len(row) for row in rows)
    text_size = min(height / 8, 14)  # of a label's letter, in pixels
    small = text_size * 0.8
    left = round(max(len(line) for label in labels for line in label.splitlines()) * text_size * 0.62) + 2 * GAP
    under = round(small * LINE) if captions else 0
    lines_above = max((header.count("\n") + 1 for header in headers), default=0)
    first = GAP + round(lines_above * small * LINE)
    pitch = height + GAP + under
    canvas = np.full((first + len(rows) * pitch, left + columns * (width + GAP), 3), 255, dtype=np.uint8)
    opaque = np.zeros(canvas.shape[:2])  # the page is seen between images
    tops = [first + index * pitch for index in range(len(rows))]
    lefts = [left + index * (width + GAP) for index in range(columns)]
    for top, row in zip(tops, rows, strict=True):
        for at, tile in zip(lefts, row, strict=False):
            canvas[top : top + height, at : at + width] = tile
            opaque[top : top + height, at : at + width] = 1

    lines, above = heading(title, text, canvas.shape[1])
    above = round(above)
    figure = new_figure(canvas.shape[1], above + len(canvas))
    axis = figure.add_axes((0, 0, 1, len(canvas) / (above + len(canvas))))
    axis.set_axis_off()
    axis.imshow(canvas, interpolation="nearest", aspect="auto", alpha=opaque)
    write_heading(figure, title, text, lines)
    for top, label in zip(tops, labels, strict=True):
        size = points(text_size)
        axis.text(
            left - GAP, top + height / 2, label, ha="right", va="center", fontsize=size, linespacing=1.4, color=INK
        )
    marks = [(header, at, GAP / 2 + first - GAP, "bottom") for header, at in zip(headers, lefts, strict=False)]
    letters = int(width / (LETTER * small))
    for top, row in zip(tops, captions, strict=False):
        for at, caption in zip(lefts, row, strict=False):
            short = caption if len(caption) <= letters else caption[: letters - 1] + "…"
            marks.append((short, at, top + height + 1, "top"))
    style = {"ha": "center", "fontsize": points(small), "color": QUIET, "linespacing": 1.3}
    for words, at, y, side in marks:
        axis.text(at + width / 2, y, legible(words), va=side, parse_math=False, **style)
    return figure


def charts(count: int, *, title: str, text: str, columns: int = 3, size: tuple[int, int] = (320, 230)):
    """A Figure with `count` empty charts of `size` pixels in rows of at most `columns`, and their axes."""
    columns = min(columns, count)
    rows = -(-count // columns)
    width, height = columns * size[0], rows * size[1]
    lines, above = heading(title, text, width)
    figure = new_figure(width, above + height)
    write_heading(figure, title, text, lines)
    left, right, bottom, top = 62, 14, 44, 30  # room around each chart's frame, in pixels
    axes = []
    for index in range(count):
        row, column = divmod(index, columns)
        frame = (
            (column * size[0] + left) / width,
            ((rows - 1 - row) * size[1] + bottom) / (above + height),
            (size[0] - left - right) / width,
            (size[1] - bottom - top) / (above + height),
        )
        axis = figure.add_axes(frame)
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color(FRAME)
        axis.tick_params(which="both", labelsize=points(11), color=FRAME, labelcolor=QUIET)
        axis.grid(axis="y", which="both", color=GRID, linewidth=0.8)
        axis.set_axisbelow(True)
        axes.append(axis)
    return figure, axes


@contextlib.contextmanager
def darkened(figure) -> Iterator[None]:
    """Within this context, a figure that was drawn before has the colours of a dark page.

    The background, lines and text change, but not how transparent they are; images and bars keep their colours.
    """
    from matplotlib.colors import to_hex, to_rgba
    from matplotlib.lines import Line2D
    from matplotlib.spines import Spine
    from matplotlib.text import Text

    grounds = [(page, page.get_facecolor()) for page in (figure, *figure.axes)]
    artists = figure.findobj(lambda artist: isinstance(artist, (Line2D, Spine, Text)))
    colours = [(one, one.get_edgecolor() if isinstance(one, Spine) else one.get_color()) for one in artists]
    # To colour what is not seen, such as "none", could make it seen.
    grounds, colours = ([pair for pair in pairs if to_rgba(pair[1])[3]] for pairs in (grounds, colours))
    try:
        for page, colour in grounds:
            page.set_facecolor(to_rgba(DARK_PAGE, to_rgba(colour)[3]))
        for artist, colour in colours:
            artist.set_color(to_rgba(DARK.get(to_hex(colour), colour), to_rgba(colour)[3]))
        yield
    finally:
        for page, colour in grounds:
            page.set_facecolor(colour)
        for artist, colour in colours:
            artist.set_color(colour)
