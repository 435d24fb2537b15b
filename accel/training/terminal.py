"""The output of a run in the terminal: a description of the run, and a table with one line per epoch."""

import textwrap

from accel.common.progress import duration

WIDTH = 110  # of text

# Title, width and digits of each term's column in the table; other terms have their own name and 3 digits.
COLUMNS = {
    "total": ("loss", 10, 2),
    "reconstruction": ("recon", 10, 2),
    "kl_appearance": ("KL app", 9, 3),
    "kl_occurrence": ("KL occ", 9, 3),
    "kl_ground": ("KL ground", 11, 3),
    "identity": ("identity", 10, 3),
    "adversarial": ("advers", 8, 3),
    "feature_distance": ("features", 10, 2),
    "discriminator": ("discrim", 9, 3),
}


def columns(terms: tuple[str, ...]) -> list[tuple[str, str, int, int]]:
    """(term, title, width, digits) of each column of a table of terms."""
    names = {term: term.replace("_", " ") for term in terms}
    return [(term, *COLUMNS.get(term, (names[term], max(9, len(names[term]) + 2), 3))) for term in terms]


def header(terms: tuple[str, ...]) -> str:
    """The two lines above the terminal's table."""
    titles = "".join(f"{title:>{width}}" for _, title, width, _ in columns(terms))
    over = "".join(f"   {f' {images} ':-^{len(titles) - 3}}" for images in ("training", "held out"))
    return f"{'':9}{over}\n{'epoch':>9}{titles}{titles}{'PSNR':>8}{'parts':>7}{'temp':>7}{'images/s':>10}{'left':>9}"


EXPLAINED = {
    "total": "loss: the objective",
    "reconstruction": "recon: squared error, weighted for +w",
    "kl_appearance": "KL app, KL occ: divergences of appearances and occurrences from their priors",
    "kl_ground": "KL ground: divergence of the background code from its prior",
    "identity": "identity: the part of KL occ that says which part occurs",
    "adversarial": "advers, features: adversarial and feature matching loss",
    "discriminator": "discrim: loss of the discriminator",
    "psnr": "PSNR: of held-out reconstructions, in dB",
    "active_parts": "parts: number of parts that occur somewhere with probability above one half",
    "temperature": "temp: temperature of sampled occurrences, lower is sharper",
    "left": "left: time to the end of the run, if all epochs and their evaluations take as long as this one",
}


def explanation(terms: tuple[str, ...], has_decoder: bool, has_parts: bool) -> str:
    """An explanation of the table's columns for new readers."""
    shown = (
        {*terms, "left"}
        | ({"psnr"} if has_decoder else set())
        | ({"active_parts", "temperature"} if has_parts else set())
    )
    words = [text for name, text in EXPLAINED.items() if name in shown]
    return textwrap.fill(f"Loss terms are in nats per image, averaged over images. {'; '.join(words)}.", WIDTH)


def epoch_line(terms: tuple[str, ...], line: dict, epochs: int, left: float) -> str:
    """A line of metrics.jsonl as a row of the table; `epochs`: of the whole run; left: seconds to its end."""
    width = len(str(epochs))
    text = f"{line['epoch']:>{8 - width}}/{epochs}"
    for images in ("train", "held_out"):
        for term, _, size, digits in columns(terms):
            text += f"{line[f'{images}_{term}']:>{size}.{digits}f}"
    psnr = f"{line['held_out_psnr']:.2f}" if "held_out_psnr" in line else "-"
    return (
        f"{text}{psnr:>8}{line.get('held_out_active_parts', '-'):>7}"
        f"{line['temperature']:7.3f}{line['images_per_second']:10,.0f}{duration(left):>9}"
    )
