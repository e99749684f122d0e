"""Plots in plain text, also on a terminal of 20 columns that knows ASCII only."""

from __future__ import annotations

import pytest

from corps.cli.plot import has_blocks, plot, terminal_width


def text(value: float) -> str:
    return f"{value:g} %"


def test_a_slope_on_twenty_columns() -> None:
    series = [(float(number), float(number)) for number in range(19)]
    assert plot("CPU", series, text, 20, blocks=False) == [
        "CPU: largest 18 %, l",
        "|                ###",
        "|            #######",
        "|       ############",
        "| ##################",
        "+-------------------",
    ]


def test_eighths_of_a_block_where_there_are_some() -> None:
    lines = plot("CPU", [(0.0, 1.0), (1.0, 1.0), (2.0, 16.0), (3.0, 32.0)], text, 5, blocks=True)
    assert lines == ["CPU: ", "│   █", "│   █", "│  ██", "│ ▁██", "└────"]


@pytest.mark.parametrize("width", [20, 33, 80, 200])
@pytest.mark.parametrize("count", [1, 2, 19, 720])
def test_no_line_is_longer_than_the_terminal_and_the_peak_is_always_shown(
    width: int, count: int
) -> None:
    series = [(5.0 * number, 1.0 + (number == count // 2)) for number in range(count)]
    lines = plot("RSS", series, text, width, blocks=True)
    assert max(map(len, lines)) <= width
    assert lines[0].startswith("RSS: ")
    if count > 2:
        assert "█" in lines[1]


def test_gaps_stay_gaps_and_little_is_not_nothing() -> None:
    series = [(0.0, 0.001), (1.0, 0.001), (2.0, None), (3.0, 100.0), (4.0, 0.0)]
    lines = plot("CPU", series, text, 7, blocks=False)
    assert [line[2:] for line in lines[1:-1]] == ["   #", "   #", "   #", "## #"]


def test_what_never_changed_is_one_line_and_what_nobody_knows_is_said() -> None:
    assert plot("fds", [(0.0, 3.0), (1.0, 3.0)], text, 80, blocks=True) == ["fds: 3 % all the time"]
    assert plot("fds", [(0.0, None)], text, 80, blocks=True) == ["fds: nothing is known"]
    assert plot("fds", [], text, 80, blocks=True) == ["fds: nothing is known"]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"LANG": "C.UTF-8", "TERM": "xterm"}, True),
        ({"LC_ALL": "en_US.utf8"}, True),
        ({"LC_ALL": "C", "LANG": "de_DE.UTF-8"}, False),
        ({"LC_CTYPE": "de_DE.UTF-8", "LANG": "C"}, True),
        ({}, False),
        ({"LANG": "de_DE.ISO-8859-1"}, False),
        ({"LANG": "C.UTF-8", "TERM": "dumb"}, False),
    ],
)
def test_blocks_are_for_a_locale_and_a_terminal_that_have_them(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: bool
) -> None:
    for name in ("LC_ALL", "LC_CTYPE", "LANG", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert has_blocks() is expected


@pytest.mark.parametrize(("columns", "width"), [("20", 20), ("3", 20), ("77", 77), ("5000", 200)])
def test_the_width_is_the_terminals_within_reason(
    monkeypatch: pytest.MonkeyPatch, columns: str, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert terminal_width() == width
