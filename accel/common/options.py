"""Dataclasses whose fields are also command-line options, each with name, type, default and check in one place."""

import argparse
import contextlib
import dataclasses
import math
import numbers
import os
import re
import types
import typing
from collections.abc import Callable, Container
from typing import Any, ClassVar, NamedTuple, Self

from accel.common.spelling import nearest

KINDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


class Check(NamedTuple):
    """A condition on a value; `words` complete the sentence 'must be …'."""

    words: str
    holds: Callable[[Any], bool]


def at_least(bound: float) -> Check:
    """value ≥ bound."""
    return Check(f"at least {bound}", lambda value: value >= bound)


def above(bound: float) -> Check:
    """value > bound."""
    return Check(f"greater than {bound}", lambda value: value > bound)


def within(low: int, high: int) -> Check:
    """low ≤ value ≤ high."""
    return Check(f"from {low} to {high}", lambda value: low <= value <= high)


def between(low: float, high: float) -> Check:
    """low < value < high."""
    return Check(f"between {low} and {high}, both excluded", lambda value: low < value < high)


def option(
    default: Any,
    group: str,
    help: str,
    *,
    choices: tuple[str, ...] = (),
    check: Check | None = None,
    absent: str | None = None,
) -> Any:
    """A field of an `Options` dataclass. Passing None to the constructor selects the default.

    group: title under which --help lists the option. absent: description of the default if that is None.
    """
    metadata = {
        "default": default,
        "group": group,
        "help": help,
        "choices": choices,
        "check": check,
        "absent": absent,
    }
    return dataclasses.field(default=None, metadata=metadata)


SEED = Check("from 0 to 2^63 - 1", lambda seed: 0 <= seed < 2**63)
DEVICE = Check("auto, cpu, cuda or cuda:N", lambda name: bool(re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", name)))


def device_option() -> Any:
    """The option --device, which is the same for all commands."""
    return option("auto", "run", "auto (a GPU if there is one), cpu, cuda or cuda:N", check=DEVICE)


def _kind(annotation: Any) -> tuple[type, bool]:
    """The plain type of an annotation such as `int` or `int | None`, and whether None is a value of it."""
    if isinstance(annotation, types.UnionType):
        plain = [kind for kind in typing.get_args(annotation) if kind is not type(None)]
        return plain[0], True
    return annotation, False


def _problem(field: dataclasses.Field[Any], value: Any) -> str | None:
    """The problem of a value, as the end of a sentence that begins with the option's name; None if it is valid."""
    kind, none_allowed = _kind(field.type)
    if value is None and none_allowed:
        return None
    of_kind = type(value) is kind
    if not of_kind or (kind is float and not math.isfinite(value)):
        return f"must be {KINDS[kind]}, got {value!r}"
    if kind is int and abs(value) >= 2**63:
        return f"must be a whole number below 2^63, got {value}"
    if kind is str and (not value.strip() or "\0" in value):
        return f"must be {KINDS[kind]} that is not empty and has no NUL in it, got {value!r}"
    if kind is str and not _can_be_a_name(value):
        return f"must be {KINDS[kind]}, got {value!r}, which is not Unicode"
    choices, check = field.metadata["choices"], field.metadata["check"]
    if choices and value not in choices:
        return f"must be one of {', '.join(choices)}, got {value!r} (nearest: {nearest(value, choices)})"
    if check and not check.holds(value):
        return f"must be {check.words}, got {value!r}"
    return None


def _can_be_a_name(text: str) -> bool:
    """Whether a file could have this name, which may hold bytes that are not UTF-8 as Python represents them."""
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return True


@dataclasses.dataclass(frozen=True)
class Options:
    """A checked, immutable set of options. Subclasses declare each field with `option`.

    RECIPES: named sets of defaults, which override those of the fields if `recipe` returns their name.
    """

    RECIPES: ClassVar[dict[str, dict[str, Any]]] = {}

    def recipe(self) -> str | None:
        """The name of the recipe that these options select, or None."""
        return None

    def __post_init__(self) -> None:
        fields = dataclasses.fields(self)
        given = [field for field in fields if getattr(self, field.name) is not None]
        for field in given:  # before they choose the recipe
            self._take(field, getattr(self, field.name))
        name = self.recipe()
        recipe = {} if name is None else self.RECIPES[name]
        for field in fields:
            if field not in given:
                self._take(field, recipe.get(field.name, field.metadata["default"]))

    def _take(self, field: dataclasses.Field[Any], value: Any) -> None:
        """Sets a field to a value, as a float where the field is one; ValueError for one of wrong type or range."""
        if _kind(field.type)[0] is float and isinstance(value, numbers.Real) and not isinstance(value, bool):
            with contextlib.suppress(OverflowError):  # which is said below
                value = float(value)  # of an int, or of NumPy's
        if problem := _problem(field, value):
            raise ValueError(f"{field.name} {problem}")
        object.__setattr__(self, field.name, value)

    @classmethod
    def from_dict(cls, values: dict[str, Any], source: str) -> Self:
        """The inverse of `dataclasses.asdict`; `source` is the file that an error names.

        An option that is missing in an older file gets the default of its field.
        Raises ValueError for an unknown option, or a value of the wrong type or range.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        for key in values:
            if key not in names:
                raise ValueError(f"{source}: unknown option {key!r} (nearest: {nearest(key, names)})")
        try:
            return cls(**{field.name: field.metadata["default"] for field in dataclasses.fields(cls)} | values)
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from None


def flag(name: str) -> str:
    """An option as it is spelled on the command line."""
    return "--" + name.replace("_", "-")


def _parser_of(field: dataclasses.Field[Any]) -> Callable[[str], Any]:
    kind, _ = _kind(field.type)

    def parse(text: str) -> Any:
        try:
            value: Any = kind(text)
        except ValueError:
            value = text  # of the wrong type, as the check below says
        if problem := _problem(field, value):
            raise argparse.ArgumentTypeError(problem)
        return value

    return parse


def _defaults(field: dataclasses.Field[Any], options: type[Options]) -> str:
    """The default and those of the recipes, as text for --help."""

    def words(value: Any) -> str:
        if value is None:
            return field.metadata["absent"]
        return {"True": "yes", "False": "no"}.get(str(value), str(value))

    recipes: dict[str, str] = {}  # by value, so that equal values are listed once
    for name, recipe in options.RECIPES.items():
        if field.name in recipe:
            recipes.setdefault(words(recipe[field.name]), name)
    return ", ".join([words(field.metadata["default"]), *(f"{value} for {name}" for value, name in recipes.items())])


def add_options(parser: argparse.ArgumentParser, options: type[Options], names: Container[str] | None = None) -> None:
    """Adds a command-line option for each field, or for `names`; options not given are absent from the namespace."""
    groups = {}
    # Each group begins with the class's own options; inherited ones come after them.
    fields = sorted(dataclasses.fields(options), key=lambda field: field.name not in vars(options)["__annotations__"])
    for field in fields:
        if names is not None and field.name not in names:
            continue
        kind, _ = _kind(field.type)
        choices, title = field.metadata["choices"], field.metadata["group"]
        arguments: dict[str, Any] = {"default": argparse.SUPPRESS}
        if kind is bool:
            arguments["action"] = argparse.BooleanOptionalAction
        else:
            arguments["type"] = _parser_of(field)
            arguments["metavar"] = "{" + ",".join(choices) + "}" if choices else KINDS[kind].split()[-1].upper()
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        help_text = f"{field.metadata['help']} (default: {_defaults(field, options)})".replace("%", "%%")
        groups[title].add_argument(flag(field.name), help=help_text, **arguments)
