from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corps.cli.escape import (
    LINE_MAX_BYTES,
    PrefixedLines,
    TerminalText,
    escape,
    escape_json,
    escape_line,
)

OBEYED = [
    "\x1b",
    "\x07",
    "\x08",
    "\r",
    "\x00",
    "\x7f",
    "\x85",
    "\x9b",
    "\u061c",
    "\u200b",
    "\u200d",
    "\u200e",
    "\u2028",
    "\u202e",
    "\u2066",
    "\u2069",
    "\ufeff",
    "\udc9b",
    "\U000e0041",
]


@pytest.mark.parametrize("character", OBEYED)
def test_what_a_terminal_obeys_is_spelled_out(character: str) -> None:
    for spell in (escape, escape_line, escape_json):
        spelled = spell(f"a{character}b")
        assert character not in spelled
        assert spelled.isprintable()
        assert spelled.startswith("a\\") and spelled.endswith("b")


def test_spelling() -> None:
    assert escape("\x1b[31mred\r") == "\\x1b[31mred\\r"
    assert escape("\x9b\u202e\U000e0041") == "\\u009b\\u202e\\U000e0041"
    assert escape("a\tb\nc") == "a\tb\nc"
    assert escape_line("a\tb\nc") == "a\\tb\\nc"


def test_ordinary_text_of_any_language_is_kept() -> None:
    text = "naïve 東京\u3000日本 Привет \u00a0 שלום 1 €"
    assert escape(text) == text
    assert escape_line(text) == text


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_escaped_json_is_the_same_json(text: str) -> None:
    spelled = escape_json(json.dumps({"a": text}, ensure_ascii=False))
    assert json.loads(spelled) == {"a": text}
    assert all(character.isprintable() or character.isspace() for character in spelled)


def test_invalid_utf8_is_shown_byte_by_byte() -> None:
    text = TerminalText()
    assert text.feed(b"a\xff\xfeb\n") == b"a\\xff\\xfeb\n"


@given(st.binary(), st.lists(st.integers(1, 4)))
def test_terminal_text_does_not_depend_on_the_pieces(data: bytes, sizes: list[int]) -> None:
    whole = TerminalText()
    expected = whole.feed(data) + whole.end()
    pieces, rest = TerminalText(), data
    shown = b""
    for size in sizes:
        shown += pieces.feed(rest[:size])
        rest = rest[size:]
    shown += pieces.feed(rest) + pieces.end()
    assert shown == expected
    assert all(byte in (9, 10) or byte >= 32 for byte in shown)


def test_half_a_character_is_held_until_the_rest_comes() -> None:
    text = TerminalText()
    assert text.feed("é".encode()[:1]) == b""
    assert text.feed("é".encode()[1:]) == "é".encode()
    assert text.feed(b"\xc3") == b""
    assert text.end() == b"\\xc3"


def test_a_long_line_is_cut_with_a_marker_and_the_next_is_whole() -> None:
    text = TerminalText()
    shown = b"".join(text.feed(b"x" * 1000) for _ in range(1000))
    shown += text.feed(b"\nnext\n") + text.end()
    first, second, rest = shown.split(b"\n")
    assert first == b"x" * LINE_MAX_BYTES + b" [cut: %d bytes of this line]" % (
        1_000_000 - LINE_MAX_BYTES
    )
    assert second == b"next"
    assert rest == b""


def test_an_unfinished_long_line_ends_with_the_marker() -> None:
    text = TerminalText()
    shown = text.feed(b"x" * (LINE_MAX_BYTES + 5)) + text.end()
    assert shown.endswith(b" [cut: 5 bytes of this line]")


def test_prefixed_lines_are_whole() -> None:
    lines = PrefixedLines(b"web.1 | ")
    assert lines.feed(b"a\nb") == b"web.1 | a\n"
    assert lines.feed(b"c\n") == b"web.1 | bc\n"
    assert lines.end() == b""
    assert lines.feed(b"rest") == b""
    assert lines.end() == b"web.1 | rest\n"


def test_prefixed_lines_hold_no_more_than_a_line() -> None:
    lines = PrefixedLines(b"> ")
    shown = lines.feed(b"x" * (LINE_MAX_BYTES + 1))
    assert shown == b"> " + b"x" * (LINE_MAX_BYTES + 1) + b"\n"
