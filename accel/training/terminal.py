"""What a run says in the terminal: what is trained on what, and a table with a line an epoch."""

import errno
import sys

COLLAPSED = 0.01  # nats an image below which nothing passes the bottleneck

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


def collapse(line: dict, appearance_prior_mean: float) -> str | None:
    """What, by a line of metrics.jsonl, codes do not carry; None if they carry all or have no divergence."""
    if "held_out_kl_appearance" not in line:
        return None
    if line["held_out_kl_appearance"] + line["held_out_kl_occurrence"] < COLLAPSED:
        return "both divergences are near 0 nats, so reconstructions do not depend on the image"
    if line["held_out_kl_appearance"] < COLLAPSED and appearance_prior_mean == 0:
        return "the appearance divergence is near 0 nats, so codes do not say how anything looks"
    if line.get("held_out_active_parts") == 0:
        return "no part occurs anywhere with a probability above one half"
    return None


def say(*lines: str, error: bool = False) -> None:
    """Prints lines; training goes on where the terminal has been closed."""
    try:
        print(*lines, sep="\n", file=sys.stderr if error else sys.stdout, flush=True)
    except OSError as problem:
        if problem.errno != errno.EIO:
            raise
