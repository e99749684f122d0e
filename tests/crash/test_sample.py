"""A part of `make crash` that fits into every run of the tests, and that it can fail at all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.crash.cases import CASES, Ledger, Promise, Tally
from tests.crash.table import table
from tests.support.cluster import ROOT

STRIDE = 10  # every 10th call, in each case from another one on
SAMPLE_MAX_S = 900


@pytest.mark.timeout(SAMPLE_MAX_S)
def test_every_10th_kill_of_every_case_loses_nothing() -> None:
    argv = [sys.executable, "-m", "tests.crash", "--stride", str(STRIDE)]
    done = subprocess.run(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=SAMPLE_MAX_S)
    assert done.returncode == 0, done.stdout
    words = [line.split(maxsplit=3) for line in done.stdout.splitlines()]
    broken = {row[3]: int(row[0]) for row in words if row[1:2] == ["of"] and int(row[2]) > 0}
    assert broken == {str(promise): 0 for promise in Promise}, done.stdout
    kills = next(int(row[0]) for row in words if row[1:3] == ["kills", "in"])
    assert kills >= len(CASES), "each case is killed at least once"


def test_one_broken_promise_fails_the_whole_run() -> None:
    kept, broken = Tally(kills=1), Tally(kills=1)
    kept.hold(Promise.APP_LOST, True, "web.1")
    broken.hold(Promise.APP_LOST, False, "web.2")
    assert table([(CASES[0], kept)], []) == 0
    assert table([(CASES[0], kept), (CASES[1], broken)], []) == 1
    assert broken.stories == ["apps lost: web.2"]
    assert table([(CASES[0], kept)], [CASES[1]]) == 1, "a case that could not be judged is no pass"
    assert table([], []) == 1, "nothing done proves nothing"


def test_a_ledger_tells_who_ran_twice_and_who_was_signalled(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    assert ledger.pids("w.1#1") == []
    ledger.path.write_text("w.1#1 10\nw.2#1 11\nsignal:2 10\nw.1#1 12\n")
    assert ledger.pids("w.1#1") == [10, 12]
    assert ledger.runs() == {"w.1#1": 2, "w.2#1": 1}
    assert ledger.strays() == ["signal:2"]
