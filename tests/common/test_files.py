"""Files are replaced atomically, and invalid JSON is refused with the file's name."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.common.files import parse_json, read_json, write_whole, writing_whole
from tests.common.disk import files_limited_to


def test_no_path_is_replaced_before_every_file_is_written(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    write_whole({first: b"old", second: b"old"})
    with files_limited_to(5), pytest.raises(OSError, match="File too large"):
        write_whole({first: b"new", second: b"too long"})
    assert first.read_bytes() == second.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "second"]


def test_a_text_replaces_a_file_only_when_it_is_whole(tmp_path):
    path = tmp_path / "table"
    path.write_text("old")

    def stop_halfway():
        with writing_whole(path) as file:
            file.write("new")
            file.flush()
            assert path.read_text() == "old"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        stop_halfway()
    with files_limited_to(5), pytest.raises(OSError, match="File too large") as error, writing_whole(path) as file:
        file.write("too long")
    assert error.value.filename == str(path)
    assert path.read_text() == "old"
    with writing_whole(path) as file:
        file.write("a\nb \udce9")  # how Python represents a byte of a name that is not UTF-8
    assert path.read_bytes() == b"a\nb \xe9"
    assert [entry.name for entry in tmp_path.iterdir()] == ["table"]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    ),
    st.sampled_from([dict, list]),
)
def test_what_is_written_is_read_or_refused_for_its_kind(tmp_path_factory, value, kind):
    path = tmp_path_factory.mktemp("json") / "value.json"
    path.write_text(json.dumps(value))
    if type(value) is kind:
        assert read_json(path, kind) == value
    else:
        with pytest.raises(ValueError, match=r"^\S+value\.json must be a (list|dictionary), got "):
            read_json(path, kind)


@given(st.binary())
def test_bytes_are_json_or_refused_in_one_sentence(tmp_path_factory, content):
    try:
        expected = json.loads(content)
    except ValueError:
        with pytest.raises(ValueError, match=r"^some/file\.json is not a list of names: ") as refusal:
            parse_json(content, "some/file.json", "a list of names")
        assert "\n" not in str(refusal.value)
    else:
        assert repr(parse_json(content, "some/file.json")) == repr(expected)


def test_a_missing_file_is_empty_only_where_it_may_be_missing(tmp_path):
    assert read_json(tmp_path / "none.json", dict, may_be_missing=True) == {}
    assert read_json(tmp_path / "none.json", list, may_be_missing=True) == []
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none.json", dict)
