"""What a worker does with the master's words: hello, heartbeats, artifacts."""

from __future__ import annotations

from corps.core import events as ev
from corps.core.worker import DIGESTS_A_PART, NOTES_MAX, REPORTS_A_PART
from corps.model.instance import InstanceState, Launchable, SpawnFailed
from corps.wire import keeper as kw
from corps.wire import worker as wire
from corps.wire.output import Note
from tests.support.build import (
    CLUSTER,
    DIGEST,
    NOW,
    AWorker,
    a_hello,
    a_ready_worker,
    installed,
    instructed,
    kept,
    reports,
    told,
)

S = InstanceState
KEY = "web.1#1"
OTHER = "2" * 64


def kinds(effects: list[ev.WorkerEffect]) -> list[str]:
    return [
        type(effect.message if isinstance(effect, ev.Tell) else effect).__name__
        for effect in effects
    ]


# ---- joining


def test_nobody_is_told_hello_before_the_keeper_said_what_runs() -> None:
    worker = AWorker()
    assert worker.step(ev.Linked()) == []
    assert worker.keeper_lists(kept(), is_last=False) == []
    assert worker.keeper_lists() == [ev.Tell(a_hello(now=NOW))]
    effects = worker.welcome()
    (inventory,) = told(effects, wire.Inventory)
    assert [report.key for report in inventory.reports] == [KEY]
    assert told(effects, wire.Changed) == []  # it is all in the inventory


def test_once_it_was_listed_a_new_connection_begins_with_hello() -> None:
    worker = AWorker()
    assert worker.keeper_lists() == []
    assert worker.step(ev.Linked()) == [ev.Tell(a_hello(now=NOW))]
    worker.step(ev.Unlinked())
    worker.step(ev.KeeperGone())
    assert worker.step(ev.Linked()) == [ev.Tell(a_hello(now=NOW))]


def test_a_welcome_is_answered_with_everything_it_has() -> None:
    worker = AWorker(artifacts=[DIGEST, OTHER])
    worker.keeper_lists(kept())
    worker.step(ev.Linked())
    assert told(worker.welcome(), wire.Inventory) == [
        wire.Inventory(
            reports=(worker.core.report(KEY),),  # type: ignore[arg-type] # it is there
            artifacts=(DIGEST, OTHER),
            is_last=True,
        )
    ]


def test_a_large_inventory_is_told_in_parts_and_the_last_says_so() -> None:
    digests = [f"{number:064x}" for number in range(DIGESTS_A_PART + 1)]
    worker = AWorker(artifacts=digests)
    keys = [f"web.{number}#1" for number in range(1, 2 * REPORTS_A_PART + 2)]
    worker.keeper_lists(*(kept(key) for key in keys))
    worker.step(ev.Linked())
    parts = told(worker.welcome(), wire.Inventory)
    assert [len(part.reports) for part in parts] == [REPORTS_A_PART, REPORTS_A_PART, 1]
    assert [len(part.artifacts) for part in parts] == [DIGESTS_A_PART, 1, 0]
    assert [part.is_last for part in parts] == [False, False, True]
    assert [report.key for part in parts for report in part.reports] == keys


def test_a_worker_of_no_cluster_adopts_the_one_that_bids_it_welcome() -> None:
    worker = AWorker(cluster=None)
    worker.keeper_lists()
    worker.step(ev.Linked())
    assert worker.welcome()[0] == ev.Adopt(CLUSTER, epoch=1)
    worker.step(ev.Unlinked())
    assert worker.step(ev.Linked()) == [ev.Tell(a_hello(epoch=1, now=NOW))]


def test_a_worker_does_not_serve_two_clusters() -> None:
    worker = AWorker(cluster="c-2")
    worker.keeper_lists()
    worker.step(ev.Linked())
    (leave,) = worker.welcome()
    assert isinstance(leave, ev.Leave)
    assert leave.code == "conflict"


def test_a_refused_worker_leaves_and_says_why() -> None:
    worker = a_ready_worker()
    refused = wire.Refused(code="conflict", message="choose another --name")
    assert worker.obey(refused) == [ev.Leave("conflict", "choose another --name")]


def test_told_to_rejoin_it_says_hello_and_everything_again() -> None:
    worker = a_ready_worker()
    worker.run()
    assert kinds(worker.obey(wire.Rejoin())) == ["Hello"]
    worker.keeper_says(kw.Ended(attempt=kept(is_live=False, status=0)))
    assert told(worker.said, wire.Changed)[-1].reports[0].state is S.RUNNING  # silent since
    (inventory,) = told(worker.welcome(), wire.Inventory)
    assert inventory.reports[0].state is S.DEAD


def test_shutdown_ends_the_keeper_and_then_itself() -> None:
    worker = a_ready_worker()
    quit_, leave = worker.obey(wire.Shutdown())
    assert quit_ == ev.Instruct(kw.Quit())
    assert isinstance(leave, ev.Leave)
    assert leave.code is None


def test_questions_are_the_drivers() -> None:
    worker = a_ready_worker()
    assert worker.obey(wire.Sample(ask=1)) == []
    assert worker.obey(wire.ReadLog(ask=1, key=KEY, stream="stdout", offset=0)) == []
    assert worker.obey(wire.ReadOutput(ask=1, key=KEY)) == []


def test_what_operators_should_hear_is_told_when_there_is_a_master() -> None:
    worker = AWorker()
    note = Note(kind="disk-low", subject=None, message="nearly full")
    assert worker.step(ev.Noticed((note,))) == []
    worker.keeper_lists()
    worker.step(ev.Linked())
    assert told(worker.welcome(), wire.Noted) == [wire.Noted(notes=(note,))]
    assert worker.step(ev.Noticed((note, note))) == [ev.Tell(wire.Noted(notes=(note, note)))]
    worker.step(ev.Unlinked())
    for _ in range(NOTES_MAX + 1):
        assert worker.step(ev.Noticed((note,))) == []
    worker.step(ev.Linked())
    (said,) = told(worker.welcome(), wire.Noted)
    assert len(said.notes) == NOTES_MAX


def test_nobody_is_obeyed_before_the_welcome() -> None:
    """The last words of an old connection, or one who is no master of ours."""
    worker = AWorker()
    worker.keeper_lists()
    for event in (None, ev.Linked(), ev.Unlinked()):
        if event is not None:
            worker.step(event)
        assert worker.start() == []
        assert worker.obey(wire.Rejoin(), wire.Uninstall(digest=DIGEST), wire.Shutdown()) == []
    assert worker.welcome() == []
    assert worker.core.report(KEY) is None


# ---- heartbeats


def test_a_heart_beats_from_the_welcome_on() -> None:
    worker = AWorker()
    worker.keeper_lists()
    worker.step(ev.Linked())
    assert worker.wait(3.0) == []
    worker.welcome()
    assert [beat.seq for beat in told(worker.wait(3.2), wire.Heartbeat)] == [1, 2, 3]
    worker.step(ev.Unlinked())
    assert worker.wait(3.0) == []


def test_beats_that_were_missed_are_not_made_up_for() -> None:
    worker = a_ready_worker()
    worker.now += 60.0
    assert len(told(worker.step(ev.Tick()), wire.Heartbeat)) == 1
    assert len(told(worker.wait(0.9), wire.Heartbeat)) <= 1


# ---- artifacts


def test_what_is_not_there_is_fetched_before_it_is_started() -> None:
    worker = a_ready_worker(artifacts=[])
    effects = worker.start()
    assert kinds(effects) == ["Fetch", "Changed"]
    assert worker.state() is S.FETCHING
    effects = worker.step(ev.Performed(installed()))
    assert kinds(effects) == ["Installed", "Spawn"]
    assert worker.state() is S.STARTING


def test_what_is_not_verified_is_verified_before_it_is_started() -> None:
    worker = a_ready_worker()
    assert worker.start() == [ev.Spawn(KEY, Launchable(artifact="web", digest=DIGEST))]
    worker.start("web.2#1")
    assert kinds(worker.step(ev.Unverified(KEY))) == ["Fetch", "Changed"]
    assert kinds(worker.step(ev.Unverified("web.2#1"))) == ["Changed"]  # one fetch serves both
    effects = worker.step(ev.Performed(installed(files_sent=0)))
    spawns = [effect for effect in effects if isinstance(effect, ev.Spawn)]
    assert [(spawn.key, spawn.is_verified) for spawn in spawns] == [(KEY, True), ("web.2#1", True)]


def test_what_is_to_end_meanwhile_is_not_started_after_that() -> None:
    worker = a_ready_worker()
    worker.start()
    worker.obey(wire.End(key=KEY, signal=2, grace_s=1.0))
    worker.step(ev.Unverified(KEY))
    assert worker.state() is S.DEAD
    worker.run("web.2#1")
    assert worker.step(ev.Unverified("web.2#1")) == worker.step(ev.Unverified("web.9#1")) == []


def test_one_fetch_serves_all_who_wait() -> None:
    worker = a_ready_worker(artifacts=[])
    worker.start("web.1#1")
    assert kinds(worker.start("web.2#1")) == ["Changed"]
    assert kinds(worker.obey(wire.Install(digest=DIGEST))) == []
    assert kinds(worker.step(ev.Performed(installed()))) == ["Installed", "Spawn", "Spawn"]


def test_a_failed_fetch_fails_all_who_wait_and_says_why() -> None:
    worker = a_ready_worker(artifacts=[])
    worker.start()
    failed = wire.InstallFailed(digest=DIGEST, message="no space left " * 1_000)
    effects = worker.step(ev.Performed(failed))
    report = reports(effects)[KEY]
    assert isinstance(report.death, SpawnFailed)
    assert (report.death.stage, report.death.errno) == ("fetch", 2)
    assert report.death.message.startswith("no space left")
    assert len(report.death.message) == len(told(effects, wire.InstallFailed)[0].message) == 1_000


def test_an_artifact_is_removed_when_nothing_uses_it() -> None:
    worker = a_ready_worker()
    assert worker.obey(wire.Uninstall(digest=DIGEST)) == [ev.RemoveArtifact(DIGEST)]
    done = wire.Uninstalled(digest=DIGEST)
    assert worker.step(ev.Performed(done)) == [ev.Tell(done)]
    assert kinds(worker.start()) == ["Fetch", "Changed"]


def test_an_artifact_in_use_is_not_removed() -> None:
    worker = a_ready_worker()
    worker.run()
    refused = wire.Uninstalled(digest=DIGEST, in_use=True)
    assert worker.obey(wire.Uninstall(digest=DIGEST)) == [ev.Tell(refused)]
    worker.keeper_says(kw.Ended(attempt=kept(is_live=False, status=0)))
    assert worker.obey(wire.Uninstall(digest=DIGEST)) == [ev.RemoveArtifact(DIGEST)]


def test_what_is_fetched_and_wanted_no_more_is_removed_when_it_has_come() -> None:
    worker = a_ready_worker(artifacts=[])
    worker.obey(wire.Install(digest=DIGEST))
    assert worker.obey(wire.Uninstall(digest=DIGEST)) == []
    effects = worker.step(ev.Performed(installed()))
    assert kinds(effects) == ["Installed", "RemoveArtifact"]


def test_what_is_being_removed_is_fetched_again_only_after_that() -> None:
    worker = a_ready_worker()
    worker.obey(wire.Uninstall(digest=DIGEST))
    assert kinds(worker.start()) == ["Changed"]
    assert worker.state() is S.FETCHING
    effects = worker.step(ev.Performed(wire.Uninstalled(digest=DIGEST)))
    assert kinds(effects) == ["Uninstalled", "Fetch"]
    assert kinds(worker.step(ev.Performed(installed()))) == ["Installed", "Spawn"]


def test_one_who_waits_for_a_later_fetch_does_not_fail_with_an_earlier_one() -> None:
    worker = a_ready_worker(artifacts=[])
    worker.obey(wire.Install(digest=DIGEST), wire.Uninstall(digest=DIGEST))
    worker.start()
    failed = wire.InstallFailed(digest=DIGEST, message="broken")
    effects = worker.step(ev.Performed(failed))
    assert kinds(effects) == ["InstallFailed", "Uninstalled", "Fetch"]
    assert worker.state() is S.FETCHING


def test_a_failed_check_of_what_is_there_does_not_take_it_away() -> None:
    worker = a_ready_worker()
    worker.obey(wire.Install(digest=DIGEST))
    worker.step(ev.Performed(wire.InstallFailed(digest=DIGEST, message="no connection")))
    assert kinds(worker.start()) == ["Spawn"]


def test_files_that_could_not_be_removed_are_still_there() -> None:
    worker = a_ready_worker()
    worker.obey(wire.Uninstall(digest=DIGEST))
    worker.step(ev.Performed(wire.Uninstalled(digest=DIGEST, in_use=True)))
    assert kinds(worker.start()) == ["Spawn"]


def test_the_logs_of_the_living_are_not_deleted() -> None:
    worker = a_ready_worker()
    worker.run()
    effects = worker.obey(wire.Remove(keys=(KEY, "web.9#1")))
    kept_back = ev.Tell(wire.Removed(keys=(), alive=(KEY,)))
    assert effects == [kept_back, ev.RemoveFiles(("web.9#1",))]
    done = wire.Removed(keys=("web.9#1",))
    assert worker.step(ev.Performed(done)) == [ev.Tell(done)]


def test_what_ends_while_nobody_listens_is_not_told_to_the_wrong_one() -> None:
    """Before it is welcome the master would not hear it; the inventory has it."""
    worker = a_ready_worker()
    worker.step(ev.Unlinked())
    assert worker.step(ev.Performed(installed(OTHER))) == []
    worker.step(ev.Linked())
    assert worker.step(ev.Performed(wire.Removed(keys=(KEY,)))) == []
    (inventory,) = told(worker.welcome(), wire.Inventory)
    assert inventory.artifacts == (DIGEST, OTHER)


def test_peaks_of_the_unknown_are_ignored() -> None:
    worker = a_ready_worker()
    assert worker.step(ev.Peaks(((KEY, 5),))) == []
    assert instructed(worker.said, kw.Spawn) == []
