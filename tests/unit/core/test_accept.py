"""What each command does when it is accepted, and when it is refused."""

from __future__ import annotations

import pytest

from corps.core.records import App
from corps.model.artifact import Transfer
from corps.model.command import (
    AnyCommand,
    AnyResult,
    Copied,
    Copy,
    Delete,
    Deleted,
    Failure,
    Instances,
    Kill,
    Launch,
    Remove,
    Signal,
    Stop,
)
from corps.model.instance import Cause, Desired, Exited, InstanceState, SpawnFailed
from corps.wire import worker as wire
from tests.support.build import (
    CLUSTER,
    DIGEST,
    AMaster,
    a_dead_instance,
    a_death_report,
    a_report,
    a_worker,
    an_artifact,
    installed,
)

OTHER = "2" * 64


def answer(master: AMaster, command: AnyCommand) -> AnyResult | None:
    """What the command is answered at once, if anything."""
    id = f"order-{len(master.said):06d}"
    master.order(command, id=id)
    return next(iter(master.replies(id)), None)


def refusal(master: AMaster, command: AnyCommand) -> Failure:
    """It must be refused, and change nothing."""
    cluster = master.core.cluster
    before = dict(cluster.instances), dict(cluster.artifacts), dict(cluster.apps)
    result = answer(master, command)
    assert isinstance(result, Failure), result
    assert (cluster.instances, cluster.artifacts, cluster.apps) == before
    return result


# ---- launch


def test_launches_are_spread_over_the_least_loaded() -> None:
    master = AMaster()
    for name in ("w1", "w2", "w3"):
        master.join(name)
    master.launch(count=1, on="w2")
    assert [i.worker for i in master.launch(count=5)] == ["w1", "w3", "w1", "w2", "w3"]


def test_a_launch_is_sent_to_its_worker_with_what_to_run() -> None:
    master = AMaster()
    session = master.join()
    (instance,) = master.launch(args=("-v",), env={"A": "b"}, cwd="/tmp")
    (start,) = master.sent(wire.Start, session)
    assert start.key == "web.1#1"
    assert start.launch == instance.launch
    assert (start.launch.args, start.launch.env, start.launch.cwd) == (("-v",), {"A": "b"}, "/tmp")
    assert start.launch.digest == DIGEST
    assert instance.state is InstanceState.PENDING


def test_numbers_count_up_and_are_never_used_again() -> None:
    master = AMaster()
    session = master.join()
    (first,) = master.launch()
    master.hear(session, wire.Changed(reports=(a_death_report(first.key),)))
    master.order(Remove(targets=(first.id,)))
    master.hear(session, wire.Removed(keys=(first.key,)))
    assert [i.id for i in master.launch(count=2)] == ["web.2", "web.3"]


def test_on_without_count_means_one_on_each_that_is_meant() -> None:
    master = AMaster()
    for name in ("w1", "w2", "w3"):
        master.join(name, labels={"zone": "b" if name == "w3" else "a"})
    master.launch(count=3, on="w1")  # whatever else runs there
    assert sorted(i.worker for i in master.launch(count=None, on="zone=a")) == ["w1", "w2"]
    assert sorted(i.worker for i in master.launch(count=None, on="all")) == ["w1", "w2", "w3"]
    assert [i.worker for i in master.launch(count=None, on="w3")] == ["w3"]
    assert len(master.launch(count=None, on=None)) == 1


def test_without_on_those_are_chosen_that_have_the_artifact() -> None:
    master = AMaster()
    master.join("w1")
    master.join("w2")
    master.order(Copy(name="web", digest=DIGEST, to="w2"))
    assert {i.worker for i in master.launch(count=3)} == {"w2"}


def test_with_on_another_worker_may_be_chosen_and_is_to_have_the_artifact() -> None:
    master = AMaster()
    master.join("w1")
    master.join("w2")
    master.order(Copy(name="web", digest=DIGEST, to="w2"))
    master.launch(on="w1")
    assert master.core.cluster.artifacts[f"web@{DIGEST}"].workers == ("w1", "w2")


def test_workers_that_are_not_ready_are_passed_over_unless_named() -> None:
    master = AMaster()
    master.join("w1")
    master.close(master.join("w2"))
    assert [i.worker for i in master.launch(count=None, on="all")] == ["w1"]
    refused = refusal(master, Launch(artifact="web", on="w[1-2]"))
    assert (refused.code, refused.message) == (
        "unavailable",
        "worker 'w2' is suspect: nothing was launched",
    )


@pytest.mark.parametrize(
    ("command", "code", "says"),
    [
        (Launch(artifact="wbe"), "not_found", "did you mean 'web'"),
        (Launch(artifact="Web"), "invalid", "bad artifact name"),
        (Launch(artifact="web@ffff"), "not_found", "has no version 'ffff'"),
        (Launch(artifact="web", count=0), "invalid", "count is 0"),
        (Launch(artifact="web", count=10_001), "invalid", "from 1 to 10000"),
        (Launch(artifact="web", on="w9"), "not_found", "no worker 'w9'"),
        (Launch(artifact="web", on="w[2-1]"), "invalid", "bad range"),
        (Launch(artifact="web", on="zone=nowhere"), "unavailable", "none has these labels"),
        (Launch(artifact="web", args=("a\0b",)), "invalid", "args[0] has a NUL"),
        (Launch(artifact="web", env={"CORPS_X": ""}), "invalid", "is set by corps"),
        (Launch(artifact="web", cwd="tmp"), "invalid", "not absolute"),
    ],
)
def test_a_launch_that_cannot_be_is_refused(command: Launch, code: str, says: str) -> None:
    master = AMaster()
    master.join()
    master.launch()
    refused = refusal(master, command)
    assert refused.code == code
    assert says in refused.message


def test_a_launch_without_any_usable_worker_names_their_states() -> None:
    master = AMaster([a_worker("w1"), an_artifact(workers=("w1",))])
    assert refusal(master, Launch(artifact="web")).message == "no usable worker: w1 is suspect"


def test_a_name_means_the_version_that_was_copied_last() -> None:
    master = AMaster()
    master.join()
    master.order(Copy(name="web", digest=DIGEST))
    master.now += 1
    master.order(Copy(name="web", digest=OTHER))
    master.now += 1
    assert [i.launch.digest for i in master.launch()] == [OTHER]
    master.order(Copy(name="web", digest=DIGEST))
    assert [i.launch.digest for i in master.launch()] == [DIGEST]
    assert [i.launch.digest for i in master.launch(artifact="web@2222")] == [OTHER]


def test_a_number_that_a_stranger_has_is_not_given_out() -> None:
    """The store was set back to an older copy; the worker was not."""
    master = AMaster()
    master.join(reports=[a_report("web.7#1")])
    assert [i.id for i in master.launch()] == ["web.8"]
    assert master.events("w1")[-1] == "foreign"


# ---- stop and kill


def test_stop_asks_for_sigint_then_kill_after_the_grace() -> None:
    master = AMaster()
    session = master.join()
    instance = master.launch_running(session)
    master.order(Stop(targets=(instance.id,), grace_s=3.0))
    assert master.sent(wire.End) == [wire.End(key=instance.key, signal=2, grace_s=3.0)]
    changed = master.instance(instance.id)
    assert changed.desired is Desired.STOPPED
    assert changed.asked is not None
    assert (changed.asked.cause, changed.asked.by) == (Cause.STOP, "root")
    assert changed.state is InstanceState.RUNNING  # until its worker says otherwise


def test_kill_asks_for_sigkill_and_nothing_more() -> None:
    master = AMaster()
    instance = master.launch_running(master.join())
    master.order(Kill(targets=("web",)))
    assert master.sent(wire.End) == [wire.End(key=instance.key, signal=9, grace_s=None)]


def test_a_kill_is_never_softened_to_a_stop() -> None:
    master = AMaster()
    instance = master.launch_running(master.join())
    master.order(Kill(targets=(instance.id,)))
    master.order(Stop(targets=(instance.id,)))
    asked = master.instance(instance.id).asked
    assert asked is not None
    assert asked.cause is Cause.KILL
    assert len(master.sent(wire.End)) == 1


def test_a_second_stop_may_shorten_the_grace_and_never_lengthens_it() -> None:
    master = AMaster()
    instance = master.launch_running(master.join())
    for grace_s in (10.0, 60.0, 1.0):
        master.order(Stop(targets=(instance.id,), grace_s=grace_s))
    assert [message.grace_s for message in master.sent(wire.End)] == [10.0, 1.0]
    asked = master.instance(instance.id).asked
    assert asked is not None
    assert asked.grace_s == 1.0


def test_a_kill_after_a_stop_counts() -> None:
    master = AMaster()
    instance = master.launch_running(master.join())
    master.order(Stop(targets=(instance.id,)))
    master.order(Kill(targets=(instance.id,)))
    assert [message.signal for message in master.sent(wire.End)] == [2, 9]


def test_a_pending_instance_can_be_stopped() -> None:
    master = AMaster()
    session = master.join()
    (instance,) = master.launch()
    id = "order-stop"
    master.order(Stop(targets=(instance.id,)), id=id)
    assert master.replies(id) == []
    death = SpawnFailed(stage="cancelled", errno=125, message="stopped before it was started")
    report = a_report(instance.key, InstanceState.DEAD, death=death)
    master.hear(session, wire.Changed(reports=(report,)))
    (result,) = master.replies(id)
    assert isinstance(result, Instances)
    assert result.instances[0].state == "dead"
    assert master.instance(instance.id).message == "cancelled before it started (stop by root)"


def test_stopping_the_dead_is_done_at_once() -> None:
    master = AMaster()
    session = master.join()
    (instance,) = master.launch()
    master.hear(session, wire.Changed(reports=(a_death_report(instance.key),)))
    result = answer(master, Stop(targets=(instance.id,)))
    assert isinstance(result, Instances)
    assert master.sent(wire.End) == []


def test_stopping_everything_when_nothing_lives_is_done_at_once() -> None:
    assert answer(AMaster(), Stop(targets=("--all",))) == Instances(instances=())


@pytest.mark.parametrize("grace_s", [-1.0, float("nan"), float("inf"), 1e9])
def test_a_grace_that_cannot_be_is_refused(grace_s: float) -> None:
    master = AMaster()
    instance = master.launch_running(master.join())
    refused = refusal(master, Stop(targets=(instance.id,), grace_s=grace_s))
    assert (refused.code, refused.details) == ("invalid", {"field": "grace"})


@pytest.mark.parametrize("command", [Stop, Kill, Remove])
def test_targets_that_are_not_there_are_refused(command: type[Stop | Kill | Remove]) -> None:
    master = AMaster()
    master.launch_running(master.join())
    assert refusal(master, command(targets=("wbe",))).code == "not_found"
    assert refusal(master, command(targets=())).code == "invalid"
    assert refusal(master, command(targets=("web.1", "web.2"))).code == "not_found"
    assert refusal(master, command(targets=("web.1",) * 10_001)).code == "invalid"


# ---- signal


def test_a_signal_is_sent_and_recorded_as_asked() -> None:
    master = AMaster()
    instance = master.launch_running(master.join())
    master.order(Signal(targets=(instance.id,), signal=10), id="order-signal")
    (sent,) = master.sent(wire.SendSignal)
    assert sent == wire.SendSignal(key=instance.key, signal=10, command="order-signal")
    assert master.instance(instance.id).desired is Desired.RUNNING
    assert master.events(instance.id)[-1] == "signal"


def test_a_signal_does_not_hide_who_asked_for_the_end() -> None:
    master = AMaster()
    instance = master.launch_running(master.join())
    master.order(Stop(targets=(instance.id,)))
    master.order(Signal(targets=(instance.id,), signal=10))
    asked = master.instance(instance.id).asked
    assert asked is not None
    assert asked.cause is Cause.STOP


def test_only_what_runs_on_a_worker_that_is_there_can_be_signalled() -> None:
    master = AMaster()
    session = master.join()
    running = master.launch_running(session)
    (pending,) = master.launch()
    (dead,) = master.launch()
    report = a_death_report(dead.key, Exited(code=3))
    master.hear(session, wire.Changed(reports=(report,)))
    for target, says in ((pending.id, "pending now"), (dead.id, "dead: exited 3")):
        refused = refusal(master, Signal(targets=(running.id, target), signal=1))
        assert (refused.code, says in refused.message) == ("conflict", True)
    master.close(session)
    refused = refusal(master, Signal(targets=(running.id,), signal=1))
    assert refused.code == "unavailable"
    assert master.sent(wire.SendSignal) == []


@pytest.mark.parametrize("number", [0, -1, 65, 1 << 40])
def test_a_signal_that_does_not_exist_is_refused(number: int) -> None:
    master = AMaster()
    instance = master.launch_running(master.join())
    assert refusal(master, Signal(targets=(instance.id,), signal=number)).code == "invalid"


# ---- remove


def test_the_living_are_not_removed() -> None:
    master = AMaster()
    instance = master.launch_running(master.join())
    refused = refusal(master, Remove(targets=(instance.id,)))
    assert refused.code == "conflict"
    assert "'web.1' not dead: stop first" in refused.message
    assert answer(master, Remove(targets=("web",))) is not None  # an app: its dead ones, none
    assert master.sent(wire.Remove) == []


def test_what_is_removed_has_its_logs_deleted_first() -> None:
    master = AMaster()
    session = master.join()
    (instance,) = master.launch()
    master.hear(session, wire.Changed(reports=(a_death_report(instance.key),)))
    master.order(Remove(targets=("--all",)), id="order-rm")
    assert master.sent(wire.Remove) == [wire.Remove(keys=(instance.key,))]
    assert instance.id in master.core.cluster.instances
    assert master.replies("order-rm") == []
    master.hear(session, wire.Removed(keys=(instance.key,)))
    assert instance.id not in master.core.cluster.instances
    assert [str(result) for result in master.replies("order-rm")] == [
        "Removed(instances=('web.1',))"
    ]


def test_what_has_its_logs_on_an_absent_worker_is_not_removed() -> None:
    master = AMaster()
    session = master.join()
    (instance,) = master.launch()
    master.hear(session, wire.Changed(reports=(a_death_report(instance.key),)))
    master.close(session)
    refused = refusal(master, Remove(targets=(instance.id,)))
    assert refused.code == "unavailable"
    assert "has its logs on 'w1', which is suspect" in refused.message


# ---- copy and delete


def test_a_copy_is_done_when_every_worker_has_it() -> None:
    master = AMaster()
    sessions = [master.join("w1"), master.join("w2")]
    master.order(Copy(name="web", digest=DIGEST), id="order-copy")
    assert len(master.sent(wire.Install)) == 2
    master.hear(sessions[0], installed())
    assert master.replies("order-copy") == []
    assert master.core.holders(DIGEST) == ("w1",)
    master.hear(sessions[1], installed(files_sent=0))
    (result,) = master.replies("order-copy")
    assert isinstance(result, Copied)
    assert [row.result for row in result.workers] == ["installed", "unchanged"]
    assert [row.bytes_sent for row in result.workers] == [10, 0]


@pytest.mark.parametrize("rate_bytes_s", [-1, 0, 1023])
def test_a_rate_at_which_nothing_would_arrive_is_refused(rate_bytes_s: int) -> None:
    master = AMaster()
    master.join()
    command = Copy(name="new", digest=OTHER, transfer=Transfer(rate_bytes_s=rate_bytes_s))
    assert "at least 1024" in refusal(master, command).message


def test_a_failed_install_is_a_row_with_its_reason() -> None:
    master = AMaster()
    session = master.join()
    master.order(Copy(name="web", digest=DIGEST), id="order-copy")
    master.hear(session, wire.InstallFailed(digest=DIGEST, message="no space left"))
    (result,) = master.replies("order-copy")
    assert isinstance(result, Copied)
    assert result.workers[0].result == "no space left"
    assert master.core.holders(DIGEST) == ()


def test_a_worker_that_is_away_gets_its_copy_when_it_is_back() -> None:
    master = AMaster()
    master.join("w1")
    master.close(master.join("w2"))
    master.order(Copy(name="web", digest=DIGEST), id="order-copy")
    session = master.core.session_of("w1")
    assert session is not None
    master.hear(session, installed())
    (result,) = master.replies("order-copy")
    assert isinstance(result, Copied)
    assert [row.result for row in result.workers] == ["installed", "worker 'w2' is suspect"]
    back = master.join("w2")
    assert master.sent(wire.Install, back) == [wire.Install(digest=DIGEST)]


@pytest.mark.parametrize(
    ("command", "code", "says"),
    [
        (Copy(name="Web", digest=DIGEST), "invalid", "bad artifact name"),
        (Copy(name="web", digest="xyz"), "invalid", "bad digest"),
        (Copy(name="web", digest=DIGEST, to="w9"), "not_found", "no worker 'w9'"),
        (Copy(name="web", digest=DIGEST, to="zone=x"), "unavailable", "no worker is meant"),
        (Copy(name="web", digest=DIGEST, to=""), "invalid", "bad worker name"),
    ],
)
def test_a_copy_that_cannot_be_is_refused(command: Copy, code: str, says: str) -> None:
    master = AMaster()
    master.join()
    refused = refusal(master, command)
    assert refused.code == code
    assert says in refused.message


@pytest.mark.parametrize(("first", "second"), [("web", "web.3"), ("web.3", "web")])
def test_names_that_would_make_a_target_ambiguous_are_refused(first: str, second: str) -> None:
    master = AMaster()
    master.join()
    master.order(Copy(name=first, digest=DIGEST))
    refused = refusal(master, Copy(name=second, digest=OTHER))
    assert refused.code == "conflict"
    assert "use --name" in refused.message


def test_an_app_whose_artifact_was_deleted_still_guards_its_names() -> None:
    master = AMaster()
    session = master.join()
    (instance,) = master.launch()
    master.hear(session, wire.Changed(reports=(a_death_report(instance.key),)))
    master.order(Delete(artifact="web"))
    assert refusal(master, Copy(name="web.1", digest=OTHER)).code == "conflict"


def test_an_artifact_in_use_is_not_deleted() -> None:
    master = AMaster()
    master.join("w1")
    master.join("w2")
    master.order(Copy(name="web", digest=DIGEST))
    master.launch(on="w1")
    refused = refusal(master, Delete(artifact="web"))
    assert refused.code == "conflict"
    assert "in use by 'web.1': stop them first" in refused.message
    assert answer(master, Delete(artifact="web", workers="w2")) is None  # where nothing uses it
    assert master.core.cluster.artifacts[f"web@{DIGEST}"].workers == ("w1",)


def test_a_delete_is_done_when_the_files_are_gone() -> None:
    master = AMaster()
    session = master.join(artifacts=[])
    master.order(Copy(name="web", digest=DIGEST))
    master.hear(session, installed())
    master.order(Delete(artifact="web@1111"), id="order-delete")
    assert master.core.cluster.artifacts == {}
    assert master.sent(wire.Uninstall) == [wire.Uninstall(digest=DIGEST)]
    assert master.replies("order-delete") == []
    master.hear(session, wire.Uninstalled(digest=DIGEST))
    (result,) = master.replies("order-delete")
    assert isinstance(result, Deleted)
    assert [(row.artifact, row.digest, row.result) for row in result.workers] == [
        ("web", DIGEST, "removed")
    ]
    assert master.core.holders(DIGEST) == ()


def test_files_that_another_name_needs_stay() -> None:
    master = AMaster()
    session = master.join()
    for name in ("web", "api"):
        master.order(Copy(name=name, digest=DIGEST))
    master.hear(session, installed())
    result = answer(master, Delete(artifact="web"))
    assert isinstance(result, Deleted)
    assert [row.result for row in result.workers] == ["removed"]
    assert master.sent(wire.Uninstall) == []
    assert master.core.holders(DIGEST) == ("w1",)


def test_a_delete_of_nothing_is_refused() -> None:
    master = AMaster()
    master.join()
    assert refusal(master, Delete(artifact="web")).code == "not_found"


def test_a_short_digest_must_mean_one_version() -> None:
    records = [an_artifact(digest="1" + "2" * 63), an_artifact(digest="1" + "3" * 63)]
    master = AMaster([*records, an_artifact(digest="12223" + "4" * 59)])
    assert refusal(master, Delete(artifact="web@1222")).code == "invalid"
    assert answer(master, Delete(artifact="web@1333")) == Deleted(workers=())


def test_the_dead_of_an_earlier_life_are_known() -> None:
    app = App(name="web", next_number=2)
    master = AMaster([a_worker(), an_artifact(), app, a_dead_instance()])
    result = answer(master, Kill(targets=("web.1",)))
    assert isinstance(result, Instances)
    assert result.instances[0].id == "web.1"
    assert master.core.cluster.meta.cluster == CLUSTER
