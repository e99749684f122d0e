"""The wall clock stepped by ten years, forth and back: nothing that runs ends, or is late."""

from __future__ import annotations

import datetime
import os
import signal
import threading
from pathlib import Path

import pytest

from corps.cli.moment import unix
from corps.client import Client
from corps.model.view import InstanceView
from tests.support import compiled
from tests.support.cluster import Cluster
from tests.support.machine import SteppedClock
from tests.support.waiting import until

pytestmark = pytest.mark.root
TEN_YEARS_S = 315_576_000
SLACK_S = 60.0


@pytest.mark.parametrize("step_s", [TEN_YEARS_S, -TEN_YEARS_S])
def test_a_step_of_ten_years_loses_no_worker_and_ends_no_grace(tmp_path: Path, step_s: int) -> None:
    clock = SteppedClock(tmp_path / "clock")
    made = Cluster(tmp_path)
    try:
        made.start_master("--heartbeat", "5", prefix=clock.prefix("master"))
        made.start_worker("w1", prefix=clock.prefix("w1"))
        made.wait_state(w1="ready")
        made.copy(compiled.compile_c(tmp_path / "c", "stubborn", compiled.IGNORE_SIGINT))
        made.copy("/bin/sleep")
        stays = made.launch_one("sleep", "1000")
        stubborn = made.launch_one("stubborn")
        until(lambda: made.log_of(stubborn.id) == "ready\n")
        stopping = threading.Thread(target=_stop, args=(made, stubborn.id))
        stopping.start()
        until(lambda: made.get(stubborn.id).state == "stopping")
        clock.step_s(step_s)
        dead = made.wait_dead(stubborn.id)
        assert dead.death is not None and dead.death.signal == signal.SIGKILL
        assert "the grace of 3 s was over" in dead.death.message
        stopping.join(20)
        sent = [event for event in made.client.events() if event.subject == stubborn.id]
        asked = next(unix(event.at) for event in sent if event.kind == "stop")
        died = next(unix(event.at) for event in sent if event.kind == "died")
        assert died - asked >= 2.9, "not before its time"
        _check_times(dead)
        later = made.launch_one("sleep", "1000")
        assert made.get(stays.id).pid == stays.pid
        for instance in (stays, later):
            os.kill(instance.pid or 0, signal.SIGTERM)
            _check_times(made.wait_dead(instance.id))
        kinds = {event.kind for event in made.client.events()}
        assert not kinds & {"worker-lost", "worker-suspect", "unknown", "clock"}
    finally:
        clock.step_s(0)
        made.end()


def test_daemons_that_begin_before_and_after_a_step_tell_one_story(tmp_path: Path) -> None:
    """Master before it, worker after it; then a keeper and a master that begin after a step."""
    clock = SteppedClock(tmp_path / "clock")
    made = Cluster(tmp_path)
    try:
        made.start_master(prefix=clock.prefix("master"))
        clock.step_s(-TEN_YEARS_S)
        made.start_worker("w1", prefix=clock.prefix("w1"))
        made.wait_state(w1="ready")
        _check_event(made, "clock", f"{-TEN_YEARS_S:+d} s from this master's"[:6])
        made.copy("/bin/sleep")
        first = made.launch_one("sleep", "1000")
        assert _is_now(first.started_at)
        clock.step_s(TEN_YEARS_S)
        keeper = made.keeper_pid("w1")
        assert keeper is not None
        os.kill(keeper, signal.SIGKILL)
        until(lambda: made.keeper_pid("w1") not in (None, keeper))
        second = made.launch_one("sleep", "1000")
        made.kill("master")
        made.start_master(prefix=clock.prefix("master-again"))
        made.wait_state(w1="ready")
        for instance in (first, second):
            assert _is_now(made.get(instance.id).started_at)
            ran_s = made.get(instance.id).ran_s
            assert ran_s is not None and 0 <= ran_s < SLACK_S
            os.kill(instance.pid or 0, signal.SIGTERM)
            _check_times(made.wait_dead(instance.id))
        for event in made.client.events():
            assert _is_now(event.at), event
        assert made.corps("events", "--since", "10m", "-o", "json").stdout.count('"kind"') > 5
    finally:
        clock.step_s(0)
        made.end()


def _stop(made: Cluster, id: str) -> None:
    with Client(made.settings) as client:
        client.stop((id,), 3.0)


def _check_times(row: InstanceView) -> None:
    """It began and ended now, in this order."""
    assert row.started_at is not None and row.ended_at is not None
    assert _is_now(row.started_at) and _is_now(row.ended_at), row
    assert 0 <= unix(row.ended_at) - unix(row.started_at) < SLACK_S
    assert row.ran_s is not None and row.ran_s >= 0


def _is_now(at: str | None) -> bool:
    """By the machine's own clock, which nobody stepped."""
    now = datetime.datetime.now(tz=datetime.UTC).timestamp()
    return at is not None and abs(unix(at) - now) < SLACK_S


def _check_event(made: Cluster, kind: str, text: str) -> None:
    found = [event.message for event in made.client.events() if event.kind == kind]
    assert found and all(text in message for message in found), found
