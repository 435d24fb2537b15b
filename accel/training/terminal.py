"""What a run says in the terminal: what is trained on what, and a table with a line an epoch."""

import textwrap

WIDTH = 110  # of text

# How the terminal's table heads and rounds a term; another term goes by its own name, with 3 digits.
COLUMNS = {
    "total": ("loss", 10, 2),
    "reconstruction": ("recon", 10, 2),
    "kl_appearance": ("KL app", 9, 3),
    "kl_occurrence": ("KL occ", 9, 3),
    "kl_ground": ("KL ground", 11, 3),
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
    return f"{'':9}{over}\n{'epoch':>9}{titles}{titles}{'PSNR':>8}{'parts':>7}{'temp':>7}{'images/s':>10}"


EXPLAINED = {
    "total": "loss: what training lowers",
    "reconstruction": "recon: squared error, weighted with +w",
    "kl_appearance": "KL app and KL occ: what codes cost that say how parts look and where they occur",
    "adversarial": "advers and features: what the discriminator adds",
    "discriminator": "discrim: its own loss",
    "psnr": "PSNR: of held-out reconstructions, dB",
    "active_parts": "parts: that occur somewhere with probability above one half",
    "temperature": "temp: of the draws of occurrences, smaller is sharper",
}


def explanation(terms: tuple[str, ...], has_decoder: bool, has_parts: bool) -> str:
    """What the columns of the table are, for whoever sees it for the first time."""
    shown = {*terms} | ({"psnr"} if has_decoder else set()) | ({"active_parts", "temperature"} if has_parts else set())
    words = [text for name, text in EXPLAINED.items() if name in shown]
    return textwrap.fill(f"Terms in nats an image, a mean over images. {'; '.join(words)}.", WIDTH)


def epoch_line(terms: tuple[str, ...], line: dict, epochs: int) -> str:
    """A line of metrics.jsonl as a line under the header, of a run of so many epochs."""
    width = len(str(epochs))
    text = f"{line['epoch']:>{8 - width}}/{epochs}"
    for images in ("train", "held_out"):
        for term, _, size, digits in columns(terms):
            text += f"{line[f'{images}_{term}']:>{size}.{digits}f}"
    psnr = f"{line['held_out_psnr']:.2f}" if "held_out_psnr" in line else "-"
    return (
        f"{text}{psnr:>8}{line.get('held_out_active_parts', '-'):>7}"
        f"{line['temperature']:7.3f}{line['images_per_second']:10,.0f}"
    )
