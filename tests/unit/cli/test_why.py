"""A sentence a line: with its time, wrapped where a terminal is narrow, safe to look at."""

from __future__ import annotations

import pytest

from corps.cli.why import LINE_MAX, TIME_CHARS, lines_of
from corps.model.view import SentenceView

AT = "2025-06-15T15:06:40.000Z"
LONG = SentenceView(at=AT, text=" ".join(f"word{number}" for number in range(40)))


def test_a_pipe_gets_one_line_each_and_columns_that_stay() -> None:
    assert lines_of(SentenceView(at=AT, text="died"), None) == [f"{AT}  died"]
    assert lines_of(SentenceView(at=None, text="died"), None) == [" " * (TIME_CHARS + 2) + "died"]
    assert len(lines_of(LONG, None)) == 1


@pytest.mark.parametrize("columns", [1, 20, 40, 69, 70, 80, 200])
def test_a_terminal_gets_lines_that_fit(columns: int) -> None:
    for sentence in (LONG, SentenceView(at=None, text="  stdout| " + "x" * 300)):
        lines = lines_of(sentence, columns)
        assert max(map(len, lines)) <= max(columns, 20)
        told = "".join(line.replace(AT[: max(columns, 20)], "").strip() for line in lines)
        whole = sentence.text.replace(" ", "")
        assert told.replace(" ", "").startswith(whole[: LINE_MAX // 2])


def test_a_wide_terminal_keeps_the_time_in_a_column_of_its_own() -> None:
    first, second, *_ = lines_of(LONG, 80)
    assert first.startswith(f"{AT}  word0") and second.startswith(" " * (TIME_CHARS + 2) + "word")
    first, second, *_ = lines_of(LONG, 40)
    assert first == AT and second.startswith("  word0")


def test_output_is_cut_with_a_marker_unless_all_is_wanted() -> None:
    quoted = SentenceView(at=None, text="  stderr| " + "y" * 400)
    (line,) = lines_of(quoted, None)
    assert line.endswith(f"y [cut: {410 - LINE_MAX} characters]")
    (line,) = lines_of(quoted, 80, is_wide=True)
    assert line.endswith("y" * 400)


def test_what_would_rule_a_terminal_is_spelled_out() -> None:
    (line,) = lines_of(SentenceView(at=None, text="  stdout| \x1b[2J\n\u202e"), 80)
    assert line.endswith(r"stdout| \x1b[2J\n\u202e")
