"""The tables, their indexes, and how much history is kept."""

from __future__ import annotations

from random import Random

import msgspec
import pytest

from corps.core.cluster import (
    ATTEMPTS_KEPT,
    CERTIFICATES_KEPT,
    COMMANDS_KEPT,
    DEAD_KEPT,
    EVENTS_KEPT,
    TARGETS_KEPT,
    Cluster,
)
from corps.core.events import Drop
from corps.core.ledger import Ledger
from corps.core.master import MasterCore
from corps.core.records import App, CommandRecord, Event, Meta, Record, record_key
from corps.model.certificate import Certificate, certify
from corps.model.command import Instances, Kill, Remove
from corps.model.instance import Desired, Instance, InstanceState
from corps.wire import worker as wire
from tests.support.build import (
    HEARTBEAT_S,
    NOW,
    AMaster,
    a_dead_instance,
    a_death_report,
    a_worker,
    an_artifact,
    an_instance,
)

META = Meta(cluster="c-1", epoch=1)


def an_event(seq: int) -> Event:
    return Event(seq=seq, at=NOW, kind="died", subject="web.1", message="exited 0")


def a_done_command(id: str, done_at: float) -> CommandRecord:
    return CommandRecord(
        id=id,
        body="",
        command=Kill(targets=("web",)),
        by="root",
        at=done_at,
        done_at=done_at,
        result=Instances(instances=()),
    )


def trimmed(records: list[Record]) -> list[tuple[str, str]]:
    """What a master that begins with these drops."""
    core = MasterCore(Cluster(META, records), HEARTBEAT_S, NOW, Random(0))
    effects = core.begin()
    core.check()
    return [record_key(effect.record) for effect in effects if isinstance(effect, Drop)]


def test_every_kind_of_record_has_its_place() -> None:
    records: list[Record] = [
        Meta(cluster="c-2", epoch=7),
        a_worker(),
        an_artifact(workers=("w1",)),
        App(name="web", next_number=3),
        an_instance("web.1"),
        a_dead_instance("web.2"),
        a_done_command("order-0001", NOW),
        an_event(41),
    ]
    cluster = Cluster(META, records)
    cluster.check()
    assert cluster.meta.cluster == "c-2"
    assert [i.id for i in cluster.live_on("w1")] == ["web.1"]
    assert (cluster.live_count("w1"), cluster.live_count("w2")) == (1, 0)
    assert [i.id for i in cluster.of_app("web")] == ["web.1", "web.2"]
    assert cluster.of_app("api") == []
    assert cluster.next_seq == 42
    assert [record_key(record)[0] for record in records] == [
        "meta",
        "workers",
        "artifacts",
        "apps",
        "instances",
        "instances",
        "commands",
        "events",
    ]


def test_a_death_moves_an_instance_to_the_dead() -> None:
    cluster = Cluster(META, [a_worker(), App(name="web", next_number=2), an_instance()])
    cluster.put(a_dead_instance())
    cluster.check()
    assert cluster.live_on("w1") == []
    cluster.drop(cluster.instances["web.1"])
    cluster.check()
    assert cluster.of_app("web") == []


@pytest.mark.parametrize("record", [META, a_worker(), App(name="web", next_number=1)])
def test_some_records_are_never_dropped(record: Record) -> None:
    with pytest.raises(AssertionError, match="never dropped"):
        Cluster(META, [record]).drop(record)


@pytest.mark.parametrize(
    "wrong",
    [
        an_instance("web.9"),  # a number nobody gave out
        an_instance(worker="w9"),
        an_instance(pid=None),
        an_instance(desired=Desired.STOPPED),
        an_instance(state=InstanceState.DEAD),
        an_artifact(workers=("w9",)),
    ],
)
def test_check_finds_what_cannot_be(wrong: Record) -> None:
    cluster = Cluster(META, [a_worker(), App(name="web", next_number=5), wrong])
    with pytest.raises(AssertionError):
        cluster.check()


def test_of_too_many_events_the_oldest_go() -> None:
    assert trimmed([an_event(seq) for seq in range(1, EVENTS_KEPT + 3)]) == [
        ("events", f"{1:016d}"),
        ("events", f"{2:016d}"),
    ]


def test_of_too_many_commands_those_done_first_go() -> None:
    """By when they were done, not by id, nor by when they began."""
    commands = [a_done_command(f"c{n}", NOW + n) for n in range(COMMANDS_KEPT)]
    assert trimmed([*commands, a_done_command("d", NOW - 1)]) == [("commands", "d")]


def test_of_commands_with_very_many_targets_fewer_are_kept() -> None:
    many = tuple(f"web.{n}" for n in range(TARGETS_KEPT))
    large = [
        msgspec.structs.replace(a_done_command(f"c{n}", NOW + n), targets=many) for n in range(3)
    ]
    assert trimmed([*large]) == [("commands", "c0"), ("commands", "c1")]


def test_a_command_that_is_not_done_is_never_dropped() -> None:
    master = AMaster([a_done_command(f"c{n}", NOW + n) for n in range(COMMANDS_KEPT)])
    instance = master.launch_running(master.join())
    master.order(Kill(targets=(instance.id,)), id="order-waits")
    for _ in range(3):
        master.order(Kill(targets=("--all",)))
    assert "order-waits" in master.core.cluster.commands
    assert len(master.core.cluster.commands) >= COMMANDS_KEPT


def test_of_too_many_dead_those_that_died_first_go() -> None:
    records: list[Record] = [a_worker(), App(name="web", next_number=DEAD_KEPT + 5)]
    records += [a_dead_instance(f"web.{n}", state_since=NOW - n) for n in range(1, DEAD_KEPT + 3)]
    assert trimmed(records) == [
        ("instances", f"web.{DEAD_KEPT + 2}"),
        ("instances", f"web.{DEAD_KEPT + 1}"),
    ]


def test_what_goes_for_want_of_room_has_its_logs_deleted_and_nobody_waits_for_it() -> None:
    records: list[Record] = [a_worker(), App(name="web", next_number=DEAD_KEPT + 1)]
    dead = [a_dead_instance(f"web.{n}", state_since=NOW + n) for n in range(1, DEAD_KEPT + 1)]
    master = AMaster([*records, *dead])
    session = master.join()
    master.order(Remove(targets=("web.1",)), id="order-rm")
    master.said.clear()
    (instance,) = master.launch()
    master.hear(session, wire.Changed(reports=(a_death_report(instance.key),)))
    assert "web.1" not in master.core.cluster.instances
    assert master.sent(wire.Remove) == [wire.Remove(keys=("web.1#1",))]
    assert len(master.replies("order-rm")) == 1
    master.hear(session, wire.Removed(keys=("web.1#1",)))


def test_each_death_is_certified_and_goes_with_its_instance() -> None:
    master = AMaster()
    session = master.join()
    (instance,) = master.launch()
    master.hear(session, wire.Changed(reports=(a_death_report(instance.key),)))
    (certificate,) = master.core.cluster.certificates_of(instance.id)
    assert certificate == certify(master.core.cluster.instances[instance.id])
    master.restart()
    assert master.core.cluster.certificates_of(instance.id) == [certificate]
    session = master.join()
    master.order(Remove(targets=(instance.id,)))
    master.hear(session, wire.Removed(keys=(instance.key,)))
    assert master.core.cluster.certificates == {}


def test_of_too_many_certificates_the_oldest_go() -> None:
    count = CERTIFICATES_KEPT // ATTEMPTS_KEPT
    dead = [a_dead_instance(f"web.{number}", pid=100) for number in range(1, count + 2)]
    records: list[Record] = [a_worker(), App(name="web", next_number=count + 2), *dead]
    records += [deaths for one in dead[:-1] for deaths in certified(one, ATTEMPTS_KEPT)]
    records += certified(dead[-1], 2)
    assert trimmed(records) == [("certificates", "web.1#1"), ("certificates", "web.1#2")]


def test_one_that_dies_often_pushes_out_no_certificate_but_its_own() -> None:
    rare, often = a_dead_instance("web.1", pid=100), a_dead_instance("web.2", pid=100)
    records: list[Record] = [a_worker(), App(name="web", next_number=3), rare, often]
    records += certified(rare, 1)
    records += certified(often, ATTEMPTS_KEPT + 2)
    assert trimmed(records) == [("certificates", "web.2#1"), ("certificates", "web.2#2")]


def certified(dead: Instance, count: int) -> list[Certificate]:
    """So many deaths of one instance, oldest first."""
    return [
        certify(msgspec.structs.replace(dead, attempt=attempt)) for attempt in range(1, count + 1)
    ]


def test_nothing_is_said_before_what_it_rests_on_is_saved() -> None:
    ledger = Ledger(Cluster(META), NOW)
    ledger.send(1, wire.Rejoin())
    ledger.close(1, "over")
    ledger.save(a_worker())
    ledger.happened("worker-ready", "w1", "joined")
    assert [type(effect).__name__ for effect in ledger.take()] == ["Save", "Save", "Send", "Close"]
    assert ledger.take() == []
    assert not ledger.send_to("w1", wire.Rejoin())
