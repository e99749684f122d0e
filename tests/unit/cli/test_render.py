from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from typing import NamedTuple

import pytest

from corps.cli import render
from corps.cli.render import Column, Listing, Output
from tests.unit.cli.terminal import Terminal

ROWS = [{"id": "web.1", "state": "dead: exited 3"}, {"id": "web.10", "state": "sleeping"}]
LISTING: Listing[dict[str, str]] = Listing(
    lambda row: row["id"],
    (
        Column("INSTANCE", lambda row: row["id"]),
        Column("MORE", lambda row: "more", is_wide=True),
        Column("STATE", lambda row: row["state"]),
    ),
)
DRAW = """
from corps.cli.render import Output, show
from tests.unit.cli.test_render import LISTING, ROWS
show(ROWS + [{{"id": "\\x1b[31mweb\\r\\n\\u202e", "state": "x" * 50}}], LISTING, Output.{output})
"""


def test_a_piped_table_is_plain_and_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    render.show(ROWS, LISTING, Output.TABLE)
    assert capsys.readouterr().out == (
        "INSTANCE  STATE\nweb.1     dead: exited 3\nweb.10    sleeping\n"
    )


def test_wide_has_the_wide_columns(capsys: pytest.CaptureFixture[str]) -> None:
    render.show(ROWS, LISTING, Output.WIDE)
    assert capsys.readouterr().out.splitlines()[1] == "web.1     more  dead: exited 3"


def test_an_empty_table_has_a_head(capsys: pytest.CaptureFixture[str]) -> None:
    render.show([], LISTING, Output.TABLE)
    assert capsys.readouterr().out == "INSTANCE  STATE\n"


def test_json_jsonl_and_names(capsys: pytest.CaptureFixture[str]) -> None:
    render.show(ROWS, LISTING, Output.JSON)
    assert json.loads(capsys.readouterr().out) == ROWS
    render.show(ROWS, LISTING, Output.JSONL)
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == ROWS
    render.show(ROWS, LISTING, Output.NAME)
    assert capsys.readouterr().out == "web.1\nweb.10\n"


def test_cells_are_one_line_whatever_is_in_them(capsys: pytest.CaptureFixture[str]) -> None:
    render.show([{"id": "a\nb", "state": "\x1b[31m\x07"}], LISTING, Output.TABLE)
    assert capsys.readouterr().out.splitlines()[1] == "a\\nb      \\x1b[31m\\x07"


def test_notes_and_errors_are_one_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    render.error("no\nway\x1b")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "corps: no\\nway\\x1b\n")


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (None, "-"),
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1024**2 - 1, "1.0 MiB"),
        (5 * 1024**3, "5.0 GiB"),
        (1 << 62, "4096.0 PiB"),
    ],
)
def test_sizes(size_bytes: int | None, text: str) -> None:
    assert render.size(size_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.0, "0.000 s"),
        (0.0124, "0.012 s"),
        (42.04, "42.0 s"),
        (60, "1m00s"),
        (187, "3m07s"),
        (18_120, "5h02m"),
        (86_400 * 12 + 3 * 3_600, "12d03h"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert render.duration(seconds) == text


@pytest.mark.parametrize("output", ["TABLE", "JSON", "JSONL", "NAME"])
def test_a_terminal_is_never_given_what_it_obeys(output: str) -> None:
    command = [sys.executable, "-c", DRAW.format(output=output)]
    with Terminal(command, {**os.environ, "NO_COLOR": "1"}) as terminal:
        assert terminal.wait() == 0
    text = terminal.seen.replace(b"\r\n", b"\n").decode()
    assert "\x1b" not in text
    assert "\r" not in text
    assert "\u202e" not in text
    assert "\\u202e" in text


def test_a_table_on_a_terminal_has_colour() -> None:
    command = [sys.executable, "-c", DRAW.format(output="TABLE")]
    env = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    with Terminal(command, env) as terminal:
        assert terminal.wait() == 0
    assert b"\x1b[31mdead: exited 3" in terminal.seen


@pytest.mark.parametrize("env", [{"LANG": "C"}, {"LC_ALL": "C"}, {"TERM": "dumb"}, {"TERM": ""}])
def test_a_narrow_poor_terminal_is_no_reason_to_fail(env: dict[str, str]) -> None:
    command = [sys.executable, "-c", DRAW.format(output="WIDE")]
    with Terminal(command, {**os.environ, **env}, columns=20) as terminal:
        assert terminal.wait() == 0
    assert b"Traceback" not in terminal.seen


def test_a_wide_table_is_the_terminals_to_wrap() -> None:
    command = [sys.executable, "-c", DRAW.format(output="WIDE")]
    with Terminal(command, {**os.environ, "NO_COLOR": "1"}, columns=20) as terminal:
        assert terminal.wait() == 0
    assert b"x" * 50 in terminal.seen


def test_a_full_disk_is_told_in_one_line() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "corps.cli.main", "version"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 1
    assert done.stderr == "corps: cannot write the output: no space left on device\n"


def test_csv_has_titles_empty_cells_and_no_formulas(capsys: pytest.CaptureFixture[str]) -> None:
    class Row(NamedTuple):
        text: str | None
        number: float | None

    rows = [
        Row("=cmd()", 1.5),
        Row("+1", -2.0),
        Row("-x", None),
        Row("@sum", 0),
        Row(None, 1e-9),
        Row('a "b", c', 3),
        Row("plain\nnext\r\x1b[2J", 4),
    ]
    listing: Listing[Row] = Listing(lambda row: "x", (), render.csv_fields("text number"))
    render.show(rows, listing, Output.CSV)
    shown = capsys.readouterr().out
    assert shown.splitlines() == [
        "text,number",
        "'=cmd(),1.5",
        "'+1,-2.0",
        "'-x,",
        "'@sum,0",
        ",1e-09",
        '"a ""b"", c",3',
        "plain\\nnext\\r\\x1b[2J,4",
    ]
    assert [row[0] for row in csv.reader(shown.splitlines())][6] == 'a "b", c'


def test_csv_reads_fields_of_what_hangs_below_a_row() -> None:
    listing: Listing[ListingHolder] = Listing(
        lambda row: "x", (), render.csv_fields("name columns", lambda row: row.below, "b_")
    )
    rows = [ListingHolder(None), ListingHolder(Listing(str, ()))]
    assert render.csv_text(rows, listing).splitlines()[:2] == ["b_name,b_columns", ","]


class ListingHolder(NamedTuple):
    below: Listing[object] | None
