"""A progress bar is closed in every case."""

import sys
from types import SimpleNamespace

import pytest

from accel.common.progress import progress


class Bar:
    def __init__(self, **options):
        self.options, self.units, self.closed = options, 0, False

    def set_postfix_str(self, note, refresh):
        pass

    def update(self, count):
        self.units += count

    def close(self):
        self.closed = True


@pytest.fixture
def bars(monkeypatch):
    made = []
    module = SimpleNamespace(tqdm=lambda **options: made.append(Bar(**options)) or made[-1])
    monkeypatch.setitem(sys.modules, "tqdm", module)
    return made


def test_it_counts_and_ends(bars):
    with progress(3) as advance:
        advance(1)
        advance(2, "a note")
        assert not bars[0].closed
    assert bars[0].units == 3
    assert bars[0].closed


def test_it_is_closed_before_whatever_ended_it(bars):
    with pytest.raises(FloatingPointError, match="the loss"), progress(3):
        raise FloatingPointError("the loss")
    assert bars[0].closed


def test_without_tqdm_nothing_is_shown(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)  # as if it were not installed
    with progress(3) as advance:
        advance(1)
