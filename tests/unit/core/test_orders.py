"""A command is carried out once, answered once, and survives whatever restarts."""

from __future__ import annotations

import msgspec
import pytest

from corps.core.events import Save, Send
from corps.core.orders import UNDER_WAY_MAX
from corps.core.records import App, CommandRecord
from corps.errors import Unavailable
from corps.model.command import (
    Copied,
    Copy,
    Delete,
    Deleted,
    Failure,
    Instances,
    Kill,
    Launch,
    Remove,
    Removed,
    Signal,
    Stop,
)
from corps.model.instance import Evidence, InstanceState, Signaled, Survivor
from corps.model.worker import WorkerState
from corps.wire import worker as wire
from tests.support.build import (
    DIGEST,
    NOW,
    AMaster,
    a_death_report,
    a_report,
    a_worker,
    an_instance,
    delivered,
    installed,
)

ID = "order-of-this-test"
S = InstanceState


def test_the_same_id_is_carried_out_once_and_answered_as_often_as_asked() -> None:
    master = AMaster()
    session = master.join()
    master.order(Copy(name="web", digest=DIGEST))
    for _ in range(2):
        master.order(Launch(artifact="web"), id=ID)
    assert list(master.core.cluster.instances) == ["web.1"]
    assert master.replies(ID) == []
    master.hear(session, wire.Changed(reports=(a_report(),)))
    master.order(Launch(artifact="web"), id=ID)
    first, again = master.replies(ID)
    assert first == again
    assert isinstance(first, Instances)
    assert [row.id for row in first.instances] == ["web.1"]


def test_the_same_id_with_another_body_is_a_conflict_and_only_its_sender_hears_of_it() -> None:
    master = AMaster()
    master.join()
    master.order(Copy(name="web", digest=DIGEST))
    master.order(Launch(artifact="web"), id=ID, body="one")
    *_, effect = master.order(Launch(artifact="web", count=2), id=ID, body="two")
    assert "with another body" in str(effect)
    assert getattr(effect, "body", None) == "two"
    assert list(master.core.cluster.instances) == ["web.1"]


def test_a_refused_command_is_not_remembered() -> None:
    master = AMaster()
    session = master.join()
    master.order(Launch(artifact="web"), id=ID)
    assert [type(result) for result in master.replies(ID)] == [Failure]
    master.order(Copy(name="web", digest=DIGEST))
    master.order(Launch(artifact="web"), id=ID)
    master.hear(session, wire.Changed(reports=(a_report(),)))
    assert [type(result) for result in master.replies(ID)] == [Failure, Instances]


def test_a_command_is_saved_before_anything_of_it_is_said() -> None:
    master = AMaster()
    session = master.join()
    master.order(Copy(name="web", digest=DIGEST))
    for command in (Launch(artifact="web"), Kill(targets=("web",))):
        effects = master.order(command)
        kinds = [type(effect).__name__ for effect in effects]
        assert "Send" in kinds
        assert kinds == sorted(kinds, key=lambda kind: kind != "Save")
        records = [effect.record for effect in effects if isinstance(effect, Save)]
        assert any(isinstance(record, CommandRecord) for record in records)
        master.hear(session, wire.Changed(reports=(a_report(),)))


def test_there_is_a_limit_to_what_is_under_way() -> None:
    waiting = [
        CommandRecord(
            id=f"order-{n:06d}",
            body="",
            command=Kill(targets=("web.1",)),
            by="root",
            at=NOW,
            targets=("web.1",),
        )
        for n in range(UNDER_WAY_MAX)
    ]
    live = an_instance(worker="w1")
    master = AMaster([a_worker(), App(name="web", next_number=2), live, *waiting])
    master.order(Kill(targets=("web.1",)), id=ID)
    (refused,) = master.replies(ID)
    assert isinstance(refused, Failure)
    assert refused.code == "unavailable"


def test_a_launch_is_done_when_every_instance_started_or_died() -> None:
    master = AMaster()
    session = master.join()
    master.order(Copy(name="web", digest=DIGEST))
    master.order(Launch(artifact="web", count=2), id=ID)
    master.hear(session, wire.Changed(reports=(a_report("web.1#1", S.FETCHING),)))
    master.hear(session, wire.Changed(reports=(a_report("web.1#1"),)))
    assert master.replies(ID) == []
    master.hear(session, wire.Changed(reports=(a_death_report("web.2#1"),)))
    (result,) = master.replies(ID)
    assert isinstance(result, Instances)
    assert [row.state for row in result.instances] == ["running", "dead"]


def test_a_launch_does_not_wait_for_a_lost_worker() -> None:
    master = AMaster()
    master.join()
    master.order(Copy(name="web", digest=DIGEST))
    master.order(Launch(artifact="web"), id=ID)
    master.wait(2.2)
    (result,) = master.replies(ID)
    assert isinstance(result, Instances)
    assert [row.state for row in result.instances] == ["unknown"]


def test_a_stop_is_done_when_every_target_is_dead_or_unknown() -> None:
    master = AMaster()
    one = master.launch_running(master.join("w1"), "w1")
    session = master.join("w2")
    two = master.launch_running(session, "w2")
    master.order(Stop(targets=("web",)), id=ID)
    master.hear(session, wire.Changed(reports=(a_death_report(two.key),)))
    assert master.replies(ID) == []
    for _ in range(3):
        master.wait(0.8)
        master.hear(session, wire.Heartbeat(seq=1))
    (result,) = master.replies(ID)
    assert isinstance(result, Instances)
    assert {row.id: row.state for row in result.instances} == {one.id: "unknown", two.id: "dead"}


def test_a_kill_without_effect_is_answered_and_the_instance_lives_on() -> None:
    """Else it would wait for what only the kernel can wake."""
    master = AMaster()
    session = master.join()
    one = master.launch_running(session)
    master.order(Kill(targets=("web",)), id=ID)
    stopping = a_report(one.key, S.STOPPING, delivered=delivered(9))
    master.hear(session, wire.Changed(reports=(stopping,)))
    assert master.replies(ID) == []
    left = Evidence(seen_at=NOW, survivors=(Survivor(pid=100, command="dd (in disk sleep)"),))
    stuck = msgspec.structs.replace(stopping, evidence=left)
    master.hear(session, wire.Changed(reports=(stuck,)))
    (result,) = master.replies(ID)
    assert isinstance(result, Instances)
    (row,) = result.instances
    assert (row.state, row.survivors, row.death) == (S.STOPPING, left.survivors, None)
    master.order(Kill(targets=("web",)), id="again")
    assert len(master.replies("again")) == 1, "nor does another one wait"
    gone = a_death_report(one.key, Signaled(signal=9), evidence=Evidence(seen_at=NOW))
    master.hear(session, wire.Changed(reports=(gone,)))
    dead = master.core.cluster.instances[one.id]
    assert (dead.state, dead.message) == (S.DEAD, "killed by SIGKILL (kill by root)")


def test_a_signal_is_done_when_its_worker_says_so() -> None:
    master = AMaster()
    session = master.join()
    instance = master.launch_running(session)
    master.order(Signal(targets=(instance.id,), signal=10), id=ID)
    assert master.replies(ID) == []
    master.hear(session, wire.SignalDone(key=instance.key, command=ID, errno=0))
    assert [type(result) for result in master.replies(ID)] == [Instances]


def test_a_signal_is_done_when_its_target_dies_of_it() -> None:
    master = AMaster()
    session = master.join()
    instance = master.launch_running(session)
    master.order(Signal(targets=(instance.id,), signal=15), id=ID)
    master.hear(session, wire.Changed(reports=(a_death_report(instance.key),)))
    assert len(master.replies(ID)) == 1


def test_only_the_worker_that_was_asked_can_say_that_a_signal_is_done() -> None:
    master = AMaster()
    session, other = master.join("w1"), master.join("w2")
    instance = master.launch_running(session)
    master.order(Signal(targets=(instance.id,), signal=10), id=ID)
    master.order(Stop(targets=(instance.id,)), id="order-stop")
    done = wire.SignalDone(key=instance.key, command=ID, errno=0)
    master.hear(other, done)
    master.hear(session, wire.SignalDone(key=instance.key, command="order-stop", errno=0))
    master.hear(session, wire.SignalDone(key="web.9#1", command=ID, errno=0))
    master.hear(session, wire.SignalDone(key="web.1#9", command=ID, errno=0))
    assert master.replies(ID) == master.replies("order-stop") == []
    master.hear(session, done)
    assert len(master.replies(ID)) == 1


# ---- what waits when a connection or the master goes


def test_a_signal_whose_answer_was_lost_is_sent_again() -> None:
    master = AMaster()
    instance = master.launch_running(master.join())
    master.order(Signal(targets=(instance.id,), signal=10), id=ID)
    again = master.join(reports=[a_report(instance.key)])
    expected = wire.SendSignal(key=instance.key, signal=10, command=ID)
    assert master.sent(wire.SendSignal, again) == [expected]


def test_a_signal_that_is_known_to_be_delivered_is_not_sent_again() -> None:
    master = AMaster()
    instance = master.launch_running(master.join())
    master.order(Signal(targets=(instance.id,), signal=10), id=ID)
    again = master.join(reports=[a_report(instance.key, delivered=delivered(10, at=NOW + 1))])
    assert master.sent(wire.SendSignal, again) == []
    assert len(master.replies(ID)) == 1


def test_a_signal_delivered_long_before_it_was_asked_for_does_not_count() -> None:
    master = AMaster()
    instance = master.launch_running(master.join())
    master.order(Signal(targets=(instance.id,), signal=10), id=ID)
    old = delivered(10, at=NOW - 60)
    again = master.join(reports=[a_report(instance.key, delivered=old)])
    assert len(master.sent(wire.SendSignal, again)) == 1


def test_a_signal_survives_a_restart_of_the_master() -> None:
    master = AMaster()
    instance = master.launch_running(master.join())
    master.order(Signal(targets=(instance.id,), signal=10), id=ID)
    master.restart()
    session = master.join(reports=[a_report(instance.key)])
    assert len(master.sent(wire.SendSignal, session)) == 1
    master.hear(session, wire.SignalDone(key=instance.key, command=ID, errno=0))
    assert len(master.replies(ID)) == 1


def test_a_launch_survives_a_restart_of_the_master() -> None:
    master = AMaster()
    master.join()
    master.order(Copy(name="web", digest=DIGEST))
    master.order(Launch(artifact="web"), id=ID)
    master.restart()
    session = master.join()
    assert [start.key for start in master.sent(wire.Start, session)] == ["web.1#1"]
    master.hear(session, wire.Changed(reports=(a_report(),)))
    master.restart()
    master.order(Launch(artifact="web"), id=ID)
    first, again = master.replies(ID)
    assert first == again
    assert list(master.core.cluster.instances) == ["web.1"]


def test_a_stop_survives_a_restart_of_the_master() -> None:
    master = AMaster()
    instance = master.launch_running(master.join())
    master.order(Stop(targets=(instance.id,), grace_s=10.0), id=ID)
    master.now += 4.0
    master.restart()
    session = master.join(reports=[a_report(instance.key)])
    (end,) = master.sent(wire.End, session)
    assert (end.key, end.signal, end.grace_s) == (instance.key, 2, 6.0)
    master.hear(session, wire.Changed(reports=(a_death_report(instance.key),)))
    assert len(master.replies(ID)) == 1


def test_a_clock_that_was_set_back_does_not_lengthen_a_grace() -> None:
    master = AMaster()
    instance = master.launch_running(master.join())
    master.order(Stop(targets=(instance.id,), grace_s=10.0))
    master.now -= 3_600.0
    master.restart()
    session = master.join(reports=[a_report(instance.key)])
    assert [end.grace_s for end in master.sent(wire.End, session)] == [10.0]


def test_a_removal_survives_a_restart_of_the_master() -> None:
    master = AMaster()
    session = master.join()
    (instance,) = master.launch()
    master.hear(session, wire.Changed(reports=(a_death_report(instance.key),)))
    master.order(Remove(targets=(instance.id,)), id=ID)
    master.restart()
    session = master.join()
    assert master.sent(wire.Remove, session) == [wire.Remove(keys=(instance.key,))]
    master.hear(session, wire.Removed(keys=(instance.key,)))
    assert master.replies(ID) == [Removed(instances=(instance.id,))]


def test_a_removal_does_not_wait_for_a_lost_worker_and_says_what_is_left() -> None:
    master = AMaster()
    session = master.join()
    (instance,) = master.launch()
    master.hear(session, wire.Changed(reports=(a_death_report(instance.key),)))
    master.order(Remove(targets=(instance.id,)), id=ID)
    master.wait(2.2)
    assert master.replies(ID) == [Removed(instances=())]
    assert instance.id in master.core.cluster.instances


def test_two_removals_of_one_instance_are_both_answered() -> None:
    master = AMaster()
    session = master.join()
    (instance,) = master.launch()
    master.hear(session, wire.Changed(reports=(a_death_report(instance.key),)))
    for id in ("order-rm-1", "order-rm-2"):
        master.order(Remove(targets=(instance.id,)), id=id)
    master.hear(session, wire.Removed(keys=(instance.key,)))
    expected = [Removed(instances=(instance.id,))]
    assert master.replies("order-rm-1") == master.replies("order-rm-2") == expected


def test_nothing_is_removed_that_nobody_asked_to_remove() -> None:
    master = AMaster()
    session, other = master.join("w1"), master.join("w2")
    dead = master.launch_running(session)
    live = master.launch_running(session)
    master.hear(session, wire.Changed(reports=(a_death_report(dead.key),)))
    master.hear(session, wire.Removed(keys=(dead.key, live.key, "web.1#2", "web.1", "#", "")))
    assert set(master.core.cluster.instances) == {dead.id, live.id}
    master.order(Remove(targets=(dead.id,)))
    master.hear(other, wire.Removed(keys=(dead.key,)))
    assert dead.id in master.core.cluster.instances


def test_a_copy_survives_a_restart_of_the_master() -> None:
    master = AMaster()
    master.join()
    master.order(Copy(name="web", digest=DIGEST), id=ID)
    master.restart()
    assert master.replies(ID) == []
    session = master.join()
    assert master.sent(wire.Install, session) == [wire.Install(digest=DIGEST)]
    master.hear(session, installed())
    (result,) = master.replies(ID)
    assert isinstance(result, Copied)
    assert [row.result for row in result.workers] == ["installed"]


def test_a_copy_that_waits_over_a_restart_ends_when_its_worker_is_lost() -> None:
    master = AMaster()
    master.join()
    master.order(Copy(name="web", digest=DIGEST), id=ID)
    master.restart()
    master.wait(2.2)
    (result,) = master.replies(ID)
    assert isinstance(result, Copied)
    assert [row.result for row in result.workers] == ["worker 'w1' is lost"]


def test_a_copy_whose_answer_was_lost_is_asked_for_again() -> None:
    master = AMaster()
    master.join()
    master.order(Copy(name="web", digest=DIGEST), id=ID)
    session = master.join(artifacts=[DIGEST])  # it has it, and its word for that was lost
    assert master.sent(wire.Install, session) == [wire.Install(digest=DIGEST)]
    master.hear(session, installed(files_sent=0))
    (result,) = master.replies(ID)
    assert isinstance(result, Copied)
    assert [row.result for row in result.workers] == ["unchanged"]


def test_a_copy_that_was_deleted_meanwhile_is_not_waited_for() -> None:
    master = AMaster()
    session = master.join()
    master.order(Copy(name="web", digest=DIGEST), id=ID)
    master.order(Delete(artifact="web"), id="order-delete")
    master.close(session)
    session = master.join()
    (copied,), (deleted,) = master.replies(ID), master.replies("order-delete")
    assert isinstance(copied, Copied)
    assert isinstance(deleted, Deleted)
    assert [row.result for row in copied.workers] == ["deleted before it was installed"]
    assert [row.result for row in deleted.workers] == ["removed"]
    assert master.sent(wire.Install, session) == []


def test_a_delete_survives_a_restart_of_the_master() -> None:
    master = AMaster()
    session = master.join()
    master.order(Copy(name="web", digest=DIGEST))
    master.hear(session, installed())
    master.order(Delete(artifact="web"), id=ID)
    master.restart()
    session = master.join(artifacts=[DIGEST])
    assert master.sent(wire.Uninstall, session) == [wire.Uninstall(digest=DIGEST)]
    assert master.replies(ID) == []
    master.hear(session, wire.Uninstalled(digest=DIGEST))
    assert [type(result) for result in master.replies(ID)] == [Deleted]


def test_a_delete_that_was_copied_again_meanwhile_is_not_waited_for() -> None:
    master = AMaster()
    session = master.join()
    master.order(Copy(name="web", digest=DIGEST))
    master.hear(session, installed())
    master.order(Delete(artifact="web"), id=ID)
    master.order(Copy(name="web", digest=DIGEST))
    master.join(artifacts=[DIGEST])
    assert [type(result) for result in master.replies(ID)] == [Deleted]


def test_files_that_are_in_use_after_all_are_said_to_be() -> None:
    master = AMaster()
    session = master.join()
    master.order(Copy(name="web", digest=DIGEST))
    master.hear(session, installed())
    master.order(Delete(artifact="web"), id=ID)
    master.hear(session, wire.Uninstalled(digest=DIGEST, in_use=True))
    (result,) = master.replies(ID)
    assert isinstance(result, Deleted)
    assert [row.result for row in result.workers] == ["in use: nothing was removed"]
    assert master.core.holders(DIGEST) == ("w1",)


def test_what_is_installed_and_wanted_no_more_is_removed() -> None:
    master = AMaster()
    session = master.join()
    master.order(Copy(name="web", digest=DIGEST))
    master.order(Delete(artifact="web"))
    master.hear(session, wire.Uninstalled(digest=DIGEST, in_use=True))
    master.said.clear()
    master.hear(session, installed())
    assert master.sent(wire.Uninstall) == [wire.Uninstall(digest=DIGEST)]
    assert master.core.holders(DIGEST) == ()


def test_a_worker_that_joins_gets_what_it_lacks_and_loses_what_nobody_wants() -> None:
    master = AMaster()
    master.join("w1")
    master.order(Copy(name="web", digest=DIGEST))
    session = master.join("w1", artifacts=["2" * 64])
    assert [message.digest for message in master.sent(wire.Install, session)] == [DIGEST]
    assert [message.digest for message in master.sent(wire.Uninstall, session)] == ["2" * 64]


def test_files_of_what_still_runs_are_not_removed_when_a_worker_joins() -> None:
    master = AMaster()
    session = master.join("w1")
    master.order(Copy(name="web", digest=DIGEST))
    (instance,) = master.launch(on="w1")
    master.close(session)
    session = master.join("w1", reports=[a_report(instance.key)], artifacts=[DIGEST])
    assert master.sent(wire.Uninstall, session) == []


def test_progress_is_seen_while_a_copy_is_under_way() -> None:
    master = AMaster()
    session = master.join()
    master.order(Copy(name="web", digest=DIGEST), id=ID)
    master.hear(session, wire.Progress(digest=DIGEST, bytes_sent=4, bytes_total=9))
    master.hear(session, wire.Progress(digest="2" * 64, bytes_sent=5, bytes_total=9))
    (row,) = master.core.progress(ID)
    assert (row.bytes_sent, row.bytes_total, row.result) == (4, 9, "waiting")
    master.hear(session, installed())
    assert master.core.progress(ID) == ()


def test_where_a_copy_would_go_is_told_and_changes_nothing() -> None:
    master = AMaster([a_worker("w3", state=WorkerState.LOST)])
    master.join("w1", artifacts=[DIGEST])
    session = master.join("w2")
    said = len(master.said)
    command = Copy(name="web", digest="3" * 64)
    rows = master.core.destinations(command)
    assert [(row.worker, row.problem) for row in rows] == [
        ("w1", None),
        ("w2", None),
        ("w3", "worker 'w3' is lost"),
    ]
    master.close(session)
    problems = {row.worker: row.problem for row in master.core.destinations(command)}
    assert problems["w2"] == "worker 'w2' is suspect"
    with pytest.raises(Unavailable, match="no worker is meant by"):
        master.core.destinations(msgspec.structs.replace(command, to="zone=9"))
    assert [effect for effect in master.said[said:] if isinstance(effect, Send)] == []
    assert master.core.cluster.artifacts == {}
