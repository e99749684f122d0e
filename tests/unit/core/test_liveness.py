"""Heartbeats, and what their absence makes of a worker."""

from __future__ import annotations

import pytest

from corps.core.liveness import Hearing, judge
from corps.model.command import Launch
from corps.model.instance import InstanceState
from corps.model.worker import WorkerState
from corps.wire import worker as wire
from tests.support.build import AMaster, a_report

LIVE = InstanceState.RUNNING


@pytest.mark.parametrize(
    ("silence_s", "state"),
    [
        (0.0, WorkerState.READY),
        (1.2, WorkerState.READY),  # late, not lost
        (1.3, WorkerState.SUSPECT),
        (2.0, WorkerState.SUSPECT),
        (2.1, WorkerState.LOST),
    ],
)
def test_one_lost_beat_makes_suspect_and_two_make_lost(silence_s: float, state: str) -> None:
    assert judge(silence_s, beat_s=1.0) is state


def test_two_lost_heartbeats_make_a_worker_lost() -> None:
    master = AMaster()
    master.join()
    master.wait(2.2)
    assert master.worker().state is WorkerState.LOST
    assert master.events("w1")[-1] == "worker-lost"


def test_one_lost_heartbeat_makes_it_suspect_and_it_gets_no_new_work() -> None:
    master = AMaster()
    master.join()
    instance = master.launch_running(master.join("w2"), "w2")
    master.hear(master.core.session_of("w2") or 0, wire.Heartbeat(seq=1))
    master.wait(1.4)
    assert master.worker().state is WorkerState.SUSPECT
    master.order(Launch(artifact="web", on="w1"), id="order-on-w1")
    (reply,) = master.replies("order-on-w1")
    assert "worker 'w1' is suspect" in str(reply)
    assert master.instance(instance.id).is_live


def test_a_suspect_that_is_heard_again_is_ready() -> None:
    master = AMaster()
    session = master.join()
    master.wait(1.4)
    master.hear(session, wire.Heartbeat(seq=1))
    assert master.worker().state is WorkerState.READY


def test_a_closed_connection_makes_suspect_at_once() -> None:
    master = AMaster()
    session = master.join()
    master.close(session)
    assert master.worker().state is WorkerState.SUSPECT
    assert master.core.session_of("w1") is None


def test_a_closed_connection_costs_nothing_when_the_worker_is_back_in_time() -> None:
    master = AMaster()
    session = master.join()
    instance = master.launch_running(session)
    master.close(session)
    master.wait(0.5)
    master.join(reports=[a_report(instance.key)])
    master.wait(1.0)
    assert master.worker().state is WorkerState.READY
    assert master.instance(instance.id).state is LIVE
    assert "unknown" not in master.events(instance.id)


def test_instances_of_a_lost_worker_are_unknown_until_it_is_back() -> None:
    master = AMaster()
    session = master.join()
    instance = master.launch_running(session)
    master.wait(2.2)
    assert master.instance(instance.id).state is InstanceState.UNKNOWN
    master.rejoin(session, reports=[a_report(instance.key)])
    assert master.instance(instance.id).state is LIVE
    assert master.events(instance.id)[-2:] == ["unknown", "found"]


def test_a_heartbeat_of_a_lost_worker_is_answered_rejoin_once() -> None:
    master = AMaster()
    session = master.join()
    master.wait(2.2)
    master.hear(session, wire.Heartbeat(seq=1), wire.Heartbeat(seq=2))
    assert master.sent(wire.Rejoin) == [wire.Rejoin()]
    assert master.worker().state is WorkerState.LOST
    master.rejoin(session)
    assert master.worker().state is WorkerState.READY
    assert master.closed() == []


def test_a_master_that_was_itself_paused_blames_no_worker() -> None:
    master = AMaster()
    session = master.join()
    master.pause(60.0)
    assert master.worker().state is WorkerState.READY
    master.wait(1.0)
    master.hear(session, wire.Heartbeat(seq=1))
    master.pause(60.0)
    master.wait(1.0)
    assert master.worker().state is WorkerState.READY


def test_a_master_that_begins_gives_every_worker_two_beats() -> None:
    master = AMaster()
    master.join()
    instance = master.launch_running(master.core.session_of("w1") or 0)
    master.now += 3600.0
    master.restart()
    assert master.worker().state is WorkerState.SUSPECT
    master.wait(1.9)
    assert master.instance(instance.id).state is LIVE
    master.wait(0.3)
    assert master.worker().state is WorkerState.LOST


def test_a_lost_worker_stays_lost_over_a_restart_of_the_master() -> None:
    master = AMaster()
    master.join()
    master.wait(2.2)
    master.restart()
    assert master.worker().state is WorkerState.LOST
    assert master.core.silence_s("w1") is None


def test_silence_is_counted_on_a_clock_that_stops_while_we_sleep() -> None:
    hearing = Hearing(now=0.0)
    hearing.hear("w1")
    hearing.wake(0.4)
    assert hearing.silence_s("w1") == pytest.approx(0.4)
    hearing.wake(10.4)  # no step for ten seconds: we were not there to hear
    assert hearing.silence_s("w1") == pytest.approx(0.4)
    assert hearing.silence_s("w2") is None


def test_the_longest_silent_is_judged_first_and_the_ready_not_at_all() -> None:
    hearing = Hearing(now=0.0)
    for step, name in enumerate(("w1", "w2", "w3")):
        hearing.wake(step * 0.4)
        hearing.hear(name)
    for step in range(3, 7):
        hearing.wake(step * 0.4)
    assert hearing.silent(1.0) == [
        ("w1", WorkerState.LOST),
        ("w2", WorkerState.SUSPECT),
        ("w3", WorkerState.SUSPECT),
    ]
    hearing.hear("w2")
    hearing.forget("w1")
    assert hearing.silent(1.0) == [("w3", WorkerState.SUSPECT)]
