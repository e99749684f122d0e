"""What each command does when it is accepted: check everything, then change the tables at once.

Each function returns the targets whose settling ends the command, or raises before any change.
"""

from __future__ import annotations

import signal as signals
from collections.abc import Sequence

import msgspec

from corps.core.candidates import chosen_workers, gone, usable_workers
from corps.core.collect import check_collectable
from corps.core.events import ArtifactFacts
from corps.core.explain import signal_name
from corps.core.ledger import Ledger
from corps.core.placement import place, why_there
from corps.core.records import App, artifact_key
from corps.core.secrets import check_nameable
from corps.core.targets import find_artifact, find_instances
from corps.core.versions import check_free, repair, with_tag
from corps.errors import Conflict, Invalid, Unavailable
from corps.model.artifact import Artifact, check_transfer
from corps.model.command import (
    COUNT_MAX,
    GRACE_MAX_S,
    AnyCommand,
    Copy,
    Delete,
    Kill,
    Launch,
    Remove,
    Signal,
    Stop,
    Tag,
)
from corps.model.instance import (
    Asked,
    Cause,
    Desired,
    Instance,
    InstanceState,
    Launchable,
    Timings,
    move,
)
from corps.model.name import (
    CommandId,
    WorkerName,
    check_digest,
    check_name,
    instance_id,
    split_instance_id,
)
from corps.model.view import WAITING, CopyView, DeleteView
from corps.model.worker import Worker, WorkerState
from corps.wire.worker import End, Install, SendSignal, Start, Uninstall
from corps.wire.worker import Remove as RemoveFiles

SIGNAL_MAX = 64
ASKS_MAX = 20  # of one attempt, the last ones
REMOVED = "removed"


def resolve(ledger: Ledger, command: AnyCommand) -> AnyCommand:
    """The command with what it leaves to the moment made plain."""
    is_named = isinstance(command, Delete) or (isinstance(command, Tag) and command.tag is not None)
    if is_named and isinstance(command, Delete | Tag):
        artifact = find_artifact(ledger.cluster, command.artifact)
        return msgspec.structs.replace(command, artifact=artifact_key(artifact))
    return command


def copy(ledger: Ledger, command: Copy, by: str, facts: ArtifactFacts) -> tuple[str, ...]:
    if command.is_repair:
        return repair(ledger, command)
    chosen = recipients(ledger, command)
    fit = chosen if command.transfer.forced else ledger.fitness.fit(chosen, command.digest)
    if not fit:
        raise ledger.fitness.refusal(chosen, command.name, command.digest)
    names = tuple(worker.name for worker in fit)
    key = f"{command.name}@{command.digest}"
    artifact = ledger.cluster.artifacts.get(key)
    if command.tag is not None:
        check_free(ledger.cluster, command.name, command.tag, command.digest)
    if artifact is None:
        artifact = Artifact(
            name=command.name,
            digest=command.digest,
            size_bytes=facts.size_bytes,
            file_count=facts.file_count,
            created_at=ledger.now,
            created_by=by,
        )
    # Copied again, it is the newest version again: a launch by name means what came last.
    wanted = tuple(sorted({*artifact.workers, *names}))
    before = set(artifact.forced)
    forced = before.union(names) if command.transfer.forced else before.difference(names)
    ledger.save(
        msgspec.structs.replace(
            artifact,
            workers=wanted,
            created_at=ledger.now,
            forced=tuple(sorted(forced)),
            tags=with_tag(artifact, command.tag),
        )
    )
    ledger.happened("copy", command.name, f"{key[: len(command.name) + 13]} to {_listed(names)}")
    transfer = msgspec.structs.replace(command.transfer, workers=len(names))
    for name in names:
        ledger.send_to(name, Install(digest=command.digest, transfer=transfer))
    for worker in chosen:
        if worker not in fit:
            reason = ledger.fitness.reason(worker.name, command.digest)
            ledger.happened("refused", worker.name, f"no {command.name}: {reason}", worker.name)
    return tuple(worker.name for worker in chosen)


def recipients(ledger: Ledger, command: Copy) -> list[Worker]:
    """The workers that a copy is for, usable or not. Raise when it must be refused."""
    check_digest(command.digest)
    check_transfer(command.transfer)
    _check_free_name(ledger, check_name("artifact", command.name))
    chosen = chosen_workers(ledger, command.to)
    if not chosen:
        raise Unavailable(f"no worker is meant by {command.to!r}: see 'corps workers'")
    return chosen


def delete(ledger: Ledger, command: Delete, by: str) -> tuple[str, ...]:
    artifact = find_artifact(ledger.cluster, command.artifact)
    if command.as_garbage:
        check_collectable(ledger.cluster, artifact)
    chosen = [w.name for w in chosen_workers(ledger, command.workers) if w.name in artifact.workers]
    users = [
        instance.id
        for name in chosen
        for instance in ledger.cluster.live_on(name)
        if instance.launch.digest == artifact.digest
    ]
    if users:
        raise Conflict(
            f"artifact {artifact.name!r} is in use by {_listed(users)}: stop them first",
            artifact=artifact.name,
        )
    wanted = tuple(name for name in artifact.workers if name not in chosen)
    if wanted:
        forced = tuple(name for name in artifact.forced if name in wanted)
        ledger.save(msgspec.structs.replace(artifact, workers=wanted, forced=forced))
    else:
        ledger.drop(artifact)
    ledger.happened("delete", artifact.name, f"from {_listed(chosen) or 'nowhere'}, by {by}")
    for name in chosen:
        if not ledger.is_wanted(name, artifact.digest):
            ledger.send_to(name, Uninstall(digest=artifact.digest))
    return tuple(chosen)


def rows(
    ledger: Ledger, command: Copy | Delete, names: Sequence[WorkerName], *, is_resumed: bool
) -> list[CopyView] | list[DeleteView]:
    """The rows of a copy or delete as it begins, or goes on after a restart of the master."""
    if isinstance(command, Copy):
        artifact = ledger.cluster.artifacts.get(f"{command.name}@{command.digest}")
        return [
            CopyView(
                worker=name,
                artifact=command.name,
                digest=command.digest,
                bytes_sent=0,
                bytes_total=artifact.size_bytes if artifact else 0,
                files_sent=0,
                files_total=artifact.file_count if artifact else 0,
                seconds=None,
                result=unfit(ledger, command, name) or _begins(ledger, name, is_resumed),
            )
            for name in names
        ]
    artifact_name, _, digest = command.artifact.partition("@")
    return [
        DeleteView(
            worker=name,
            artifact=artifact_name,
            digest=digest,
            result=(
                REMOVED if ledger.is_wanted(name, digest) else _begins(ledger, name, is_resumed)
            ),
        )
        for name in names
    ]


def unfit(ledger: Ledger, command: Copy, worker: WorkerName) -> str:
    """Why a copy leaves this worker out; empty: it does not."""
    return "" if command.transfer.forced else ledger.fitness.reason(worker, command.digest)


def _begins(ledger: Ledger, worker: WorkerName, is_resumed: bool) -> str:
    """After a restart nobody is connected yet: who is not lost is waited for, or will be lost."""
    is_lost = ledger.cluster.workers[worker].state is WorkerState.LOST
    if worker in ledger.session_of or (is_resumed and not is_lost):
        return WAITING
    return gone(ledger.cluster, worker)


def launch(ledger: Ledger, command: Launch, id: CommandId, by: str) -> tuple[str, ...]:
    artifact = find_artifact(ledger.cluster, command.artifact)
    check_nameable(ledger.cluster, command)
    usable = usable_workers(ledger, command, artifact)
    chosen = _placed(ledger, command, usable)
    placement = why_there(command.on, command.count, len(usable))
    wanted = tuple(sorted({*artifact.workers, *chosen}))
    if wanted != artifact.workers:
        ledger.save(msgspec.structs.replace(artifact, workers=wanted))
    app = ledger.cluster.apps.get(artifact.name) or App(name=artifact.name, next_number=1)
    first = max(app.next_number, ledger.taken.get(app.name, 0) + 1)
    numbers = range(first, first + len(chosen))
    ledger.save(msgspec.structs.replace(app, next_number=numbers.stop))
    what = Launchable(
        artifact=artifact.name,
        digest=artifact.digest,
        args=command.args,
        env=command.env,
        cwd=command.cwd,
        terms=command.terms,
        signature=artifact.signature,
    )
    for number, worker in zip(numbers, chosen, strict=True):
        instance = Instance(
            id=instance_id(app.name, number),
            app=app.name,
            number=number,
            attempt=1,
            worker=worker,
            launch=what,
            command=id,
            by=by,
            state=InstanceState.PENDING,
            desired=Desired.RUNNING,
            timings=Timings(placed_at=ledger.now),
            state_since=ledger.now,
            restart=command.restart,
            failures_max=command.failures_max,
            placement=placement,
        )
        ledger.save(instance)
        ledger.happened("placed", instance.id, f"on {worker}, launched by {by}", worker)
        ledger.send_to(worker, Start(key=instance.key, launch=what))
    return tuple(instance_id(app.name, number) for number in numbers)


def _placed(ledger: Ledger, command: Launch, workers: list[Worker]) -> list[WorkerName]:
    """A worker for each instance: spread by load, or one on each that was chosen."""
    if command.count is None and command.on is not None:
        return [worker.name for worker in workers]
    count = 1 if command.count is None else command.count
    if not 0 < count <= COUNT_MAX:
        raise Invalid(f"count is {count}: from 1 to {COUNT_MAX}", field="count")
    loads = {worker.name: ledger.cluster.live_count(worker.name) for worker in workers}
    return place(count, loads)


def end(ledger: Ledger, command: Stop | Kill, id: CommandId, by: str) -> tuple[str, ...]:
    instances = find_instances(ledger.cluster, command.targets)
    if isinstance(command, Stop):
        if not 0 <= command.grace_s <= GRACE_MAX_S:
            raise Invalid(f"grace is {command.grace_s} s: from 0 to {GRACE_MAX_S:g}", field="grace")
        cause, number, grace_s = Cause.STOP, int(signals.SIGINT), command.grace_s
    else:
        cause, number, grace_s = Cause.KILL, int(signals.SIGKILL), 0.0
    for instance in instances:
        if not instance.is_live:
            continue
        text = f"{cause} asked by {by}" + (f", grace {grace_s:g} s" if cause is Cause.STOP else "")
        ledger.happened(cause, instance.id, text, instance.worker)
        if instance.is_waiting:
            _end_waiting(ledger, instance, f"{cause} by {by}")
            continue
        asked = Asked(cause=cause, signal=number, by=by, command=id, at=ledger.now, grace_s=grace_s)
        asks = (*instance.asks, asked)[-ASKS_MAX:]
        if not _is_sooner(asked, instance):
            ledger.save(msgspec.structs.replace(instance, asks=asks))
        else:
            changed = msgspec.structs.replace(
                instance, desired=Desired.STOPPED, asked=asked, asks=asks
            )
            ledger.save(changed)
            ledger.send_to(instance.worker, end_message(changed, ledger.now))
    return tuple(instance.id for instance in instances)


def _end_waiting(ledger: Ledger, instance: Instance, why: str) -> None:
    """It has no process now, and will have none: its last death is how it ended."""
    dead = msgspec.structs.replace(
        move(instance, InstanceState.DEAD, ledger.now),
        desired=Desired.STOPPED,
        not_before=None,
        message=f"{instance.message}; no further attempt: {why}",
    )
    ledger.save(dead)
    ledger.happened("restart", dead.id, f"no further attempt: {why}", dead.worker)


def _is_sooner(asked: Asked, instance: Instance) -> bool:
    """A kill is never softened to a stop, nor a grace made longer: what was asked stays asked."""
    before = instance.asked
    if before is None or instance.desired is Desired.RUNNING or asked.cause is Cause.KILL:
        return True
    return before.cause is Cause.STOP and asked.at + asked.grace_s < before.at + before.grace_s


def end_message(instance: Instance, now: float) -> End:
    """What its worker must be told of an instance that should end; the grace counts from asking."""
    asked = instance.asked
    assert asked is not None
    if asked.cause is not Cause.STOP:
        return End(key=instance.key, signal=asked.signal, grace_s=None)
    left_s = max(0.0, asked.grace_s - max(0.0, now - asked.at))
    return End(key=instance.key, signal=asked.signal, grace_s=left_s)


def signal(ledger: Ledger, command: Signal, id: CommandId, by: str) -> tuple[str, ...]:
    if not 0 < command.signal <= SIGNAL_MAX:
        raise Invalid(f"no signal {command.signal}: from 1 to {SIGNAL_MAX}", field="signal")
    instances = find_instances(ledger.cluster, command.targets)
    for instance in instances:
        _check_signalable(ledger, instance)
    for instance in instances:
        asked = Asked(cause=Cause.KILL, signal=command.signal, by=by, command=id, at=ledger.now)
        counts = instance.asked is None or instance.desired is Desired.RUNNING
        ledger.save(
            msgspec.structs.replace(
                instance,
                asked=asked if counts else instance.asked,
                asks=(*instance.asks, asked)[-ASKS_MAX:],
            )
        )
        text = f"{signal_name(command.signal)} sent by {by}"
        ledger.happened("signal", instance.id, text, instance.worker)
        message = SendSignal(key=instance.key, signal=command.signal, command=id)
        ledger.send_to(instance.worker, message)
    return tuple(instance.id for instance in instances)


def remove(ledger: Ledger, command: Remove) -> tuple[str, ...]:
    instances = find_instances(ledger.cluster, command.targets, with_dead=True)
    targets = set(command.targets)
    named = [instance for instance in instances if instance.is_live and instance.id in targets]
    if named:
        raise Conflict(f"{_listed([i.id for i in named])} not dead: stop first")
    dead = [instance for instance in instances if not instance.is_live]
    for instance in dead:
        if instance.worker not in ledger.session_of:
            raise Unavailable(
                f"{instance.id!r} has its logs on {instance.worker!r}, which is "
                f"{ledger.cluster.workers[instance.worker].state}: try again when it is back"
            )
    by_worker: dict[WorkerName, list[str]] = {}
    for instance in dead:
        by_worker.setdefault(instance.worker, []).append(instance.key)
    for worker, keys in by_worker.items():
        ledger.send_to(worker, RemoveFiles(keys=tuple(keys)))
    return tuple(instance.id for instance in dead)


def _check_signalable(ledger: Ledger, instance: Instance) -> None:
    if instance.state not in (InstanceState.RUNNING, InstanceState.STOPPING):
        now = f"dead: {instance.message}" if not instance.is_live else f"{instance.state} now"
        raise Conflict(f"{instance.id!r} is {now}: it cannot be signalled")
    if instance.worker not in ledger.session_of:
        raise Unavailable(
            f"{instance.id!r} cannot be reached: {gone(ledger.cluster, instance.worker)}"
        )


def _check_free_name(ledger: Ledger, name: str) -> None:
    """An app `web.3` beside an app `web` would make the target `web.3` mean two things."""
    known = {artifact.name for artifact in ledger.cluster.artifacts.values()}
    known.update(ledger.cluster.apps)
    split = split_instance_id(name)
    if split and split[0] in known:
        raise Conflict(
            f"{name!r} would look like an instance of the app {split[0]!r}: use --name", name=name
        )
    for other in sorted(known):
        split = split_instance_id(other)
        if split and split[0] == name:
            raise Conflict(
                f"instances of {name!r} would look like the app {other!r}: use --name", name=name
            )


def _listed(ids: Sequence[str]) -> str:
    shown = ", ".join(repr(id) for id in ids[:5])
    return shown + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")
