"""States that were set back or cloned, at the worker and at the master."""

from __future__ import annotations

from typing import Any

import pytest

from corps.core import events as ev
from corps.core.records import Meta, Record
from corps.model.instance import InstanceState, SpawnFailed, Vanished
from corps.model.worker import WorkerState
from corps.wire import worker as wire
from tests.support.build import (
    CLUSTER,
    HEARTBEAT_S,
    NOW,
    AMaster,
    AWorker,
    a_death_report,
    a_hello,
    a_ready_worker,
    a_report,
    told,
)

LAST = wire.Inventory(reports=(), artifacts=(), is_last=True)
FIRST: dict[str, Any] = {"process_id": "p1", "incarnation": 5}
NEXT: dict[str, Any] = {"process_id": "p2", "incarnation": 6}
OLDER: dict[str, Any] = {"process_id": "p3", "incarnation": 4}


def test_a_successor_that_never_got_a_launch_gets_it_again() -> None:
    master = AMaster()
    first = master.join(**FIRST)
    (instance,) = master.launch()
    master.close(first)
    second = master.join(**NEXT)
    assert [said.key for said in master.sent(wire.Start, second)] == [instance.key]
    assert "set-back" not in master.events("w1")


@pytest.mark.parametrize(
    "facts",
    [
        OLDER,
        {"process_id": "p3", "incarnation": 5},  # from a copy that was made in that life
        {**NEXT, "is_copy": True},
    ],
)
def test_what_a_worker_that_was_set_back_does_not_list_may_have_run(facts: dict[str, Any]) -> None:
    master = AMaster()
    first = master.join(**FIRST)
    (instance,) = master.launch()
    master.close(first)
    second = master.join(**facts)
    assert master.sent(wire.Start, second) == []
    death = master.instance(instance.id).death
    assert isinstance(death, Vanished) and death.may_have_run
    assert "set back" in death.reason
    assert "set-back" in master.events("w1")
    assert [said.is_noted for said in master.sent(wire.Told, second)] == [True]
    assert master.worker().state is WorkerState.READY
    (again,) = master.launch()
    assert [said.key for said in master.sent(wire.Start, second)] == [again.key]


def test_to_miss_what_was_acknowledged_proves_that_the_rest_may_have_run_too() -> None:
    master = AMaster()
    first = master.join(**FIRST)
    seen = master.launch_running(first)
    (unseen,) = master.launch()
    master.close(first)
    second = master.join(**NEXT)
    assert master.sent(wire.Start, second) == []
    for instance in (seen, unseen):
        assert isinstance(master.instance(instance.id).death, Vanished)
    assert "set-back" in master.events("w1")


def test_what_was_seen_running_was_not_never_started_whatever_an_old_journal_says() -> None:
    master = AMaster()
    session = master.join(**FIRST)
    instance = master.launch_running(session)
    failed = SpawnFailed(stage="never_executed", errno=0, message="never")
    master.hear(session, wire.Changed(reports=(a_death_report(instance.key, failed),)))
    assert isinstance(master.instance(instance.id).death, Vanished)


def test_a_second_process_waits_until_the_first_is_gone() -> None:
    master = AMaster()
    first = master.join(**FIRST)
    instance = master.launch_running(first)
    second = master.join(**NEXT)
    assert master.core.session_of("w1") == first
    assert master.worker().state is WorkerState.READY
    master.close(first)
    assert len(master.sent(wire.Rejoin, second)) == 1
    master.rejoin(second, reports=[a_report(instance.key)], **NEXT)
    assert master.core.session_of("w1") == second
    assert master.instance(instance.id).state is InstanceState.RUNNING


def test_a_first_process_that_is_silent_is_replaced_after_two_beats() -> None:
    master = AMaster()
    master.join(**FIRST)
    second = master.join(**NEXT)
    for _ in range(5):
        master.wait(HEARTBEAT_S / 2)
        master.hear(second, wire.Heartbeat(seq=1))
    assert len(master.sent(wire.Rejoin, second)) == 1
    master.rejoin(second, **NEXT)
    assert master.core.session_of("w1") == second


def test_two_that_are_both_heard_are_clones_and_get_no_work() -> None:
    master = AMaster()
    first = master.join(**FIRST)
    instance = master.launch_running(first)
    second = master.join(**NEXT, boot_id="boot-2")
    _both_beat(master, first, second, 2.0)
    worker = master.worker()
    assert worker.state is WorkerState.SUSPECT
    assert "10.0.0.1:4001 and 10.0.0.1:4002 both claim to be w1" in worker.reason
    assert master.core.session_of("w1") is None
    for session in (first, second):
        assert ["both claim" in said.text for said in master.sent(wire.Told, session)] == [True]
    _both_beat(master, first, second, 10.0)
    assert master.worker().state is WorkerState.SUSPECT
    assert master.instance(instance.id).state is InstanceState.RUNNING, "nothing is known of it"
    assert master.closed() == []
    assert master.events("w1").count("worker-suspect") == 1


@pytest.mark.parametrize("ends_by", ["close", "silence"])
def test_when_the_clone_is_gone_the_first_goes_on_as_if_nothing_had_been(ends_by: str) -> None:
    master = AMaster()
    first = master.join(**FIRST)
    instance = master.launch_running(first)
    second = master.join(**NEXT, boot_id="boot-2")
    _both_beat(master, first, second, 2.0)
    if ends_by == "close":
        master.close(second)
    for _ in range(6):
        master.wait(HEARTBEAT_S / 2)
        master.hear(first, wire.Heartbeat(seq=1))
    assert len(master.sent(wire.Rejoin, first)) == 1
    master.rejoin(first, reports=[a_report(instance.key)], **FIRST)
    assert master.core.session_of("w1") == first
    assert master.worker().state is WorkerState.READY
    assert master.worker().reason == ""
    assert master.instance(instance.id).state is InstanceState.RUNNING


def test_when_the_first_is_gone_nobody_can_say_what_it_ran() -> None:
    master = AMaster()
    first = master.join(**FIRST)
    instance = master.launch_running(first)
    second = master.join(**NEXT, boot_id="boot-2")
    _both_beat(master, first, second, 2.0)
    master.close(first)
    master.rejoin(second, **NEXT, boot_id="boot-2")
    death = master.instance(instance.id).death
    assert isinstance(death, Vanished)
    assert "was cloned" in death.reason, "its machine was not rebooted"
    assert "cloned" in master.events("w1")


def test_a_clone_that_connects_again_is_still_a_clone() -> None:
    master = AMaster()
    first = master.join(**FIRST)
    second = master.join(**NEXT)
    _both_beat(master, first, second, 2.0)
    third = master.join(**FIRST)
    assert master.closed() == [(first, "the worker connected again")]
    assert master.worker().state is WorkerState.SUSPECT
    master.close(second)
    assert len(master.sent(wire.Rejoin, third)) == 1


def test_clones_that_are_both_silent_are_lost() -> None:
    master = AMaster()
    first = master.join(**FIRST)
    second = master.join(**NEXT)
    _both_beat(master, first, second, 2.0)
    master.wait(2 * HEARTBEAT_S + 0.2)
    assert master.worker().state is WorkerState.LOST


def test_the_same_process_connected_again_is_no_clone() -> None:
    master = AMaster()
    first = master.join(**FIRST)
    second = master.join(**FIRST)
    assert master.closed() == [(first, "the worker connected again")]
    assert master.core.session_of("w1") == second


# ---- the master


def test_a_master_that_was_set_back_speaks_to_nobody_who_knows_more() -> None:
    older, worker = _set_back(accepts_rollback=False)
    session = older.join(**worker)
    (refused,) = older.sent(wire.Refused, session)
    assert refused.code == "conflict" and "--accept-rollback" in refused.message
    older.join(**worker)
    assert older.events("master") == ["master-set-back"], "said once"
    assert older.core.session_of("w1") is None


def test_told_to_go_on_it_rises_above_all_and_sends_nothing_again() -> None:
    older, worker = _set_back(accepts_rollback=True)
    (instance,) = older.core.cluster.live_on("w1")  # as the copy has it: sent, not acknowledged
    session = older.join(**worker)
    (welcome,) = older.sent(wire.Welcome, session)
    assert welcome.epoch > worker["epoch"] and welcome.seq > worker["heard_seq"]
    assert older.sent(wire.Start, session) == []
    death = older.instance(instance.id).death
    assert isinstance(death, Vanished) and death.may_have_run
    assert "this master was set back" in death.reason
    heard = {"epoch": welcome.epoch, "life": welcome.life, "heard_seq": welcome.seq}
    older.close(session)
    again = older.join(**{**worker, **heard})
    assert older.core.session_of("w1") == again


def test_a_worker_that_heard_an_earlier_life_is_welcome() -> None:
    master = AMaster()
    master.join()
    (welcome,) = master.sent(wire.Welcome)
    heard: dict[str, Any] = {"epoch": welcome.epoch, "life": welcome.life}
    for _ in range(3):
        master.restart()
    session = master.join(**heard)
    assert master.core.session_of("w1") == session


def _set_back(*, accepts_rollback: bool) -> tuple[AMaster, dict[str, Any]]:
    """A master that began from a copy made before its worker's last words, and the worker."""
    master = AMaster()
    session = master.join(**FIRST)
    (instance,) = master.launch()
    copied: list[Record] = [
        master.core.cluster.meta,
        *master.core.cluster.workers.values(),
        *master.core.cluster.artifacts.values(),
        *master.core.cluster.apps.values(),
        *master.core.cluster.instances.values(),
        *master.core.cluster.commands.values(),
        *master.core.cluster.events,
    ]
    master.hear(session, wire.Changed(reports=(a_death_report(instance.key),)))
    (forget,) = master.sent(wire.Forget)
    (welcome,) = master.sent(wire.Welcome)
    older = AMaster(copied, accepts_rollback=accepts_rollback)
    meta = older.core.cluster.meta
    assert isinstance(meta, Meta) and meta.epoch == welcome.epoch + 1
    heard = {"epoch": welcome.epoch, "life": welcome.life, "heard_seq": forget.seq}
    return older, {**FIRST, **heard}


def _both_beat(master: AMaster, first: int, second: int, duration_s: float) -> None:
    for _ in range(round(duration_s / (HEARTBEAT_S / 2))):
        master.wait(HEARTBEAT_S / 2)
        master.hear(first, wire.Heartbeat(seq=1))
        master.hear(second, wire.Heartbeat(seq=1))


# ---- the worker


@pytest.mark.parametrize(
    "said",
    [
        {"epoch": 6, "life": "life-6", "seq": 99},
        {"epoch": 7, "life": "life-x", "seq": 99},
        {"epoch": 7, "life": "life-7", "seq": 39},
    ],
)
def test_a_worker_leaves_a_master_that_knows_less_than_it_has_heard(said: dict[str, Any]) -> None:
    worker = AWorker(epoch=7, life="life-7", heard_seq=40)
    worker.keeper_lists()
    worker.step(ev.Linked())
    effects = worker.obey(wire.Welcome(cluster=CLUSTER, heartbeat_s=HEARTBEAT_S, **said))
    (left,) = effects
    assert isinstance(left, ev.Leave) and left.code == "conflict"
    assert "--accept-rollback" in left.message


def test_a_worker_remembers_the_newest_epoch_and_tells_what_it_was_told_to_forget() -> None:
    worker = AWorker(epoch=7, life="life-7", heard_seq=40)
    worker.keeper_lists()
    worker.step(ev.Linked())
    welcome = wire.Welcome(cluster=CLUSTER, epoch=8, life="life-8", seq=50, heartbeat_s=HEARTBEAT_S)
    assert worker.obey(welcome)[0] == ev.Adopt(CLUSTER, epoch=8, life="life-8", heard_seq=50)
    worker.obey(wire.Forget(keys=("web.1#1",), seq=60))
    worker.step(ev.Unlinked())
    (hello,) = told(worker.step(ev.Linked()), wire.Hello)
    assert (hello.epoch, hello.life, hello.heard_seq, hello.now) == (8, "life-8", 60, NOW)


def test_a_copy_says_so_until_the_master_has_noted_it() -> None:
    worker = a_ready_worker(is_copy=True)
    worker.step(ev.Unlinked())
    assert told(worker.step(ev.Linked()), wire.Hello)[0].is_copy
    worker.welcome()
    (adopt,) = worker.obey(wire.Told(text="set back", is_noted=True))
    assert isinstance(adopt, ev.Adopt) and not adopt.is_copy
    assert worker.obey(wire.Told(text="set back", is_noted=True)) == []
    worker.step(ev.Unlinked())
    assert not told(worker.step(ev.Linked()), wire.Hello)[0].is_copy


def test_the_hello_of_an_old_worker_is_as_good_as_ever() -> None:
    master = AMaster()
    session = master.open()
    master.hear(session, a_hello(), LAST)
    assert master.core.session_of("w1") == session
