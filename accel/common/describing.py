"""Text for errors, and the repr of results and data sets."""

import dataclasses

REASON = 300  # characters of an error that are shown


def in_one_line(error: BaseException) -> str:
    """The message of an error on one line, shortened to REASON characters."""
    return " ".join(str(error).split())[:REASON]


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type if it has none."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def printable(value: object) -> str:
    """A value of a file as an error shows it: escaped if it has line breaks or other control characters, shortened."""
    text = str(value)
    return (text if text.isprintable() else repr(text))[:REASON]


def described(value: object) -> str:
    """The type of a value, or its type and shape."""
    shape = getattr(value, "shape", None)
    return type(value).__name__ if shape is None else f"{type(value).__name__} {tuple(shape)}"


class ShowsShapes:
    """For dataclasses of arrays: their repr shows shapes and dtypes instead of all numbers."""

    def __repr__(self) -> str:
        fields = []
        for field in dataclasses.fields(self):  # type: ignore[arg-type]  # every subclass is a dataclass
            value = getattr(self, field.name)
            shape = getattr(value, "shape", None)
            if shape is None:
                shown = repr(value)
            elif len(shape) == 0:
                shown = f"{value.item():.6g}"
            else:
                shown = f"{str(value.dtype).removeprefix('torch.')} {tuple(shape)}"
            fields.append(f"{field.name}={shown}")
        return f"{type(self).__name__}({', '.join(fields)})"
