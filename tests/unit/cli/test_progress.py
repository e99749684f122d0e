"""Rates, the time left, and what is shown of many transfers at once."""

from __future__ import annotations

import pytest

from corps.cli.pace import WINDOW_S, Pace
from corps.cli.progress import SHOWN_MAX, Lap, Lines, Paces, summary, total

MIB = 1 << 20


def test_a_pace_is_that_of_the_last_seconds() -> None:
    pace = Pace()
    pace.add(0.0, 50 * MIB)  # was there before
    assert (pace.rate_bytes_s(), pace.left_s(100 * MIB)) == (None, None)
    for second in range(1, 21):
        pace.add(float(second), 50 * MIB + second * MIB)
    assert pace.rate_bytes_s() == MIB
    assert pace.left_s(100 * MIB) == 30.0
    for second in range(21, 31):
        pace.add(float(second), 70 * MIB + (second - 20) * 3 * MIB)
    assert pace.rate_bytes_s() == 3 * MIB
    assert pace.left_s(100 * MIB) == 0.0


def test_what_stalls_has_no_time_left_that_anybody_knows() -> None:
    pace = Pace()
    pace.add(0.0, 0)
    pace.add(1.0, MIB)
    pace.add(1.0 + WINDOW_S, MIB)
    pace.add(1.5 + WINDOW_S, MIB)
    assert pace.rate_bytes_s() == 0.0
    assert pace.left_s(2 * MIB) is None


def test_what_begins_anew_has_a_pace_of_its_own() -> None:
    pace = Pace()
    pace.add(0.0, 0)
    pace.add(1.0, 9 * MIB)
    pace.add(2.0, 0)
    assert pace.rate_bytes_s() is None
    pace.add(3.0, MIB)
    assert pace.rate_bytes_s() == MIB


def test_a_transfer_in_words() -> None:
    paces = Paces()
    lap = Lap("w1", 3 * MIB, 12 * MIB, peers_bytes=MIB)
    paces.add(0.0, [lap._replace(done_bytes=0)])
    assert paces.describe(lap._replace(done_bytes=0, peers_bytes=0)) == "0 B of 12.0 MiB (0 %)"
    paces.add(2.0, [lap])
    assert paces.describe(lap) == (
        "3.0 MiB of 12.0 MiB (25 %), 1.0 MiB from other workers, 1.5 MiB/s, 6.000 s left"
    )
    paces.add(2.0 + WINDOW_S, [lap])
    paces.add(3.0 + WINDOW_S, [lap])
    assert paces.describe(lap).endswith(", nothing comes")
    assert paces.describe(lap._replace(done_bytes=12 * MIB, peers_bytes=0)) == (
        "12.0 MiB of 12.0 MiB (100 %)"
    )
    assert paces.describe(lap._replace(result="installed")) == "installed"
    empty = Lap("w2", 0, 0)
    paces.add(9.0, [empty])
    assert paces.describe(empty) == "0 B of 0 B"


def test_of_many_those_are_shown_that_have_the_most_before_them() -> None:
    laps = [Lap(f"w{n}", n, 100) for n in range(40)]
    laps[0] = laps[0]._replace(result="installed")
    shown = summary(laps)
    assert len(shown) == SHOWN_MAX
    assert shown[0] == total(laps) == Lap("all 40", sum(range(40)), 4_000)
    assert [lap.title for lap in shown[1:3]] == ["w1", "w2"]
    assert total([lap._replace(result="x") for lap in laps]).result == "40 over"
    assert total([]).result is None


def test_lines_are_few_and_the_end_of_each_is_told_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = Lines()
    laps = [Lap("w1", 0, MIB), Lap("w2", 0, MIB)]
    for done in range(100):
        lines.show([lap._replace(done_bytes=done) for lap in laps])
    said = capsys.readouterr().err.splitlines()
    assert said == ["w1: 0 B of 1.0 MiB (0 %)", "w2: 0 B of 1.0 MiB (0 %)"]
    for _ in range(3):
        lines.show([laps[0], laps[1]._replace(result="installed")])
    assert capsys.readouterr().err.splitlines() == ["w2: installed"]
