"""What a report changes, and what it may never change."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corps.core.accept import ASKS_MAX
from corps.core.records import App
from corps.model.command import Kill, Remove, Signal, Stop
from corps.model.instance import (
    Cause,
    Death,
    Evidence,
    Exited,
    InstanceState,
    Signaled,
    SpawnFailed,
    Usage,
    Vanished,
)
from corps.wire import worker as wire
from corps.wire.output import Note
from tests.support.build import (
    NOW,
    AMaster,
    a_death_report,
    a_report,
    delivered,
)

S = InstanceState
USAGE = Usage(cpu_user_s=1.0, cpu_system_s=0.5, max_rss_bytes=4096)


def test_a_report_moves_an_instance_and_tells_the_story() -> None:
    master = AMaster()
    session = master.join()
    (instance,) = master.launch()
    for state in (S.FETCHING, S.STARTING, S.RUNNING, S.STOPPING):
        master.hear(session, wire.Changed(reports=(a_report(instance.key, state),)))
        assert master.instance(instance.id).state is state
    master.hear(session, wire.Changed(reports=(a_death_report(instance.key, Exited(code=3)),)))
    assert master.instance(instance.id).state is S.DEAD
    assert master.events(instance.id) == ["placed", "fetching", "started", "died"]


def test_the_facts_of_a_report_are_kept() -> None:
    master = AMaster()
    session = master.join()
    (instance,) = master.launch()
    report = a_report(
        instance.key,
        received_at=NOW + 1,
        fetched_at=NOW + 2,
        forked_at=NOW + 3,
        started_at=NOW + 4,
        pid=4711,
    )
    master.hear(session, wire.Changed(reports=(report,)))
    dying = a_death_report(
        instance.key,
        Signaled(signal=9, core_dumped=False),
        ended_at=NOW + 9,
        delivered=delivered(9),
        usage=USAGE,
        pid=4711,
    )
    master.hear(session, wire.Changed(reports=(dying,)))
    known = master.instance(instance.id)
    timings = known.timings
    assert (timings.placed_at, timings.received_at, timings.fetched_at) == (NOW, NOW + 1, NOW + 2)
    assert (timings.forked_at, timings.executed_at) == (NOW + 3, NOW + 4)
    assert (known.pid, known.started_at, known.ended_at) == (4711, NOW + 4, NOW + 9)
    assert (known.usage, known.death) == (USAGE, Signaled(signal=9))


def test_an_attempt_has_one_pid_and_one_beginning() -> None:
    master = AMaster()
    session = master.join()
    instance = master.launch_running(session)
    later = a_report(instance.key, pid=4712, started_at=NOW + 60)
    master.hear(session, wire.Changed(reports=(later,)))
    known = master.instance(instance.id)
    assert (known.pid, known.started_at) == (100, NOW)


def test_a_death_that_is_durable_is_forgotten_by_the_worker() -> None:
    master = AMaster()
    session = master.join()
    (instance,) = master.launch()
    report = wire.Changed(reports=(a_death_report(instance.key),))
    master.hear(session, report)
    master.hear(session, report)  # its Forget may have been lost
    assert [said.keys for said in master.sent(wire.Forget)] == [(instance.key,)] * 2
    assert master.events(instance.id).count("died") == 1


def test_the_dead_stay_dead_and_the_first_word_counts() -> None:
    master = AMaster()
    session = master.join()
    (instance,) = master.launch()
    master.hear(session, wire.Changed(reports=(a_death_report(instance.key, Exited(code=3)),)))
    dead = master.instance(instance.id)
    master.hear(session, wire.Changed(reports=(a_death_report(instance.key, Exited(code=0)),)))
    master.hear(session, wire.Changed(reports=(a_report(instance.key),)))
    master.hear(session, wire.Changed(reports=(a_report(instance.key),)))
    assert master.instance(instance.id) == dead
    assert master.events("w1").count("foreign") == 1


def test_an_instance_never_moves_backwards() -> None:
    master = AMaster()
    session = master.join()
    instance = master.launch_running(session)
    for state in (S.PENDING, S.FETCHING, S.STARTING):
        master.hear(session, wire.Changed(reports=(a_report(instance.key, state),)))
    assert master.instance(instance.id) == instance


def test_a_worker_that_began_anew_does_not_undo_a_stop() -> None:
    master = AMaster()
    instance = master.launch_running(master.join())
    session = master.core.session_of("w1") or 0
    master.order(Stop(targets=(instance.id,), grace_s=5.0))
    master.hear(session, wire.Changed(reports=(a_report(instance.key, S.STOPPING),)))
    master.now += 2.0
    again = master.join(reports=[a_report(instance.key)])  # it forgot that it was stopping it
    assert master.instance(instance.id).state is S.STOPPING
    assert [end.grace_s for end in master.sent(wire.End, again)] == [3.0]


@given(st.lists(st.sampled_from([*S]), max_size=6), st.sampled_from([*S]))
def test_applying_a_report_twice_changes_nothing(before: list[S], state: S) -> None:
    master = AMaster()
    session = master.join()
    (instance,) = master.launch()
    for earlier in before:
        master.hear(session, wire.Changed(reports=(a_report(instance.key, earlier),)))
    report = wire.Changed(reports=(a_report(instance.key, state, usage=USAGE),))
    master.hear(session, report)
    once = master.instance(instance.id)
    events = list(master.core.cluster.events)
    master.hear(session, report)
    assert master.instance(instance.id) == once
    told_again = [e for e in list(master.core.cluster.events)[len(events) :] if e.kind != "foreign"]
    assert told_again == []


# ---- rejoining


def test_what_its_worker_never_got_is_sent_again() -> None:
    master = AMaster()
    master.close(master.join())
    session = master.join()
    (instance,) = master.launch()
    master.close(session)
    session = master.join()
    assert [start.key for start in master.sent(wire.Start, session)] == [instance.key]
    assert master.instance(instance.id).state is S.PENDING


def test_a_worker_that_began_anew_while_it_fetched_is_told_again() -> None:
    master = AMaster()
    session = master.join()
    (instance,) = master.launch()
    master.hear(session, wire.Changed(reports=(a_report(instance.key, S.FETCHING),)))
    session = master.join()
    assert [start.key for start in master.sent(wire.Start, session)] == [instance.key]
    master.hear(session, wire.Changed(reports=(a_report(instance.key),)))
    assert master.instance(instance.id).state is S.RUNNING


def test_what_a_lost_worker_never_got_is_sent_when_it_is_back() -> None:
    master = AMaster()
    session = master.join()
    (instance,) = master.launch()
    master.wait(2.2)
    assert master.instance(instance.id).state is S.UNKNOWN
    master.rejoin(session)
    assert master.instance(instance.id).state is S.PENDING
    assert len(master.sent(wire.Start, session)) == 2


def test_what_was_stopped_before_its_worker_got_it_never_starts() -> None:
    master = AMaster()
    master.join()
    (instance,) = master.launch()
    master.order(Stop(targets=(instance.id,)))
    session = master.join()
    dead = master.instance(instance.id)
    assert isinstance(dead.death, SpawnFailed)
    assert (dead.death.stage, dead.cause) == ("cancelled", Cause.STOP)
    assert master.sent(wire.Start, session) == []


def test_after_a_reboot_what_is_not_listed_is_gone() -> None:
    master = AMaster()
    session = master.join()
    seen = master.launch_running(session)
    (unseen,) = master.launch()
    session = master.join(boot_id="boot-2")
    dead, doubtful = master.instance(seen.id), master.instance(unseen.id)
    assert dead.death == Vanished(reason="the machine of w1 was rebooted")
    assert doubtful.death == Vanished(reason="the machine of w1 was rebooted", may_have_run=True)
    assert dead.message == "unknown how it ended: the machine of w1 was rebooted"
    assert doubtful.message is not None
    assert doubtful.message.endswith("it may have run")
    assert dead.cause is doubtful.cause is Cause.LOST
    assert master.sent(wire.Start, session) == []


def test_with_another_state_directory_what_is_not_listed_may_have_run() -> None:
    master = AMaster()
    master.join()
    (instance,) = master.launch()
    master.wait(2.2)
    session = master.join(state_id="state-other")
    assert master.instance(instance.id).death == Vanished(
        reason="the state directory of w1 is another one now",
        may_have_run=True,
        may_still_run=True,
    )
    assert master.sent(wire.Start, session) == []


def test_after_a_reboot_the_word_of_the_keeper_counts() -> None:
    master = AMaster()
    instance = master.launch_running(master.join())
    report = a_death_report(instance.key, Exited(code=3))
    master.join(reports=[report], boot_id="boot-2")
    assert master.instance(instance.id).death == Exited(code=3)


def test_what_was_running_and_is_not_listed_has_vanished() -> None:
    master = AMaster()
    instance = master.launch_running(master.join())
    session = master.join()
    assert master.instance(instance.id).death == Vanished(
        reason="w1 has no record of it any more: its state was set back",
        may_have_run=False,
        may_still_run=True,
    )
    assert master.sent(wire.Start, session) == []


def test_a_death_of_one_that_was_seen_running_is_no_doubt_whether_it_ran() -> None:
    master = AMaster()
    session = master.join()
    instance = master.launch_running(session)
    lost = Vanished(reason="machine rebooted", may_have_run=True)
    master.hear(session, wire.Changed(reports=(a_death_report(instance.key, lost),)))
    assert master.instance(instance.id).death == Vanished(reason="machine rebooted")


def test_an_end_that_was_asked_for_while_a_worker_was_lost_is_told_when_it_is_back() -> None:
    master = AMaster()
    instance = master.launch_running(master.join())
    master.wait(2.2)
    master.order(Kill(targets=(instance.id,)))
    session = master.join(reports=[a_report(instance.key)])
    assert master.sent(wire.End) == [wire.End(key=instance.key, signal=9, grace_s=None)]
    assert master.sent(wire.End, session) == master.sent(wire.End)


# ---- strangers


def test_a_report_counts_only_from_the_worker_of_the_instance() -> None:
    master = AMaster()
    instance = master.launch_running(master.join("w1"))
    other = master.join("w2")
    master.hear(other, wire.Changed(reports=(a_death_report(instance.key),)))
    assert master.instance(instance.id).is_live
    assert master.sent(wire.Forget) == []
    assert master.events("w2")[-1] == "foreign"


@pytest.mark.parametrize("key", ["nothing", "web.1", "web.1#", "#1", "web#1", "web.9#1", "web.1#2"])
def test_an_unknown_attempt_is_left_alone_and_said_once(key: str) -> None:
    master = AMaster()
    session = master.join()
    master.launch_running(session)
    before = dict(master.core.cluster.instances)
    for _ in range(3):
        master.hear(session, wire.Changed(reports=(a_report(key), a_death_report(key))))
    assert master.core.cluster.instances == before
    assert master.events("w1").count("foreign") == 1
    assert not master.sent(wire.Forget)
    assert not master.sent(wire.End)


def test_the_death_of_what_was_removed_here_need_not_be_told_again() -> None:
    """A power loss on the worker can bring back what it had been told to forget."""
    master = AMaster()
    session = master.join()
    instance = master.launch_running(session)
    report = wire.Changed(reports=(a_death_report(instance.key),))
    master.hear(session, report)
    master.order(Remove(targets=(instance.id,)))
    master.hear(session, wire.Removed(keys=(instance.key,)))
    master.said.clear()
    master.hear(session, report)
    assert [said.keys for said in master.sent(wire.Forget)] == [(instance.key,)]
    assert "foreign" not in master.events("w1")


def test_the_life_of_what_was_removed_here_is_strange() -> None:
    master = AMaster([App(name="web", next_number=5)])
    session = master.join()
    master.hear(session, wire.Changed(reports=(a_report("web.3#1"),)))
    assert master.events("w1")[-1] == "foreign"
    assert master.sent(wire.Forget) == []


# ---- what cannot be


def _hear_death(death: Any, **facts: Any) -> AMaster:
    master = AMaster()
    session = master.join()
    (instance,) = master.launch()
    master.hear(session, wire.Changed(reports=(a_death_report(instance.key, death, **facts),)))
    return master


@pytest.mark.parametrize("at", [float("nan"), float("inf"), -1.0, 0.0, 1e300, 1e12])
def test_a_time_that_no_calendar_has_is_missing(at: float) -> None:
    times = dict.fromkeys(("received_at", "fetched_at", "forked_at", "started_at", "ended_at"), at)
    master = _hear_death(Exited(code=0), delivered=delivered(2, at=at), **times)
    dead = master.instance("web.1")
    assert dead.started_at is None
    assert dead.ended_at == master.now  # when we heard of it
    assert dead.delivered == ()
    assert dead.timings.received_at is None
    assert msgspec.json.decode(msgspec.json.encode(dead), type=type(dead)) == dead
    master.order(Kill(targets=("web.1",)), id="order-view")
    assert len(master.replies("order-view")) == 1  # its view can be made


@pytest.mark.parametrize(
    "death", [Exited(code=-1), Exited(code=256), Signaled(signal=0), Signaled(signal=1 << 40)]
)
def test_a_death_that_cannot_be_is_one_that_nobody_saw(death: Exited | Signaled) -> None:
    dead = _hear_death(death).instance("web.1")
    assert isinstance(dead.death, Vanished)
    assert "cannot be" in dead.death.reason


def test_a_death_without_a_reason_is_one_that_nobody_saw() -> None:
    master = AMaster()
    session = master.join()
    (instance,) = master.launch()
    master.hear(session, wire.Changed(reports=(a_report(instance.key, S.DEAD),)))
    assert master.instance(instance.id).cause is Cause.LOST


def test_endless_text_is_cut() -> None:
    death = SpawnFailed(stage="s" * 5_000, errno=2, message="m" * 50_000)
    dead = _hear_death(death).instance("web.1")
    assert isinstance(dead.death, SpawnFailed)
    assert len(dead.death.stage) == len(dead.death.message) == 1_000


@pytest.mark.parametrize("cpu_s", [float("nan"), float("inf"), float("-inf")])
def test_a_usage_that_cannot_be_is_missing(cpu_s: float) -> None:
    usage = Usage(cpu_user_s=cpu_s, cpu_system_s=0.0, max_rss_bytes=1)
    assert _hear_death(Exited(code=0), usage=usage).instance("web.1").usage is None


def test_numbers_of_usage_stay_within_what_a_store_can_hold() -> None:
    usage = Usage(cpu_user_s=-1.0, cpu_system_s=0.0, max_rss_bytes=-5, rss_bytes=1 << 64)
    kept = _hear_death(Exited(code=0), usage=usage).instance("web.1").usage
    assert kept == Usage(cpu_user_s=0.0, cpu_system_s=0.0, max_rss_bytes=0, rss_bytes=(1 << 63) - 1)


@pytest.mark.parametrize("pid", [None, 0, -4, 1 << 40])
def test_running_as_nothing_is_not_believed(pid: int | None) -> None:
    master = AMaster()
    session = master.join()
    (instance,) = master.launch()
    master.hear(session, wire.Changed(reports=(a_report(instance.key, pid=pid),)))
    assert master.instance(instance.id) == instance


def test_unknown_is_not_for_a_worker_to_say() -> None:
    master = AMaster()
    session = master.join()
    instance = master.launch_running(session)
    master.hear(session, wire.Changed(reports=(a_report(instance.key, S.UNKNOWN),)))
    assert master.instance(instance.id) == instance


def test_of_very_many_signals_the_last_are_kept() -> None:
    sent = tuple(delivered(10, at=NOW + number)[0] for number in range(500))
    dead = _hear_death(Exited(code=0), delivered=sent).instance("web.1")
    assert dead.delivered == sent[-64:]


# ---- certificates


@pytest.mark.parametrize(
    ("first", "second", "is_conflict"),
    [
        (Exited(code=0), Exited(code=0), False),
        (Exited(code=0), Exited(code=3), True),
        (Exited(code=0), Signaled(signal=9), True),
        (Exited(code=0), Vanished(reason="keeper lost"), True),
        (Exited(code=0), None, True),
        (Vanished(reason="keeper lost"), Vanished(reason="in other words"), False),
        (Vanished(reason="keeper lost"), Exited(code=0), True),
        (None, None, False),
        (
            SpawnFailed(stage="execve", errno=2, message="missing"),
            SpawnFailed(stage="execve", errno=2, message="in other words"),
            False,
        ),
        (
            SpawnFailed(stage="execve", errno=2, message="missing"),
            SpawnFailed(stage="chdir", errno=2, message="missing"),
            True,
        ),
    ],
)
def test_the_first_report_of_a_death_counts_and_another_one_is_told_of_once(
    first: Death | None, second: Death | None, is_conflict: bool
) -> None:
    master = AMaster()
    session = master.join()
    instance = master.launch_running(session)
    report = a_death_report(instance.key, usage=USAGE)
    said = msgspec.structs.replace(report, death=first)
    master.hear(session, wire.Changed(reports=(said,)))
    before = master.core.cluster.certificates_of(instance.id)
    evidence = Evidence(seen_at=NOW + 9, argv=("forged",))
    again = msgspec.structs.replace(report, death=second, pid=9, evidence=evidence, usage=None)
    for _ in range(3):
        master.hear(session, wire.Changed(reports=(again,)))
        assert master.core.cluster.certificates_of(instance.id) == before
        assert master.instance(instance.id).death == before[0].death
    conflicts = [e for e in master.core.cluster.events if e.kind == "conflict"]
    assert len(conflicts) == is_conflict
    if is_conflict:
        assert "reported again" in conflicts[0].message
    assert master.sent(wire.Forget)[-1].keys == (instance.key,)


def test_a_certificate_outlives_the_master_and_a_conflict_after_it() -> None:
    master = AMaster()
    session = master.join()
    instance = master.launch_running(session)
    evidence = Evidence(seen_at=NOW + 1, argv=("/t/web",), oom="pid 100", proves_oom=True)
    said = a_death_report(instance.key, Signaled(signal=9), evidence=evidence, fetched_bytes=7)
    master.hear(session, wire.Changed(reports=(said,)))
    (certificate,) = master.core.cluster.certificates_of(instance.id)
    assert (certificate.evidence, certificate.cause) == (evidence, Cause.OOM)
    assert certificate.placement == "the only usable worker of 'w1'"
    assert (certificate.message, certificate.fetched_bytes) == (
        "killed by SIGKILL (out of memory)",
        7,
    )
    master.restart()
    session = master.join(reports=(a_death_report(instance.key, Exited(code=0)),))
    assert master.core.cluster.certificates_of(instance.id) == [certificate]
    assert "conflict" in master.events(instance.id)


def test_who_asked_for_which_signal_is_kept_with_the_attempt() -> None:
    master = AMaster()
    session = master.join()
    instance = master.launch_running(session)
    master.order(Signal(targets=(instance.id,), signal=10), "c-usr1")
    master.order(Stop(targets=(instance.id,), grace_s=5), "c-stop")
    master.order(Stop(targets=(instance.id,), grace_s=50), "c-later")
    master.order(Kill(targets=(instance.id,)), "c-kill")
    asks = master.instance(instance.id).asks
    assert [(ask.command, ask.signal) for ask in asks] == [
        ("c-usr1", 10),
        ("c-stop", 2),
        ("c-later", 2),
        ("c-kill", 9),
    ]
    for number in range(30):
        master.order(Signal(targets=(instance.id,), signal=10), f"c-{number}")
    asks = master.instance(instance.id).asks
    assert len(asks) == ASKS_MAX and asks[-1].command == "c-29"


def test_what_a_worker_noticed_is_an_event_of_its_own_or_of_its_instances() -> None:
    master = AMaster()
    session, other = master.join(), master.join("w2")
    (instance,) = master.launch()
    assert instance.worker == "w1"
    mine = Note(kind="log-truncated", subject=instance.id, message="x" * 5_000)
    disk = Note(kind="disk-low", subject=None, message="nearly full")
    master.hear(session, wire.Noted(notes=(mine, disk)))
    assert master.events(instance.id) == ["placed", "log-truncated"]
    assert master.events("w1") == ["worker-ready", "disk-low"]
    assert max(len(event.message) for event in master.core.cluster.events) <= 1_000
    master.hear(other, wire.Noted(notes=(mine,)))
    strange = Note(kind="died", subject=instance.id, message="so I say")
    nobody = Note(kind="log-cut", subject="no.1", message="?")
    master.hear(session, wire.Noted(notes=(strange, nobody)))
    assert master.events(instance.id) == ["placed", "log-truncated"]
    assert master.events("no.1") == master.events("w2")[1:] == []
