"""The last lines of output: bounded, shared between the streams, and whole where they can be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from corps.model.instance import LogLine
from corps.worker.layout import Layout
from corps.worker.tail import CHARS_MAX, LINE_CHARS_MAX, LINES_MAX, last_lines

KEY = "web.1#1"


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(tmp_path)
    made.make(KEY)
    return made


def write(layout: Layout, out: bytes = b"", err: bytes = b"") -> tuple[LogLine, ...]:
    Path(layout.log(KEY, "stdout")).write_bytes(out)
    Path(layout.log(KEY, "stderr")).write_bytes(err)
    return last_lines(layout, KEY)


def texts(lines: tuple[LogLine, ...], stream: str) -> list[str]:
    return [line.text for line in lines if line.stream == stream]


def numbered(count: int, width: int = 3) -> bytes:
    return b"".join(b"%0*d\n" % (width, number) for number in range(count))


def test_of_no_log_and_of_empty_ones_there_is_nothing(layout: Layout) -> None:
    assert last_lines(layout, KEY) == ()
    assert last_lines(layout, "web.2#1") == ()
    assert write(layout) == ()


def test_a_line_without_an_end_counts_and_an_empty_one_too(layout: Layout) -> None:
    lines = write(layout, b"one\n\ntwo", b"oops\n")
    assert [(line.stream, line.text) for line in lines] == [
        ("stdout", "one"),
        ("stdout", ""),
        ("stdout", "two"),
        ("stderr", "oops"),
    ]


def test_each_stream_has_half_and_what_the_other_leaves(layout: Layout) -> None:
    half = [f"{number:03d}" for number in range(90, 100)]
    lines = write(layout, numbered(100), numbered(100))
    assert texts(lines, "stdout") == texts(lines, "stderr") == half
    lines = write(layout, numbered(100), b"oops\n")
    assert texts(lines, "stdout") == [f"{number:03d}" for number in range(81, 100)]
    assert texts(lines, "stderr") == ["oops"]
    lines = write(layout, b"ready\n", numbered(100))
    assert texts(lines, "stdout") == ["ready"] and len(texts(lines, "stderr")) == LINES_MAX - 1
    assert len(write(layout, b"", numbered(100))) == LINES_MAX


def test_all_of_it_has_a_limit(layout: Layout) -> None:
    for out, err in ((numbered(1_000, 200), numbered(1_000, 300)), (b"x" * 9_000, b"y" * 9_000)):
        lines = write(layout, out, err)
        assert lines and len(lines) <= LINES_MAX
        assert sum(len(line.text) for line in lines) <= CHARS_MAX
        assert texts(lines, "stdout") and texts(lines, "stderr")


def test_a_long_line_is_cut_with_a_marker(layout: Layout) -> None:
    (line,) = write(layout, b"a" * 3_000 + b"\n")
    assert line.text == "a" * (LINE_CHARS_MAX - 40) + " [cut: 2540 characters]"
    (line,) = write(layout, b"b" * 100_000 + b"the end\n")
    assert line.text.startswith("[...] b") and line.text.endswith("the end")
    (line,) = write(layout, b"first " * 2_000 + b"\nsecond\n")
    assert line.text == "second", "the beginning of the one before was not read"


def test_bytes_that_are_no_text_and_holes_are_told_apart(layout: Layout) -> None:
    (line,) = write(layout, b"\xff\x1b[31m\xc3\xa4")
    assert line.text == "\\xff\x1b[31m\xe4", "the one who shows it escapes it"
    path = Path(layout.log(KEY, "stdout"))
    with path.open("wb") as file:
        file.truncate(1 << 20)
    with path.open("ab") as file:
        file.write(b"after the hole\n")
    assert texts(last_lines(layout, KEY), "stdout") == ["after the hole"]
    with path.open("wb") as file:
        file.truncate(1 << 20)
    assert last_lines(layout, KEY) == ()


def test_what_an_app_put_in_place_of_its_log_is_not_read(layout: Layout, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret\n")
    out, err = Path(layout.log(KEY, "stdout")), Path(layout.log(KEY, "stderr"))
    out.symlink_to(secret)
    os.mkfifo(err)
    assert last_lines(layout, KEY) == ()
