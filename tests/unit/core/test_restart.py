"""What is started again, when, and what never is: an attempt begins after the last one is over."""

from __future__ import annotations

import errno
from random import Random
from typing import Any

import pytest

from corps.core.restart import DELAY_MAX_S, JITTER, back_off_s, next_attempt
from corps.core.views import view_instance
from corps.model.command import Delete, Failure, Instances, Kill, Launch, Remove, Signal, Stop
from corps.model.instance import (
    Death,
    Desired,
    Exited,
    InstanceState,
    Signaled,
    SpawnFailed,
    Vanished,
)
from corps.model.terms import Restart
from corps.wire import worker as wire
from tests.support.build import (
    DIGEST,
    NOW,
    AMaster,
    a_dead_instance,
    a_death_report,
    a_report,
)

S = InstanceState
CRASH = Signaled(signal=11, core_dumped=True)
TRY_AGAIN = SpawnFailed(stage="chdir", errno=errno.ENOENT, message="no such directory")
REBOOT = Vanished(reason="the machine of w1 was rebooted", may_have_run=True)


def begun(master: AMaster, restart: Restart = Restart.ON_FAILURE, **facts: Any) -> int:
    """`web.1` runs on w1, on the session returned."""
    session = master.join(artifacts=[DIGEST])
    master.launch(restart=restart, **facts)
    master.hear(session, wire.Changed(reports=(a_report(),)))
    return session


def die(master: AMaster, session: int, death: Death | None = None, **facts: Any) -> None:
    """The present attempt of `web.1` dies, at once unless said otherwise."""
    key = master.instance("web.1").key
    facts = {"started_at": master.now, "ended_at": master.now, **facts}
    report = a_death_report(key, death or Exited(code=1), **facts)
    master.hear(session, wire.Changed(reports=(report,)))


def beat(master: AMaster, session: int, duration_s: float) -> None:
    """Time passes, and the worker beats."""
    for _ in range(round(duration_s / 0.1)):
        master.wait(0.1)
        master.hear(session, wire.Heartbeat(seq=1))


def run_again(master: AMaster, session: int) -> None:
    """Wait until the next attempt of `web.1` is begun, and let it run."""
    attempt = master.instance("web.1").attempt
    while master.instance("web.1").attempt == attempt:
        beat(master, session, 0.5)
    report = a_report(f"web.1#{attempt + 1}", pid=200, started_at=master.now)
    master.hear(session, wire.Changed(reports=(report,)))


# ---- which deaths


@pytest.mark.parametrize(
    ("policy", "death", "is_again"),
    [
        (Restart.NEVER, Exited(code=1), False),
        (Restart.NEVER, REBOOT, False),
        (Restart.ON_FAILURE, Exited(code=0), False),
        (Restart.ON_FAILURE, Exited(code=1), True),
        (Restart.ON_FAILURE, CRASH, True),
        (Restart.ON_FAILURE, TRY_AGAIN, True),
        (Restart.ON_FAILURE, REBOOT, True),
        (Restart.ALWAYS, Exited(code=0), True),
        (Restart.ALWAYS, Exited(code=1), True),
        (Restart.ALWAYS, TRY_AGAIN, True),
    ],
)
def test_the_policy_says_which_deaths_make_a_new_attempt(
    policy: Restart, death: Death, is_again: bool
) -> None:
    dead = a_dead_instance(death=death, restart=policy)
    assert (next_attempt(dead, Random(1)).delay_s is not None) is is_again


@pytest.mark.parametrize("policy", [Restart.ON_FAILURE, Restart.ALWAYS])
def test_what_was_asked_to_end_is_not_started_again(policy: Restart) -> None:
    dead = a_dead_instance(death=CRASH, restart=policy, desired=Desired.STOPPED)
    assert next_attempt(dead, Random(1)).delay_s is None


@pytest.mark.parametrize(
    ("stage", "number", "is_again"),
    [
        ("execve", errno.ENOEXEC, False),
        ("execve", errno.EACCES, False),
        ("execve", errno.E2BIG, False),
        ("execve", errno.ENOENT, True),  # its interpreter or loader may be installed
        ("execve", errno.ENOMEM, True),
        ("chdir", errno.EACCES, True),
        ("fork", errno.EAGAIN, True),
    ],
)
def test_a_file_that_no_kernel_will_ever_take_is_not_tried_again(
    stage: str, number: int, is_again: bool
) -> None:
    death = SpawnFailed(stage=stage, errno=number, message="x")
    verdict = next_attempt(a_dead_instance(death=death, restart=Restart.ALWAYS), Random(1))
    assert (verdict.delay_s is not None) is is_again


def test_what_may_still_run_is_never_started_beside_itself() -> None:
    death = Vanished(reason="w1 has no record of it any more", may_still_run=True)
    dead = a_dead_instance(death=death, restart=Restart.ALWAYS)
    assert next_attempt(dead, Random(1)) == (None, 1, "it may still run")


# ---- when


def test_the_delay_doubles_from_one_second_to_five_minutes() -> None:
    delays = [back_off_s(failures) for failures in range(1, 12)]
    assert delays == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    assert back_off_s(1_000_000) == DELAY_MAX_S


def test_the_delay_has_jitter_and_the_same_chance_gives_the_same_delay() -> None:
    dead = a_dead_instance(death=CRASH, restart=Restart.ALWAYS, failures=3)
    delays = [next_attempt(dead, Random(seed)).delay_s or 0.0 for seed in range(200)]
    assert all(8 * (1 - JITTER) <= delay_s <= 8 * (1 + JITTER) for delay_s in delays)
    assert max(delays) - min(delays) > 8 * JITTER
    assert delays == [next_attempt(dead, Random(seed)).delay_s for seed in range(200)]


@pytest.mark.parametrize(
    ("failures", "ran_s", "next_failures"),
    [(1, 9.9, 2), (1, 10, 1), (6, 31, 7), (6, 32, 1), (20, 299, 21), (20, 300, 1), (0, 1, 1)],
)
def test_a_run_longer_than_the_last_delay_and_ten_seconds_was_stable(
    failures: int, ran_s: float, next_failures: int
) -> None:
    dead = a_dead_instance(
        death=CRASH, restart=Restart.ALWAYS, failures=failures, started_at=NOW - ran_s
    )
    assert next_attempt(dead, Random(1)).failures == next_failures


def test_on_failure_gives_up_after_so_many_failures_in_a_row() -> None:
    master = AMaster()
    session = begun(master, failures_max=3)
    for _ in range(2):
        die(master, session)
        run_again(master, session)
    die(master, session)
    dead = master.instance("web.1")
    assert (dead.state, dead.attempt, dead.failures) == (S.DEAD, 3, 3)
    last = [event.message for event in master.core.cluster.events if event.kind == "restart"][-1]
    assert last == "no further attempt: failure 3 of 3 in a row"


# ---- how


def test_an_attempt_begins_when_it_is_due_and_not_before() -> None:
    master = AMaster()
    session = begun(master)
    die(master, session)
    waiting = master.instance("web.1")
    assert (waiting.state, waiting.attempt, waiting.failures) == (S.PENDING, 1, 1)
    assert waiting.not_before is not None
    assert NOW + 0.8 <= waiting.not_before <= NOW + 1.2
    while master.now + 0.1 < waiting.not_before:
        beat(master, session, 0.1)
    assert [start.key for start in master.sent(wire.Start)] == ["web.1#1"]
    master.wait(0.2)
    assert [start.key for start in master.sent(wire.Start)] == ["web.1#1", "web.1#2"]
    begun_again = master.instance("web.1")
    assert (begun_again.state, begun_again.attempt, begun_again.not_before) == (S.PENDING, 2, None)
    assert (begun_again.death, begun_again.pid, begun_again.usage) == (None, None, None)


def test_each_death_keeps_its_certificate_and_the_worker_may_forget_it() -> None:
    master = AMaster()
    session = begun(master)
    for code in (1, 2, 3):
        die(master, session, Exited(code=code))
        run_again(master, session)
    deaths = [certificate.death for certificate in master.core.cluster.certificates_of("web.1")]
    assert deaths == [Exited(code=1), Exited(code=2), Exited(code=3)]
    forgotten = [key for forget in master.sent(wire.Forget) for key in forget.keys]
    assert forgotten == ["web.1#1", "web.1#2", "web.1#3"]
    assert master.instance("web.1").state is S.RUNNING


def test_one_that_waits_is_shown_with_its_last_death_and_without_a_process() -> None:
    master = AMaster()
    session = begun(master)
    die(master, session)
    row = view_instance(master.instance("web.1"))
    assert (row.state, row.pid, row.attempt, row.failures) == ("pending", None, 1, 1)
    assert (row.restart, row.death and row.death.code) == ("on-failure", 1)
    assert row.not_before is not None


def test_a_death_told_again_is_forgotten_again_and_changes_nothing() -> None:
    master = AMaster()
    session = begun(master)
    report = a_death_report("web.1#1", Exited(code=1))
    master.hear(session, wire.Changed(reports=(report,)))
    waiting = master.instance("web.1")
    master.hear(session, wire.Changed(reports=(report,)))
    assert master.instance("web.1") == waiting
    run_again(master, session)
    running = master.instance("web.1")
    master.hear(session, wire.Changed(reports=(report,)))
    assert master.instance("web.1") == running
    assert [forget.keys for forget in master.sent(wire.Forget)] == [("web.1#1",)] * 3
    assert "foreign" not in master.events("w1")


def test_an_old_attempt_said_to_live_is_strange_and_left_alone() -> None:
    master = AMaster()
    session = begun(master)
    die(master, session)
    run_again(master, session)
    master.hear(session, wire.Changed(reports=(a_report("web.1#1"),)))
    assert master.instance("web.1").attempt == 2
    assert master.events("w1").count("foreign") == 1


def test_a_start_that_was_lost_on_the_way_is_sent_again() -> None:
    master = AMaster()
    session = begun(master)
    die(master, session)
    master.wait(1.5)
    master.close(session)
    again = master.join()
    assert [start.key for start in master.sent(wire.Start, again)] == ["web.1#2"]


def test_who_is_due_while_its_worker_is_away_begins_when_it_is_back() -> None:
    master = AMaster()
    session = begun(master)
    die(master, session)
    master.close(session)
    master.wait(5)
    assert master.worker().state == "lost"
    waiting = master.instance("web.1")
    assert (waiting.state, waiting.attempt) == (S.PENDING, 1), "it is known not to run"
    again = master.join()
    master.wait(0.1)
    assert [start.key for start in master.sent(wire.Start, again)] == ["web.1#2"]


def test_who_is_due_while_its_worker_is_silent_begins_when_it_is_heard() -> None:
    master = AMaster()
    session = begun(master)
    die(master, session)
    run_again(master, session)
    die(master, session)
    due = master.instance("web.1").not_before
    assert due is not None
    while due - master.now > 1.6:  # suspect after 1.25 s of silence, lost after 2
        beat(master, session, 0.1)
    master.wait(1.8)
    assert master.worker().state == "suspect"
    assert master.instance("web.1").attempt == 2
    master.hear(session, wire.Heartbeat(seq=1))
    master.wait(0.1)
    assert [start.key for start in master.sent(wire.Start)][-1] == "web.1#3"


def test_what_a_reboot_ended_begins_again_and_a_lost_worker_alone_begins_nothing() -> None:
    master = AMaster()
    begun(master)
    master.wait(60)
    assert (master.instance("web.1").state, len(master.sent(wire.Start))) == (S.UNKNOWN, 1)
    session = master.join(boot_id="boot-2")
    assert master.instance("web.1").is_waiting
    run_again(master, session)
    assert [start.key for start in master.sent(wire.Start)] == ["web.1#1", "web.1#2"]


def test_with_another_state_on_the_same_boot_nothing_begins_again() -> None:
    master = AMaster()
    begun(master)
    master.wait(3)
    master.join(state_id="state-other")
    master.wait(1)
    assert master.instance("web.1").state is S.DEAD
    assert len(master.sent(wire.Start)) == 1


def test_a_restart_of_the_master_forgets_neither_delay_nor_failures() -> None:
    master = AMaster()
    session = begun(master)
    for _ in range(3):
        die(master, session)
        run_again(master, session)
    die(master, session)
    waiting = master.instance("web.1")
    master.restart()
    assert master.instance("web.1") == waiting
    assert waiting.failures == 4 and waiting.not_before is not None
    session = master.join()
    while master.now + 0.2 < waiting.not_before:
        beat(master, session, 0.1)
    assert master.instance("web.1").attempt == 4
    master.wait(0.4)
    assert master.instance("web.1").attempt == 5


def test_a_master_that_was_long_away_begins_at_once_what_is_due() -> None:
    master = AMaster()
    session = begun(master, count=5)
    for number in range(1, 6):
        report = a_death_report(f"web.{number}#1", Exited(code=1))
        master.hear(session, wire.Changed(reports=(report,)))
    master.now += 3_600
    master.restart()
    session = master.join()
    master.wait(0.2)
    keys = [start.key for start in master.sent(wire.Start, session)]
    assert sorted(keys) == [f"web.{number}#2" for number in range(1, 6)]


def test_a_clock_that_was_set_back_makes_nobody_wait_for_years() -> None:
    master = AMaster()
    session = begun(master)
    die(master, session)
    master.now -= 10 * 365 * 86_400
    master.restart()
    session = master.join()
    beat(master, session, DELAY_MAX_S * (1 + JITTER) + 1)
    assert [start.key for start in master.sent(wire.Start, session)] == ["web.1#2"]


def test_an_attempt_that_a_store_set_back_does_not_know_is_not_begun_beside_it() -> None:
    master = AMaster()
    session = begun(master)
    die(master, session)
    master.restart()
    session = master.join(reports=[a_report("web.1#4", pid=444)])
    now = master.instance("web.1")
    assert (now.attempt, now.state, now.pid) == (4, S.RUNNING, 444)
    master.wait(1.5)
    assert [start.key for start in master.sent(wire.Start, session)] == []
    die(master, session)
    run_again(master, session)
    assert [start.key for start in master.sent(wire.Start, session)] == ["web.1#5"]


def test_a_signal_for_an_attempt_that_is_over_goes_to_no_later_one() -> None:
    master = AMaster()
    session = begun(master)
    master.order(Signal(targets=("web.1",), signal=1), id="order-hup")
    master.close(session)
    master.now += 1.0
    session = master.join(reports=[a_report("web.1#4", pid=444)])
    assert master.instance("web.1").attempt == 4
    assert master.sent(wire.SendSignal, session) == []
    assert len(master.replies("order-hup")) == 1


def test_an_attempt_that_no_policy_can_have_made_is_left_alone() -> None:
    master = AMaster()
    session = begun(master, Restart.NEVER)
    master.hear(session, wire.Changed(reports=(a_report("web.1#2"),)))
    assert master.instance("web.1").attempt == 1
    assert "foreign" in master.events("w1")


# ---- operators


@pytest.mark.parametrize("command", [Stop(targets=("web.1",)), Kill(targets=("web.1",))])
def test_a_stop_of_one_that_waits_settles_it_at_once_with_its_last_death(
    command: Stop | Kill,
) -> None:
    master = AMaster()
    session = begun(master)
    die(master, session, Exited(code=7))
    master.close(session)
    master.order(command, id="the-stop")
    dead = master.instance("web.1")
    assert (dead.state, dead.death, dead.cause) == (S.DEAD, Exited(code=7), "self")
    verb = "stop" if isinstance(command, Stop) else "kill"
    assert dead.message == f"exited 7; no further attempt: {verb} by root"
    (answer,) = master.replies("the-stop")
    assert isinstance(answer, Instances) and answer.instances[0].state == "dead"
    master.join()
    master.wait(1)
    assert len(master.sent(wire.Start)) == 1
    assert master.sent(wire.End) == []
    assert [c.message for c in master.core.cluster.certificates_of("web.1")] == ["exited 7"]


def test_what_dies_under_a_stop_is_not_started_again() -> None:
    master = AMaster()
    session = begun(master, Restart.ALWAYS)
    master.order(Stop(targets=("web",)), id="the-stop")
    die(master, session, Exited(code=1))
    assert master.instance("web.1").state is S.DEAD
    assert len(master.replies("the-stop")) == 1


def test_a_signal_is_no_stop_what_it_ends_is_started_again() -> None:
    master = AMaster()
    session = begun(master)
    master.order(Signal(targets=("web.1",), signal=15), id="the-signal")
    die(master, session, Signaled(signal=15))
    assert master.instance("web.1").is_waiting
    assert len(master.replies("the-signal")) == 1, "what waits for a signal hears of the death"
    run_again(master, session)
    assert master.instance("web.1").asked is None


def test_one_that_waits_can_be_neither_signalled_nor_removed_nor_lose_its_files() -> None:
    master = AMaster()
    session = begun(master)
    die(master, session)
    for command in (
        Signal(targets=("web.1",), signal=15),
        Remove(targets=("web.1",)),
        Delete(artifact="web"),
    ):
        master.order(command, id="refused")
        answer = master.replies("refused")[-1]
        assert isinstance(answer, Failure) and answer.code == "conflict"


def test_a_launch_is_answered_when_the_first_attempt_is_over() -> None:
    master = AMaster()
    session = master.join(artifacts=[DIGEST])
    master.launch()
    command = Launch(artifact="web", restart=Restart.ON_FAILURE)
    master.order(command, id="the-launch")
    report = a_death_report("web.2#1", TRY_AGAIN, pid=None)
    master.hear(session, wire.Changed(reports=(report,)))
    (answer,) = master.replies("the-launch")
    assert isinstance(answer, Instances)
    (row,) = answer.instances
    assert (row.state, row.attempt) == ("pending", 1)
    assert row.death is not None and row.death.kind == "spawn_failed"
    assert row.not_before is not None


def test_a_launch_of_several_waits_for_the_first_attempt_of_each_over_a_restart() -> None:
    master = AMaster()
    session = master.join(artifacts=[DIGEST])
    master.launch()
    master.order(Launch(artifact="web", restart=Restart.ALWAYS, count=2), id="the-launch")
    report = a_death_report("web.2#1", Exited(code=1))
    master.hear(session, wire.Changed(reports=(report,)))
    master.wait(1.5)
    assert master.instance("web.2").attempt == 2
    master.restart()
    session = master.join(reports=[a_report("web.3#1", S.FETCHING)])
    assert master.replies("the-launch") == []
    master.hear(session, wire.Changed(reports=(a_report("web.3#1"),)))
    (answer,) = master.replies("the-launch")
    assert isinstance(answer, Instances)
    assert [(row.id, row.attempt) for row in answer.instances] == [("web.2", 2), ("web.3", 1)]
