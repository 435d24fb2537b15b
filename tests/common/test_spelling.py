"""The nearest name corrects typing errors, and dissimilar names are not proposed."""

import dataclasses
import difflib

from hypothesis import given
from hypothesis import strategies as st

from accel.common.spelling import nearest
from accel.training import TrainingConfig

NAMES = [field.name for field in dataclasses.fields(TrainingConfig)]


def without_a_letter(name):
    return {name[:at] + name[at + 1 :] for at in range(len(name))}


@given(st.sampled_from(sorted(name for name in NAMES if len(name) >= 5)), st.data())
def test_one_typing_error_is_understood(name, data):
    at = data.draw(st.integers(0, len(name) - 1))
    word = name[:at] + name[at + 1 :]
    assert word in without_a_letter(nearest(word, NAMES))  # "ecoder" may be the encoder or the decoder


@given(st.text("abcde", max_size=6), st.lists(st.text("abcde", max_size=6), max_size=6), st.floats(0, 1))
def test_no_name_is_more_alike_and_none_is_less_alike_than_asked(word, names, likeness):
    ratios = [difflib.SequenceMatcher(None, name, word).ratio() for name in names]
    found = nearest(word, names, likeness)
    if found is None:
        assert max(ratios, default=-1) < likeness
    else:
        assert ratios[names.index(found)] == max(ratios) >= likeness


def test_without_names_there_is_none():
    assert nearest("word", []) is None


def test_initials_stand_for_a_name_of_several_words():
    names = ["--flip", "--learning-rate", "--batch-size", "--lr-x"]
    assert nearest("--lr", names[:3]) == "--learning-rate"
    assert nearest("--bs", names) == "--batch-size"
    assert nearest("bs", ["batch_size", "b"]) == "batch_size"
