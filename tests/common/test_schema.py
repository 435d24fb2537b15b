"""The type check of values from files: valid values pass, and errors name the place of invalid ones."""

from typing import Any, NotRequired, TypedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.common.schema import refuse_other


class Inner(TypedDict):
    """A dictionary with known keys."""

    count: int
    share: NotRequired[float | None]


class Outer(TypedDict):
    """A dictionary that contains another."""

    name: str
    inner: list[Inner]
    best: tuple[float, int]


KINDS = {
    int: st.integers(-(2**63), 2**64 - 1),
    float: st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**62), 2**62),
    str: st.text(),
    bool: st.booleans(),
    None: st.none(),
    list[int]: st.lists(st.integers(0, 9)),
    list[str]: st.lists(st.text()),
    list[bool]: st.lists(st.booleans()),
    dict[str, int]: st.dictionaries(st.text(), st.integers(0, 9)),
    tuple[float, int]: st.tuples(st.floats(0, 1), st.integers(0, 9)),
    list[int] | None: st.none() | st.lists(st.integers(0, 9)),
    Inner: st.fixed_dictionaries({"count": st.integers(0, 9)}, optional={"share": st.none() | st.floats(0, 1)}),
}


@given(st.data(), st.sampled_from(list(KINDS)))
def test_what_has_the_type_passes(data, kind):
    value = data.draw(KINDS[kind])
    refuse_other(value, kind, "file")
    refuse_other(value, Any, "file")
    refuse_other([value], list[kind], "file")
    refuse_other({"a": value}, dict[str, kind], "file")


WRONG = [
    (True, int, "file must be a whole number, got True"),
    (1, bool, "file must be true or false, got 1"),
    (2**64, int, "file must be a whole number within range, got 18446744073709551616"),
    (10**400, float, "file must be a number within range, got inf"),
    (float("nan"), float, "file must be a number within range, got nan"),
    ("1", float, "file must be a number, got '1'"),
    (None, str, "file must be text, got null"),
    ([], dict, "file must be a dictionary, got []"),
    ([0, 1, "2"], list[int], "file: [2] must be a whole number, got '2'"),
    ([0, 2**64, 1], list[int], "file: [1] must be a whole number within range, got 18446744073709551616"),
    ([True, 1], list[int], "file: [0] must be a whole number, got True"),
    ({"a": {"b": 1}}, dict[str, dict[str, str]], "file: a.b must be text, got 1"),
    ({1: 1}, dict[str, int], "file: a key must be text, got 1"),
    ({"\n": "x"}, dict[str, int], "file: \\n must be a whole number, got 'x'"),
    ("x" * 100, int, f"file must be a whole number, got '{'x' * 59}…"),
    ((1.0,), tuple[float, int], "file must be 2 values, got (1.0,)"),
    ("a", int | None, "file must be a whole number or null, got 'a'"),
    (["a"], list[int] | None, "file: [0] must be a whole number, got 'a'"),
    ({"name": "a", "best": (1.0, 2)}, Outer, "file lacks inner"),
    ({"name": "a", "best": (1.0, 2), "inner": [{"count": 1}, {}]}, Outer, "file: inner[1] lacks count"),
    ({"name": "a", "best": (1.0, 2.5), "inner": []}, Outer, "file: best[1] must be a whole number, got 2.5"),
    (object(), int, "file must be a whole number, got a object"),
]


@pytest.mark.parametrize(("value", "kind", "sentence"), WRONG, ids=[sentence[:60] for *_, sentence in WRONG])
def test_what_has_another_type_is_named_with_its_place(value, kind, sentence):
    with pytest.raises(ValueError, match="file") as refusal:
        refuse_other(value, kind, "file")
    assert str(refusal.value) == sentence


def test_further_keys_are_left_alone():
    refuse_other({"count": 1, "later": object()}, Inner, "file")
