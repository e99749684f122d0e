"""A part of `make crash` that fits into every run of the tests."""

from __future__ import annotations

import pytest

from tests.crash.cases import CASES, Case, Victim
from tests.crash.harness import run_all

STRIDE = 12
MASTER_STRIDE = 60  # it makes some five times as many system calls
KILLS_MIN = 80


def _stride(case: Case) -> int:
    return MASTER_STRIDE if case.victims[0] is Victim.MASTER else STRIDE


@pytest.mark.timeout(900)
def test_whatever_is_killed_at_whatever_call_nothing_is_lost_or_doubled() -> None:
    lines: list[str] = []
    tallies = run_all(CASES, _stride, jobs=2, report=lines.append)
    assert sum(tally.kills for tally in tallies) >= KILLS_MIN, lines
    assert all(tally.is_clean for tally in tallies), [tally.stories for tally in tallies]
