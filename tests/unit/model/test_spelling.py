"""Odd names: one spelling each, and back to the same bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corps.errors import Invalid
from corps.model.artifact import LinkEntry, check_link, check_path
from corps.model.spelling import is_spelled, on_disk, spell


@given(st.binary(max_size=40))
def test_every_name_of_a_disk_comes_back_byte_for_byte(data: bytes) -> None:
    raw = data.replace(b"\0", b"0").decode("utf-8", "surrogateescape")
    spelled = spell(raw)
    assert on_disk(spelled) == raw
    assert is_spelled(spelled)
    spelled.encode()
    assert not any(ord(character) < 32 for character in spelled)


@given(st.text(max_size=20))
def test_what_no_disk_could_give_is_no_spelling(text: str) -> None:
    if is_spelled(text):
        assert spell(on_disk(text)) == text


@pytest.mark.parametrize(
    "path",
    ["a\\b", "\\x41", "\\x2f", "a\\x2fb", "\\x2e\\x2e", "\\x00", "\\xc3\\xa9", "\\xFF", "\\x5",
     "a\nb", "\\x2e\\x2e/x", "\\xff" * 256, "x\\", "../\\xff", "\\xff/../x"],
)  # fmt: skip
def test_a_path_that_is_spelled_otherwise_is_refused(path: str) -> None:
    """Two spellings of one name would be two entries for one file, or a way out."""
    with pytest.raises(Invalid, match="bad path"):
        check_path(path)


@pytest.mark.parametrize("path", ["\\xff", "a\\x0ab/\\x5c", "\\xff" * 255, "\\x7f.txt"])
def test_a_spelled_path_is_fine(path: str) -> None:
    assert check_path(path) == path
    assert check_link(LinkEntry(path="x", target=path)).target == path
