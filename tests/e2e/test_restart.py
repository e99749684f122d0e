"""Restart policies with real programs: each attempt once, in order, and none after a stop."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from corps.config import Settings
from corps.model.terms import Restart
from corps.model.view import InstanceView
from tests.support import programs
from tests.support.cluster import Cluster
from tests.support.waiting import until

LONG_S = 60.0  # for a few delays, on a machine that does much else


@pytest.fixture
def looper(tmp_path: Path) -> Path:
    return programs.build("looper", tmp_path / "programs")


def test_what_fails_three_times_runs_in_its_fourth_attempt(
    alone: Cluster, looper: Path, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    alone.copy(looper)
    (first,) = alone.launch("looper", str(ledger), "3", "1", restart=Restart.ON_FAILURE)
    row = _running(alone, first.id, 4)
    assert (row.failures, row.death, row.not_before) == (3, None, None)
    assert _lines(ledger) == [f"{first.id}#{attempt}" for attempt in range(1, 5)]
    story = [event.message for event in alone.client.events(after=-100) if event.kind == "restart"]
    assert [text.partition(" in ")[0] for text in story] == ["attempt 2", "attempt 3", "attempt 4"]
    assert story[-1].endswith("on-failure, failure 3 in a row")
    logs = alone.settings.worker_dir("w1") / "instances" / first.id
    assert [(logs / f"{n}.stdout").read_text() for n in range(1, 5)] == [
        f"attempt {n}\n" for n in range(1, 5)
    ]
    (stopped,) = alone.client.stop((first.id,))
    assert stopped.death is not None and stopped.death.cause == "stop"
    alone.client.remove((first.id,))
    assert not logs.exists(), "the files of every attempt are gone"


def test_always_starts_again_what_exits_0_and_on_failure_does_not(
    alone: Cluster, looper: Path, tmp_path: Path
) -> None:
    alone.copy(looper)
    one, two = tmp_path / "one", tmp_path / "two"
    (content,) = alone.launch("looper", str(one), "1", "0", restart=Restart.ON_FAILURE)
    (eager,) = alone.launch("looper", str(two), "1", "0", restart=Restart.ALWAYS)
    _running(alone, eager.id, 2)
    assert _lines(two) == [f"{eager.id}#1", f"{eager.id}#2"]
    row = alone.get(content.id)
    assert (row.state, row.attempt, _lines(one)) == ("dead", 1, [f"{content.id}#1"])


def test_a_signal_restarts_it_and_on_failure_with_a_number_gives_up(
    alone: Cluster, looper: Path, tmp_path: Path
) -> None:
    alone.copy(looper)
    words = ("launch", "looper", "--restart", "on-failure:2", "-o", "json")
    (made,) = json.loads(alone.corps(*words, "--", str(tmp_path / "ledger"), "0", "0").stdout)
    assert made["restart"] == "on-failure:2"
    alone.client.signal((made["id"],), signal.SIGTERM)
    _running(alone, made["id"], 2)
    alone.client.signal((made["id"],), signal.SIGTERM)
    dead = alone.wait_dead(made["id"])
    assert (dead.attempt, dead.failures) == (2, 2)
    assert dead.death is not None and dead.death.signal == signal.SIGTERM


def test_a_stop_while_it_waits_ends_it_at_once_and_for_good(
    alone: Cluster, looper: Path, tmp_path: Path
) -> None:
    alone.copy(looper)
    ledger = tmp_path / "ledger"
    (made,) = alone.launch("looper", str(ledger), "1000", "3", restart=Restart.ALWAYS)
    row = until(lambda: _waiting(alone, made.id, 3), LONG_S)
    assert row is not None
    assert (row.state, row.pid) == ("pending", None)
    assert row.death is not None and (row.death.kind, row.death.code) == ("exited", 3)
    (stopped,) = alone.client.stop((made.id,))  # three seconds at least are left
    assert stopped.state == "dead" and stopped.death is not None
    assert stopped.death.message.startswith("exited 3; no further attempt: stop by ")
    story = alone.corps("why", made.id).stdout
    assert "attempt 4 in " in story and "no further attempt: stop by " in story
    begun = _lines(ledger)
    # Another one that is begun now comes to its fourth attempt later than this one would have.
    (other,) = alone.launch("looper", str(tmp_path / "other"), "3", "1", restart=Restart.ALWAYS)
    _running(alone, other.id, 4)
    assert _lines(ledger) == begun == [f"{made.id}#{attempt}" for attempt in (1, 2, 3)]
    assert alone.get(made.id).state == "dead"


def test_a_directory_that_is_missing_at_first_heals_with_the_next_attempt(
    alone: Cluster, looper: Path, tmp_path: Path
) -> None:
    alone.copy(looper)
    where = tmp_path / "later"
    words = ("launch", "looper", "--restart", "always", "--cwd", str(where))
    done = alone.corps(*words, "--", str(tmp_path / "ledger"), "0", "0", check=False)
    assert done.returncode == 1
    assert "attempt 2 in " in done.stderr and str(where) in done.stderr
    where.mkdir()
    (row,) = alone.client.instances(("looper",))
    until(lambda: alone.get(row.id).state == "running", LONG_S)
    assert alone.get(row.id).attempt > 1


def test_kill_9_of_worker_and_master_in_a_crash_loop_runs_each_attempt_once(
    alone: Cluster, looper: Path, tmp_path: Path
) -> None:
    ledger, count = tmp_path / "ledger", 30
    alone.copy(looper)
    made = alone.launch("looper", str(ledger), "3", "1", restart=Restart.ON_FAILURE, count=count)
    until(lambda: len(_lines(ledger)) > count + 5, LONG_S)
    alone.kill("w1")
    alone.kill("master")
    alone.start_master()
    alone.start_worker("w1")
    until(lambda: len(_lines(ledger)) > 2 * count + 5, LONG_S)
    alone.kill("master")
    alone.start_master()
    until(lambda: len(_lines(ledger)) > 3 * count + 5, LONG_S)
    alone.kill("w1")
    alone.start_worker("w1")
    for instance in made:
        _running(alone, instance.id, 4)
    runs = Counter(_lines(ledger))
    wanted = {f"{instance.id}#{attempt}" for instance in made for attempt in range(1, 5)}
    assert set(runs) == wanted
    assert set(runs.values()) == {1}, "one attempt ran twice"
    order = [line for line in _lines(ledger) if line.startswith(f"{made[0].id}#")]
    assert order == sorted(order), "one attempt began before the last one"


def test_a_crash_loop_does_not_outrun_corps_down(looper: Path, tmp_path: Path) -> None:
    settings = Settings(dir=str(tmp_path / "state"))
    ledger = tmp_path / "ledger"
    try:
        _corps(settings, "up", "--detach", "--heartbeat", "0.25")
        _corps(settings, "copy", str(looper))
        policy = ("--restart", "always", "--count", "20")
        _corps(settings, "launch", "looper", *policy, "--", str(ledger), "1000", "1")
        until(lambda: len(_lines(ledger)) > 30, LONG_S)
    finally:
        _corps(settings, "down")
    assert Cluster(tmp_path).processes() == []
    begun = _lines(ledger)
    assert set(Counter(begun).values()) == {1}
    try:
        _corps(settings, "up", "--detach", "--heartbeat", "0.25")
        rows = json.loads(_corps(settings, "ps", "-a", "-o", "json"))
        assert [row["state"] for row in rows] == ["dead"] * 20
        assert all(row["not_before"] is None for row in rows)
    finally:
        _corps(settings, "down")
    assert _lines(ledger) == begun


def _running(alone: Cluster, id: str, attempt: int) -> InstanceView:
    """Wait until it runs in this attempt."""

    def look() -> InstanceView | None:
        row = alone.get(id)
        return row if (row.attempt, row.state) == (attempt, "running") else None

    found = until(look, LONG_S)
    assert found is not None
    return found


def _waiting(alone: Cluster, id: str, attempt: int) -> InstanceView | None:
    row = alone.get(id)
    return row if row.attempt == attempt and row.not_before is not None else None


def _lines(ledger: Path) -> list[str]:
    return ledger.read_text().splitlines() if ledger.exists() else []


def _corps(settings: Settings, *words: str) -> str:
    command = [sys.executable, "-m", "corps.cli.main", "--dir", settings.dir, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout
