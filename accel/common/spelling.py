"""What somebody probably meant who wrote a name that there is not."""

import difflib
import re
from collections.abc import Iterable


def nearest(word: str, names: Iterable[str], likeness: float = 0.0) -> str | None:
    """The one of `names` that looks most like `word`; None if none is as like it as `likeness`, from 0 to 1.

    Likeness is difflib's ratio: twice the number of letters in common over that of all; the initials of a name of
    several words are as like it as can be. With 0 any name will do, so
    None says that there are no names.
    """
    names = list(names)
    letters = word.strip("-")
    for name in names:
        if len(letters) > 1 and letters == "".join(part[0] for part in re.split("[-_]", name.strip("-")) if part):
            return name  # --lr is --learning-rate
    return next(iter(difflib.get_close_matches(word, names, n=1, cutoff=likeness)), None)
