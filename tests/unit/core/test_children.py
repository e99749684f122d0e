"""An attempt on its worker: started once, ended as asked, its death told until it is forgotten."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from corps.core import events as ev
from corps.model.instance import (
    Delivered,
    Evidence,
    Exited,
    InstanceState,
    RssSource,
    Signaled,
    SpawnFailed,
    Vanished,
)
from corps.wire import keeper as kw
from corps.wire import worker as wire
from tests.support.build import (
    DIGEST,
    NOW,
    AWorker,
    a_ready_worker,
    instructed,
    kept,
    kept_dead,
    reports,
    told,
)
from tests.support.usage import a_measured

S = InstanceState
KEY = "web.1#1"


def ended(worker: AWorker, attempt: kw.KeptAttempt, reason: str = "") -> wire.Report:
    """The keeper says it is over; what the master is told of it."""
    reasons = ((attempt.key, reason),) if reason else ()
    return reports(worker.step(ev.KeeperSaid((kw.Ended(attempt=attempt),), reasons)))[attempt.key]


def signals(effects: list[ev.WorkerEffect]) -> list[int]:
    return [message.signal for message in instructed(effects, kw.SendSignal)]


# ---- starting


def test_a_start_is_carried_out_once() -> None:
    worker = a_ready_worker()
    spawns = [effect for effect in worker.start() if isinstance(effect, ev.Spawn)]
    assert [spawn.key for spawn in spawns] == [KEY]
    again = worker.start()
    assert reports(again)[KEY].state is S.STARTING
    assert not any(isinstance(effect, ev.Spawn) for effect in again)
    worker.spawned()
    assert reports(worker.start())[KEY].state is S.RUNNING


def test_what_the_keeper_started_runs() -> None:
    worker = a_ready_worker()
    worker.start()
    report = reports(worker.spawned(pid=4711))[KEY]
    assert (report.state, report.pid) == (S.RUNNING, 4711)
    assert (report.received_at, report.started_at) == (NOW, NOW)
    assert worker.core.live() == [(KEY, 4711)]


def test_a_start_waits_for_a_keeper() -> None:
    worker = a_ready_worker()
    worker.step(ev.KeeperGone())
    assert not any(isinstance(effect, ev.Spawn) for effect in worker.start())
    assert any(isinstance(effect, ev.Spawn) for effect in worker.keeper_lists())


def test_what_the_keeper_does_not_list_was_not_started_and_is_asked_for_again() -> None:
    worker = a_ready_worker()
    worker.start()
    worker.step(ev.KeeperGone())
    assert [e.key for e in worker.keeper_lists() if isinstance(e, ev.Spawn)] == [KEY]


def test_what_the_keeper_lists_is_not_started_again() -> None:
    worker = a_ready_worker()
    worker.start()
    worker.step(ev.KeeperGone())
    effects = worker.keeper_lists(kept())
    assert not any(isinstance(effect, ev.Spawn) for effect in effects)
    assert reports(effects)[KEY].state is S.RUNNING


def test_a_listing_counts_when_its_last_part_has_come() -> None:
    worker = a_ready_worker()
    worker.start("web.1#1")
    worker.start("web.2#1")
    worker.step(ev.KeeperGone())
    worker.keeper_lists(kept("web.1#1"), is_last=False)
    effects = worker.keeper_lists(kept("web.2#1"))
    assert not any(isinstance(effect, ev.Spawn) for effect in effects)


def test_half_a_listing_of_a_keeper_that_died_does_not_count() -> None:
    worker = a_ready_worker()
    worker.run()
    worker.step(ev.KeeperGone())
    worker.keeper_lists(kept(), is_last=False)
    worker.step(ev.KeeperGone())
    worker.keeper_lists()
    assert worker.state() is S.DEAD


def test_a_child_between_fork_and_exec_is_starting() -> None:
    worker = AWorker()
    worker.keeper_lists(kept(executed=False))
    assert worker.state() is S.STARTING
    worker.spawned()
    assert worker.state() is S.RUNNING


@pytest.mark.parametrize("is_blocked", [True, False])
def test_what_cannot_be_started_is_dead_with_its_reason(is_blocked: bool) -> None:
    worker = a_ready_worker()
    worker.start()
    if is_blocked:
        effects = worker.step(ev.SpawnBlocked(KEY, "log", 28, "no space left"))
        expected = SpawnFailed(stage="log", errno=28, message="no space left")
    else:
        effects = worker.keeper_says(kw.Refused(key=KEY, reason="the journal cannot grow"))
        expected = SpawnFailed(stage="keeper", errno=0, message="the journal cannot grow")
    assert reports(effects)[KEY].death == expected


def test_what_runs_cannot_have_failed_to_start() -> None:
    worker = a_ready_worker()
    worker.run()
    worker.keeper_says(
        kw.Refused(key=KEY, reason="a second spawn"), kw.Refused(key=None, reason="")
    )
    worker.step(ev.SpawnBlocked(KEY, "log", 28, "no space left"))
    worker.step(ev.SpawnBlocked("web.9#1", "log", 28, "no space left"))
    assert worker.state() is S.RUNNING


# ---- dying


@pytest.mark.parametrize(
    ("status", "death"),
    [
        (0, Exited(code=0)),
        (3 << 8, Exited(code=3)),
        (9, Signaled(signal=9)),
        (11 | 0x80, Signaled(signal=11, core_dumped=True)),
    ],
)
def test_a_wait_status_is_told_as_it_is(status: int, death: object) -> None:
    worker = a_ready_worker()
    worker.run()
    report = ended(worker, kept_dead(status=status))
    assert report.death == death
    assert report.ended_at == NOW + 1


def test_the_first_word_of_a_death_counts() -> None:
    worker = a_ready_worker()
    worker.run()
    ended(worker, kept_dead(status=3 << 8))
    again = ended(worker, kept_dead(status=0))
    assert again.death == Exited(code=3)


def test_a_failed_exec_is_explained() -> None:
    worker = a_ready_worker()
    worker.start()
    failed = kept_dead(status=None, executed=False, failed_stage="execve", failed_errno=2)
    report = ended(worker, failed, "no such file: /x/web")
    assert report.death == SpawnFailed(stage="execve", errno=2, message="no such file: /x/web")
    assert report.started_at is None
    worker.start("web.2#1")
    report = ended(worker, kept("web.2#1", is_live=False, executed=False, failed_stage="chdir"))
    assert report.death == SpawnFailed(stage="chdir", errno=0, message="chdir failed with errno 0")


def test_what_was_never_forked_has_no_pid_and_no_time_of_fork() -> None:
    worker = a_ready_worker()
    worker.start()
    failed = kept_dead(pid=0, status=None, executed=False, failed_stage="fork", failed_errno=11)
    report = ended(worker, failed)
    assert (report.pid, report.forked_at) == (None, None)


def test_a_lost_status_is_never_invented() -> None:
    worker = a_ready_worker()
    worker.run()
    report = ended(worker, kept_dead(status=None, lost="machine rebooted"))
    assert report.death == Vanished(reason="machine rebooted")


def test_of_a_damaged_record_nobody_knows_whether_it_is_over() -> None:
    worker = a_ready_worker()
    worker.run()
    lost = "its record in the journal is damaged"
    report = ended(worker, kept_dead(pid=0, status=None, lost=lost))
    assert report.death == Vanished(reason=lost, may_still_run=True)


def test_what_nobody_saw_running_may_or_may_not_have_run() -> None:
    worker = AWorker()
    worker.keeper_lists(kept_dead(status=None, lost="machine rebooted"))
    report = worker.core.report(KEY)
    assert report is not None
    assert report.death == Vanished(reason="machine rebooted", may_have_run=True)
    assert report.started_at is None


def test_what_ended_while_the_worker_was_away_is_told() -> None:
    worker = AWorker()
    worker.keeper_lists(kept_dead(status=3 << 8))
    report = worker.core.report(KEY)
    assert report is not None
    assert (report.death, report.started_at, report.pid) == (Exited(code=3), NOW, 100)


def test_what_ran_and_is_in_no_listing_has_vanished() -> None:
    worker = a_ready_worker()
    worker.run()
    worker.step(ev.KeeperGone())
    report = reports(worker.keeper_lists())[KEY]
    reason = "its keeper has no record of it any more"
    assert report.death == Vanished(reason=reason, may_still_run=True)


def test_the_dead_are_not_taken_back() -> None:
    worker = a_ready_worker()
    worker.run()
    report = ended(worker, kept_dead())
    sent = (kw.KeptSignal(signal=2, at=NOW),)
    assert worker.keeper_lists(kept(pid=7, signals=sent)) == []
    assert worker.spawned(pid=7) == []
    assert worker.core.report(KEY) == report


def test_a_death_is_told_until_it_is_forgotten() -> None:
    worker = a_ready_worker()
    worker.run()
    ended(worker, kept_dead())
    worker.step(ev.Unlinked())
    worker.step(ev.Linked())
    (inventory,) = told(worker.welcome(), wire.Inventory)
    assert [report.state for report in inventory.reports] == [S.DEAD]
    effects = worker.obey(wire.Forget(keys=(KEY, KEY, "web.9#1")))
    assert instructed(effects, kw.Forget) == [kw.Forget(keys=(KEY,))]
    assert worker.core.report(KEY) is None


def test_the_living_are_not_forgotten() -> None:
    worker = a_ready_worker()
    worker.run()
    assert worker.obey(wire.Forget(keys=(KEY,))) == []
    assert worker.state() is S.RUNNING


def test_a_forgotten_death_that_the_keeper_still_has_is_told_again() -> None:
    worker = a_ready_worker()
    worker.run()
    ended(worker, kept_dead())
    worker.step(ev.KeeperGone())
    assert worker.obey(wire.Forget(keys=(KEY,))) == []  # no keeper to tell
    assert reports(worker.keeper_lists(kept_dead()))[KEY].state is S.DEAD


@pytest.mark.parametrize(
    ("peak_bytes", "max_rss_bytes", "expected", "source"),
    [
        (None, 8 << 20, 8 << 20, RssSource.WAIT4),
        (5 << 20, 8 << 20, 8 << 20, RssSource.WAIT4),
        (None, 1 << 20, 1 << 20, RssSource.FLOOR),
        (300_000, 1 << 20, 300_000, RssSource.SAMPLED),
    ],
)
def test_the_image_before_exec_does_not_count_as_memory_of_the_program(
    peak_bytes: int | None, max_rss_bytes: int, expected: int, source: RssSource
) -> None:
    worker = a_ready_worker()
    worker.run()
    if peak_bytes is not None:
        worker.step(ev.Peaks(((KEY, peak_bytes),)))
    usage = kw.KeptUsage(
        cpu_user_s=1.0, cpu_system_s=0.5, max_rss_bytes=max_rss_bytes, floor_bytes=1 << 20
    )
    told_usage = ended(worker, kept_dead(usage=usage)).usage
    assert told_usage is not None
    assert (told_usage.max_rss_bytes, told_usage.max_rss_source) == (expected, source)
    assert (told_usage.cpu_user_s, told_usage.cpu_system_s) == (1.0, 0.5)


def test_what_a_tree_was_measured_to_use_is_told_with_its_death() -> None:
    worker = a_ready_worker()
    worker.run()
    said = ev.KeeperSaid((kw.Ended(attempt=kept_dead()),), measured=((KEY, a_measured()),))
    assert reports(worker.step(said))[KEY].measured == a_measured()


# ---- stop and kill


def end(signal: int = 2, grace_s: float | None = 3.0) -> wire.End:
    return wire.End(key=KEY, signal=signal, grace_s=grace_s)


def test_a_stop_is_a_sigint_and_a_sigkill_when_the_grace_is_over() -> None:
    worker = a_ready_worker()
    worker.run()
    effects = worker.obey(end())
    assert signals(effects) == [2]
    assert reports(effects)[KEY].state is S.STOPPING
    assert signals(worker.wait(2.9)) == []
    assert signals(worker.wait(0.2)) == [9]
    assert signals(worker.wait(60.0)) == []


def test_a_kill_is_a_sigkill_at_once() -> None:
    worker = a_ready_worker()
    worker.run()
    assert signals(worker.obey(end(9, None))) == [9]
    assert worker.state() is S.STOPPING


def test_what_ends_in_time_is_not_killed() -> None:
    worker = a_ready_worker()
    worker.run()
    worker.obey(end())
    ended(worker, kept_dead())
    assert signals(worker.wait(60.0)) == []


def test_what_has_not_begun_is_cancelled() -> None:
    worker = a_ready_worker(artifacts=())
    worker.start()
    report = reports(worker.obey(end()))[KEY]
    assert report.death == SpawnFailed(
        stage="cancelled", errno=125, message="stopped before it was started"
    )


def test_what_is_just_beginning_gets_its_signal_as_soon_as_it_runs() -> None:
    worker = a_ready_worker()
    worker.start()
    assert signals(worker.obey(end())) == []
    effects = worker.spawned()
    assert signals(effects) == [2]
    assert reports(effects)[KEY].state is S.STOPPING


def test_the_grace_runs_while_it_is_just_beginning() -> None:
    worker = a_ready_worker()
    worker.start()
    worker.obey(end(grace_s=1.0))
    assert signals(worker.wait(2.0)) == []
    assert signals(worker.spawned()) == [9]


def test_asked_twice_the_signal_is_sent_once_and_the_shorter_grace_counts() -> None:
    worker = a_ready_worker()
    worker.run()
    worker.obey(end(grace_s=5.0))
    assert signals(worker.obey(end(grace_s=60.0))) == []
    assert signals(worker.obey(end(grace_s=1.0))) == []
    assert signals(worker.wait(1.2)) == [9]


def test_a_kill_under_way_is_not_softened() -> None:
    worker = a_ready_worker()
    worker.run()
    worker.obey(end(9, None))
    assert signals(worker.obey(end())) == []
    assert signals(worker.wait(10.0)) == []


def test_ending_the_dead_tells_of_their_death_again() -> None:
    worker = a_ready_worker()
    worker.run()
    ended(worker, kept_dead())
    assert reports(worker.obey(end()))[KEY].state is S.DEAD
    assert worker.obey(wire.End(key="web.9#1", signal=9, grace_s=None)) == []


def test_a_grace_that_ends_while_there_is_no_keeper_is_not_forgotten() -> None:
    worker = a_ready_worker()
    worker.run()
    worker.obey(end(grace_s=1.0))
    worker.keeper_says(kw.Signaled(key=KEY, signal=2, errno=0))
    worker.step(ev.KeeperGone())
    assert signals(worker.wait(2.0)) == []
    sent = (kw.KeptSignal(signal=2, at=NOW),)
    assert signals(worker.keeper_lists(kept(signals=sent))) == [9]


def test_a_signal_that_a_dying_keeper_did_not_send_is_sent_by_the_next() -> None:
    worker = a_ready_worker()
    worker.run()
    worker.obey(end(grace_s=60.0))
    worker.step(ev.KeeperGone())
    assert signals(worker.keeper_lists(kept())) == [2]


def test_a_signal_that_a_dying_keeper_did_send_is_not_sent_again() -> None:
    worker = a_ready_worker()
    worker.run()
    worker.obey(end(grace_s=60.0))
    worker.step(ev.KeeperGone())
    sent = (kw.KeptSignal(signal=2, at=NOW),)
    assert signals(worker.keeper_lists(kept(signals=sent))) == []


# ---- signals


def a_signal(command: str = "order-1", number: int = 10) -> wire.SendSignal:
    return wire.SendSignal(key=KEY, signal=number, command=command)


def test_a_signal_is_done_when_the_keeper_says_so() -> None:
    worker = a_ready_worker()
    worker.run()
    effects = worker.obey(a_signal())
    assert signals(effects) == [10]
    assert told(effects, wire.SignalDone) == []
    effects = worker.keeper_says(kw.Signaled(key=KEY, signal=10, errno=0))
    assert told(effects, wire.SignalDone) == [wire.SignalDone(key=KEY, command="order-1", errno=0)]
    assert reports(effects)[KEY].delivered == (Delivered(signal=10, at=NOW),)


def test_answers_belong_to_questions_in_order() -> None:
    worker = a_ready_worker()
    worker.run()
    worker.obey(end(), a_signal("order-1", 2), a_signal("order-2", 2))
    done = [
        told(worker.keeper_says(kw.Signaled(key=KEY, signal=2, errno=errno)), wire.SignalDone)
        for errno in (0, 0, 3, 0)
    ]
    assert [[(d.command, d.errno) for d in some] for some in done] == [
        [],  # the stop's own
        [("order-1", 0)],
        [("order-2", 3)],
        [],
    ]


@pytest.mark.parametrize("state", ["unknown", "starting", "dead"])
def test_what_has_no_process_cannot_be_signalled(state: str) -> None:
    worker = a_ready_worker()
    if state != "unknown":
        worker.start()
    if state == "dead":
        worker.spawned()
        ended(worker, kept_dead())
    effects = worker.obey(a_signal())
    assert [done.errno for done in told(effects, wire.SignalDone)] == [3]
    assert signals(effects) == []


def on_its_way(signal: int = 2) -> kw.KeptSignal:
    return kw.KeptSignal(signal=signal, at=NOW)


def test_a_signal_on_its_way_when_its_keeper_died_is_sent_again_to_the_living() -> None:
    worker = a_ready_worker()
    worker.run()
    worker.obey(wire.End(key=KEY, signal=2, grace_s=10.0))
    worker.step(ev.KeeperGone())
    effects = worker.keeper_lists(kept(sending=on_its_way()))
    assert signals(effects) == [2]
    report = worker.core.report(KEY)
    assert report is not None and report.delivered == ()


def test_a_signal_on_its_way_when_its_keeper_died_may_be_what_ended_the_dead() -> None:
    worker = a_ready_worker()
    worker.run()
    worker.obey(wire.End(key=KEY, signal=2, grace_s=10.0))
    worker.step(ev.KeeperGone())
    report = reports(worker.keeper_lists(kept_dead(status=2, sending=on_its_way())))[KEY]
    assert report.death == Signaled(signal=2)
    assert report.delivered == (Delivered(signal=2, at=NOW),)


def never_ran() -> kw.KeptAttempt:
    return kept_dead(status=None, executed=False, failed_stage="never_executed")


def test_what_its_keeper_never_let_execute_is_asked_for_again() -> None:
    worker = a_ready_worker()
    worker.start()
    worker.step(ev.KeeperGone())
    effects = worker.keeper_lists(never_ran())
    assert instructed(effects, kw.Forget) == [kw.Forget(keys=(KEY,))]
    assert [effect.key for effect in effects if isinstance(effect, ev.Spawn)] == [KEY]
    worker.spawned(pid=200)
    report = worker.core.report(KEY)
    assert report is not None and (report.state, report.pid) == (S.RUNNING, 200)


def test_what_never_executed_and_should_end_is_cancelled() -> None:
    worker = a_ready_worker()
    worker.start()
    worker.step(ev.KeeperGone())
    worker.obey(wire.End(key=KEY, signal=2, grace_s=10.0))
    report = reports(worker.keeper_lists(never_ran()))[KEY]
    assert isinstance(report.death, SpawnFailed) and report.death.stage == "cancelled"


def test_what_never_executed_in_an_earlier_life_is_left_to_the_master() -> None:
    worker = AWorker()
    worker.step(ev.Linked())
    effects = worker.keeper_lists(never_ran())
    assert instructed(effects, kw.Forget) == [kw.Forget(keys=(KEY,))]
    (inventory,) = told(worker.welcome(), wire.Inventory)
    assert inventory.reports == ()


def test_what_flies_in_an_earlier_life_has_no_pid_yet() -> None:
    worker = AWorker()
    worker.step(ev.Linked())
    worker.keeper_lists(kept(executed=False))
    (inventory,) = told(worker.welcome(), wire.Inventory)
    assert [(report.state, report.pid) for report in inventory.reports] == [(S.STARTING, None)]


def test_a_signal_waits_for_a_keeper() -> None:
    worker = a_ready_worker()
    worker.run()
    worker.step(ev.KeeperGone())
    assert worker.obey(a_signal()) == []
    assert signals(worker.keeper_lists(kept())) == [10]


def test_a_signal_whose_answer_was_lost_is_found_in_the_listing() -> None:
    worker = a_ready_worker()
    worker.run()
    worker.obey(a_signal("order-1"), a_signal("order-2"))
    worker.step(ev.KeeperGone())
    effects = worker.keeper_lists(kept(signals=(kw.KeptSignal(signal=10, at=NOW),)))
    assert [done.command for done in told(effects, wire.SignalDone)] == ["order-1"]
    assert signals(effects) == [10]  # the second one, again


def test_a_signal_to_one_that_dies_is_answered() -> None:
    worker = a_ready_worker()
    worker.run()
    worker.obey(a_signal("order-1", 15), a_signal("order-2", 10))
    worker.step(ev.KeeperGone())
    effects = worker.keeper_lists(kept_dead(status=15, signals=(kw.KeptSignal(signal=15, at=NOW),)))
    done = {done.command: done.errno for done in told(effects, wire.SignalDone)}
    assert done == {"order-1": 0, "order-2": 3}


def test_of_very_many_signals_the_last_are_told() -> None:
    worker = a_ready_worker()
    worker.run()
    for _ in range(50):
        worker.keeper_says(kw.Signaled(key=KEY, signal=10, errno=0))
    report = worker.core.report(KEY)
    assert report is not None
    assert len(report.delivered) == 20


def test_totals_are_the_drivers() -> None:
    assert a_ready_worker().keeper_says(kw.TotalsNow(totals=wire.Totals())) == []


# ---- evidence


SEEN = Evidence(seen_at=NOW + 1, argv=("/t/web",))
WATCHED = "its worker ended it: pids 9"


def test_what_was_seen_of_a_death_is_reported_with_it() -> None:
    worker = a_ready_worker()
    worker.run()
    said = ev.KeeperSaid((kw.Ended(attempt=kept_dead(KEY)),), (), ((KEY, SEEN),))
    assert reports(worker.step(said))[KEY].evidence == SEEN
    later = msgspec.structs.replace(SEEN, seen_at=NOW + 9)
    again = ev.KeeperSaid((kw.Ended(attempt=kept_dead(KEY)),), (), ((KEY, later),))
    assert reports(worker.step(again))[KEY].evidence == SEEN, "the first look counts"


def test_what_never_ran_has_evidence_too() -> None:
    worker = a_ready_worker()
    worker.start()
    effects = worker.step(ev.SpawnBlocked(KEY, "log", 28, "no space left", SEEN))
    assert reports(effects)[KEY].evidence == SEEN
    worker.start("web.2#1")
    refused = ev.KeeperSaid((kw.Refused(key="web.2#1", reason="full"),), (), (("web.2#1", SEEN),))
    assert reports(worker.step(refused))["web.2#1"].evidence == SEEN
    bare = a_ready_worker(artifacts=())
    bare.start()
    failed = wire.InstallFailed(digest=DIGEST, message="disk full")
    assert reports(bare.step(ev.Performed(failed, SEEN)))[KEY].evidence == SEEN


def test_a_deadline_of_the_keeper_is_no_strangers_signal() -> None:
    worker = a_ready_worker()
    worker.run()
    report = ended(worker, kept_dead(KEY, 9, deadline_s=30.0))
    assert report.evidence is not None
    assert report.evidence.limit == "its keeper ended it: it had not executed 30 s after its fork"


def test_what_its_keeper_saw_of_tree_and_limits_is_evidence() -> None:
    worker = a_ready_worker()
    worker.run()
    survivors = (kw.KeptSurvivor(pid=7, command="dd (in disk sleep)"),)
    enforced = {"memory": "cgroup v1", "cpu": "rlimit"}
    facts: dict[str, Any] = {"lingering": 3, "survivors": survivors, "enforced": enforced}
    report = ended(worker, kept_dead(KEY, 9, oom_kills=1, **facts))
    assert report.enforced == enforced
    assert report.evidence is not None
    seen = report.evidence
    assert (seen.lingering, seen.survivors[0].pid) == (3, 7)
    assert seen.oom == "the OOM killer took 1 process of this instance at its memory limit"
    assert (seen.proves_oom, seen.limit) == (True, None)


@pytest.mark.parametrize(
    ("status", "facts", "limit"),
    [
        (24, {"enforced": {"cpu": "rlimit"}}, "it had used the CPU time of its limit cpu"),
        (24, {}, None),
        (25, {}, "a file had reached the size that setrlimit(2) allows"),
        (0x100, {"limit_hits": {"pids": 3}}, "it met its limits: pids, 3 times"),
        (9, {"limit_hits": {"pids": 3}}, None),
        (9, {"signals": (kw.KeptSignal(signal=9, at=NOW, note="pids 9"),)}, WATCHED),
        (9, {"signals": (kw.KeptSignal(signal=9, at=NOW),)}, None),
    ],
)
def test_only_the_limit_that_ended_it_is_said_to_have(
    status: int, facts: dict[str, Any], limit: str | None
) -> None:
    worker = a_ready_worker()
    worker.run()
    report = ended(worker, kept_dead(KEY, status, **facts))
    assert report.evidence is not None and report.evidence.limit == limit


def test_what_does_not_die_is_told_of_while_it_lives() -> None:
    worker = a_ready_worker()
    worker.run()
    worker.step(ev.MasterSaid((wire.End(key=KEY, signal=9, grace_s=None),)))
    left = (kw.KeptSurvivor(pid=100, command="dd"),)
    stuck = kept(KEY, executed=True, survivors=left)
    report = reports(worker.keeper_says(kw.Stuck(attempt=stuck)))[KEY]
    assert report.state is InstanceState.STOPPING
    assert report.evidence is not None and report.evidence.survivors[0].pid == 100
    late = ended(worker, kept_dead(KEY, 9))
    assert late.evidence is not None and late.evidence.survivors == ()


def test_what_is_enforced_is_told_as_soon_as_it_runs() -> None:
    worker = a_ready_worker()
    worker.start()
    said = kw.Spawned(
        key=KEY, pid=100, forked_at=NOW, executed_at=NOW, enforced={"nofile": "rlimit"}
    )
    assert reports(worker.keeper_says(said))[KEY].enforced == {"nofile": "rlimit"}


def test_a_refusal_has_the_stage_that_its_keeper_says() -> None:
    worker = a_ready_worker()
    worker.start()
    refused = kw.Refused(key=KEY, reason="no cgroup here", stage="limits")
    death = reports(worker.keeper_says(refused))[KEY].death
    assert death == SpawnFailed(stage="limits", errno=0, message="no cgroup here")


def test_what_had_to_travel_is_reported() -> None:
    worker = a_ready_worker(artifacts=())
    worker.start()
    done = wire.Installed(
        digest=DIGEST, bytes_sent=77, bytes_total=99, files_sent=1, files_total=2, seconds=0.1
    )
    worker.step(ev.Performed(done))
    worker.spawned()
    report = worker.core.report(KEY)
    assert report is not None and report.fetched_bytes == 77
