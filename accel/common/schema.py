"""Type checks of values that were read from files, for all file formats.

A type is written as in an annotation: int, list[str], dict[str, float], tuple[int, ...], int | None, a TypedDict for a
dictionary of known keys, or any class, such as a tensor's.
"""

import math
import types
import typing
from typing import Any

WORDS = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    list: "a list",
    dict: "a dictionary",
    tuple: "a tuple",
    types.NoneType: "null",
}
SHOWN = 60  # maximal number of characters of a wrong value


def refuse_other(value: Any, kind: Any, source: object) -> None:
    """Raises ValueError, which begins with the file name `source`, unless value and all elements have this type.

    An int must have 64 bits and not be a bool; a float may be an int, but must be finite. A TypedDict may have more
    keys.
    """
    try:
        if problem := _problem(value, kind, ""):
            raise ValueError(
                f"{source} {problem.removeprefix('it ')}" if problem[:3] == "it " else f"{source}: {problem}"
            )
    except RecursionError:
        raise ValueError(f"{source}: it is nested too deeply") from None


def _problem(value, kind, place: str) -> str | None:
    """The problem as a sentence that begins with the place; None if there is none."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return None
    if origin in (types.UnionType, typing.Union):
        problems = [_problem(value, one, place) for one in arguments]
        if None in problems:
            return None
        # The alternative with the value's own plain type gives the most specific problem.
        near = [p for one, p in zip(arguments, problems, strict=True) if isinstance(value, plain_type(one))]
        return (
            near[0] if near and len(near) < len(problems) else _other(value, place, " or ".join(map(_words, arguments)))
        )
    plain = plain_type(kind)
    if plain is float and type(value) is int:
        value = float(value) if abs(value) < 2**63 else math.inf
    if not isinstance(value, plain) or (type(value) is bool and plain is not bool):
        return _other(value, place, _words(kind))
    if (plain is int and not -(2**63) <= value < 2**64) or (plain is float and not math.isfinite(value)):
        return _other(value, place, f"{_words(kind)} within range")
    if typing.is_typeddict(kind):
        known = typing.get_type_hints(kind)
        if lacking := [key for key in known if key in kind.__required_keys__ - value.keys()]:
            return f"{place or 'it'} lacks {', '.join(lacking)}"
        return _first((value[key], known[key], _within(place, key)) for key in known if key in value)
    if origin is dict:
        pairs = [(key, arguments[0], _within(place, "a key")) for key in value]
        return _first([*pairs, *((one, arguments[1], _within(place, key)) for key, one in value.items())])
    if origin is list and arguments[0] in (str, int) and set(map(type, value)) <= {arguments[0]}:
        extremes = {min(value), max(value)} if value and arguments[0] is int else ()  # instead of millions of labels
        return _first((one, int, f"{place}[{value.index(one)}]") for one in extremes)
    if origin is list or (origin is tuple and arguments[-1] is Ellipsis):
        return _first((one, arguments[0], f"{place}[{index}]") for index, one in enumerate(value))
    if origin is tuple:
        if len(value) != len(arguments):
            return _other(value, place, f"{len(arguments)} values")
        return _first((one, arguments[i], f"{place}[{i}]") for i, one in enumerate(value))
    return None


def _first(checks) -> str | None:
    return next((problem for check in checks if (problem := _problem(*check))), None)


def plain_type(kind: Any) -> type:
    """The class whose instances a type describes: `dict` of a TypedDict or `dict[str, int]`, itself of a class."""
    if kind is None:
        return types.NoneType
    return dict if typing.is_typeddict(kind) else typing.get_origin(kind) or kind


def _within(place: str, key: object) -> str:
    name = repr(str(key))[1:-1][:SHOWN]  # in one line
    return f"{place}.{name}" if place else name


def _words(kind) -> str:
    plain = plain_type(kind)
    return WORDS.get(plain, plain.__name__)


def _other(value, place: str, expected: str) -> str:
    shown = "null" if value is None else f"{value!r}" if type(value) in WORDS else f"a {type(value).__name__}"
    shown = " ".join(shown.split())  # what a list holds may have several lines
    shown = shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}…"
    return f"{place or 'it'} must be {expected}, got {shown}"
