"""Suggestions for misspelt names."""

import difflib
import re
from collections.abc import Iterable


def nearest(word: str, names: Iterable[str], likeness: float = 0.0) -> str | None:
    """The most similar of `names` to `word`; None if none has a similarity of at least `likeness`, from 0 to 1.

    The similarity is difflib's ratio, twice the number of common letters divided by the total number; the initials of a
    name of several words count as that name. With likeness 0, the result is None only if there are no names.
    """
    names = list(names)
    letters = word.strip("-")
    for name in names:
        if len(letters) > 1 and letters == "".join(part[0] for part in re.split("[-_]", name.strip("-")) if part):
            return name  # --lr is --learning-rate
    return next(iter(difflib.get_close_matches(word, names, n=1, cutoff=likeness)), None)
