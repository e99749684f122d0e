"""Who may join, who replaces whom, and whose words count."""

from __future__ import annotations

from typing import Any

import pytest

from corps.core.admission import WORKERS_MAX
from corps.core.lineage import LABELS_MAX
from corps.core.roster import ARTIFACTS_MAX, JOIN_MAX_S
from corps.model.instance import InstanceState, Vanished
from corps.model.worker import WorkerState
from corps.wire import worker as wire
from tests.support.build import NOW, AMaster, a_hello, a_report, a_worker

LAST = wire.Inventory(reports=(), artifacts=(), is_last=True)


def test_a_worker_is_usable_only_after_its_whole_inventory() -> None:
    master = AMaster()
    session = master.open()
    master.hear(session, a_hello())
    assert master.core.session_of("w1") is None
    assert [message.epoch for message in master.sent(wire.Welcome, session)] == [1]
    master.hear(session, wire.Inventory(reports=(), artifacts=(), is_last=False))
    assert master.core.session_of("w1") is None
    master.hear(session, LAST)
    assert master.core.session_of("w1") == session
    assert master.worker().state is WorkerState.READY
    assert master.worker().joined_at == NOW


def test_the_parts_of_an_inventory_are_taken_together() -> None:
    master = AMaster()
    first = master.launch_running(master.join())
    second = master.launch_running(master.core.session_of("w1") or 0)
    session = master.open()
    master.hear(session, a_hello())
    part = wire.Inventory(reports=(a_report(first.key),), artifacts=(), is_last=False)
    last = wire.Inventory(reports=(a_report(second.key),), artifacts=(), is_last=True)
    master.hear(session, part, last)
    assert master.instance(first.id).is_live
    assert master.instance(second.id).is_live


def test_each_start_of_the_master_is_an_epoch() -> None:
    master = AMaster()
    master.restart()
    master.join()
    assert [message.epoch for message in master.sent(wire.Welcome)] == [2]


def test_a_second_hello_closes_the_connection() -> None:
    master = AMaster()
    session = master.join()
    master.hear(session, a_hello())
    assert master.closed() == [(session, "a second hello")]
    assert master.core.session_of("w1") is None
    assert master.worker().state is WorkerState.SUSPECT


def test_anything_before_a_hello_closes_the_connection() -> None:
    master = AMaster()
    session = master.open()
    master.hear(session, wire.Heartbeat(seq=1), a_hello(), LAST)
    assert master.closed() == [(session, "no hello")]
    assert master.core.cluster.workers == {}


def test_an_inventory_without_a_hello_closes_the_connection() -> None:
    master = AMaster()
    session = master.open()
    master.hear(session, LAST)
    assert master.closed() == [(session, "an inventory without a hello")]


def test_what_a_closed_connection_still_says_is_not_heard() -> None:
    master = AMaster()
    session = master.join()
    master.hear(session, a_hello("w9"), LAST, a_hello("w9"), LAST)
    assert list(master.core.cluster.workers) == ["w1"]
    master.close(session)
    master.hear(session, wire.Heartbeat(seq=1))
    assert master.worker().state is WorkerState.SUSPECT


def test_messages_between_hello_and_inventory_are_no_reason_to_close() -> None:
    master = AMaster()
    session = master.open()
    master.hear(session, a_hello(), wire.Heartbeat(seq=1), LAST)
    assert master.closed() == []
    assert master.worker().state is WorkerState.READY


def test_who_does_not_join_is_closed_after_a_while() -> None:
    master = AMaster()
    silent, greeted = master.open(), master.open()
    master.hear(greeted, a_hello())
    joined = master.join("w2")
    for _ in range(round(JOIN_MAX_S) + 1):
        master.wait(1.0)
        master.hear(joined, wire.Heartbeat(seq=1))
    reason = f"not joined within {JOIN_MAX_S:g} s"
    assert master.closed() == [(silent, reason), (greeted, reason)]


def test_the_same_worker_on_a_new_connection_replaces_the_old_one() -> None:
    master = AMaster()
    old = master.join()
    instance = master.launch_running(old)
    new = master.join(reports=[a_report(instance.key)])
    assert master.closed() == [(old, "the worker connected again")]
    assert master.core.session_of("w1") == new
    assert master.worker().state is WorkerState.READY
    master.close(old)
    assert master.worker().state is WorkerState.READY
    assert master.instance(instance.id).is_live


def test_an_inventory_that_arrives_late_on_an_older_connection_does_not_count() -> None:
    master = AMaster()
    old = master.open()
    master.hear(old, a_hello())
    new = master.join()
    instance = master.launch_running(new)
    master.hear(old, LAST)  # made before the launch: it does not list the instance
    assert master.core.session_of("w1") == new
    assert master.instance(instance.id).state is InstanceState.RUNNING
    assert master.closed() == [(old, "the worker connected again since")]


def test_an_older_connection_does_not_count_even_when_the_newer_one_is_closed() -> None:
    master = AMaster()
    old = master.open()
    master.hear(old, a_hello())
    new = master.join()
    instance = master.launch_running(new)
    master.close(new)
    master.hear(old, LAST)
    assert master.core.session_of("w1") is None
    assert master.instance(instance.id).is_live


def test_the_same_name_with_another_state_is_refused_while_the_first_is_there() -> None:
    master = AMaster()
    first = master.join()
    second = master.join(state_id="state-other")
    (refused,) = master.sent(wire.Refused, second)
    assert refused.code == "conflict"
    assert "choose another --name" in refused.message
    assert master.closed() == [(second, refused.message)]
    assert master.core.session_of("w1") == first


def test_of_two_new_workers_with_one_name_the_first_to_join_has_it() -> None:
    master = AMaster()
    slow = master.open()
    master.hear(slow, a_hello(state_id="state-slow"))
    quick = master.join(state_id="state-quick")
    master.hear(slow, LAST)
    assert master.core.session_of("w1") == quick
    assert [message.code for message in master.sent(wire.Refused, slow)] == ["conflict"]


def test_the_name_of_a_lost_worker_may_be_taken_and_its_instances_vanish() -> None:
    master = AMaster()
    instance = master.launch_running(master.join())
    master.wait(2.2)
    master.join(state_id="state-other")
    dead = master.instance(instance.id)
    assert isinstance(dead.death, Vanished)
    assert not dead.death.may_have_run  # it was seen running
    assert "state directory" in (dead.message or "")
    assert master.worker().state is WorkerState.READY


@pytest.mark.parametrize(
    ("facts", "code", "says"),
    [
        ({"protocol": 2}, "protocol", "protocol 2"),
        ({"name": "W1"}, "invalid", "bad worker name"),
        ({"name": "all"}, "invalid", "every worker"),
        ({"cluster": "c-2"}, "conflict", "belongs to cluster c-2"),
        ({"state_id": ""}, "invalid", "state_id"),
        ({"boot_id": ""}, "invalid", "boot_id"),
        ({"version": "1" * 300}, "invalid", "over 200 characters"),
        ({"labels": {"a b": "c"}}, "invalid", "bad label"),
        ({"labels": {f"k{n}": "v" for n in range(LABELS_MAX + 1)}}, "invalid", "labels"),
        ({"cpu_count": -1}, "invalid", "processors"),
        ({"memory_bytes": 1 << 63}, "invalid", "processors or bytes"),
    ],
)
def test_a_worker_that_does_not_fit_is_refused_and_told_why(
    facts: dict[str, Any], code: str, says: str
) -> None:
    master = AMaster()
    session = master.join(**facts)
    (refused,) = master.sent(wire.Refused, session)
    assert refused.code == code
    assert says in refused.message
    assert [closed for closed, _ in master.closed()] == [session]
    assert master.core.cluster.workers == {}


def test_there_is_room_for_so_many_workers_and_no_more() -> None:
    master = AMaster([a_worker(f"w{n}") for n in range(WORKERS_MAX)])
    assert [m.code for m in master.sent(wire.Refused, master.join("w-new"))] == ["unavailable"]
    assert master.core.session_of("w1") is None
    assert master.join("w1") == master.core.session_of("w1")


def test_a_worker_of_no_cluster_yet_is_welcome() -> None:
    master = AMaster()
    session = master.join(cluster=None)
    assert [message.cluster for message in master.sent(wire.Welcome, session)] == ["c-1"]


def test_an_inventory_has_a_limit() -> None:
    master = AMaster()
    session = master.open()
    digests = tuple(f"{number:064x}" for number in range(ARTIFACTS_MAX + 1))
    master.hear(
        session, a_hello(), wire.Inventory(reports=(), artifacts=digests, is_last=False), LAST
    )
    assert [closed for closed, _ in master.closed()] == [session]
    assert master.core.cluster.workers == {}


def test_a_worker_keeps_the_day_it_first_joined() -> None:
    master = AMaster()
    master.close(master.join())
    master.wait(1.0)
    master.join(labels={"zone": "a"}, cpu_count=4)
    assert master.worker().joined_at == NOW
    assert master.worker().labels == {"zone": "a"}
    assert master.worker().state_since == master.now
