"""Orders: from an operator's command to its one result.

accepted (durable) --> targets settle one by one --> done (durable) --> replied
The same id is carried out once; asking again waits, or gets the stored answer.
"""

from __future__ import annotations

from collections.abc import Container
from typing import assert_never

import msgspec

from corps.core import accept, believe, candidates, deeds, secrets, trust, versions
from corps.core.events import ArtifactFacts, Commanded
from corps.core.ledger import Ledger
from corps.core.records import CommandRecord
from corps.core.skew import SKEW_S
from corps.core.views import view_instance
from corps.errors import CorpsError, Unavailable
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
    Removed,
    Ruled,
    Sign,
    Signal,
    Signed,
    Stop,
    Tag,
    Tagged,
)
from corps.model.instance import Instance, InstanceState
from corps.model.name import CommandId, Digest, InstanceId, WorkerName
from corps.model.trust import TrustCommand
from corps.model.view import WAITING, CopyView, DeleteView
from corps.wire.worker import (
    Install,
    Installed,
    Progress,
    SendSignal,
    SignalDone,
    Uninstalled,
)
from corps.wire.worker import Remove as RemoveFiles

_STARTED = frozenset(
    {InstanceState.RUNNING, InstanceState.STOPPING, InstanceState.DEAD, InstanceState.UNKNOWN}
)
_ENDED = frozenset({InstanceState.DEAD, InstanceState.UNKNOWN})
UNDER_WAY_MAX = 10_000


class Orders:
    """Commands under way. What a command waits for is soft state: rebuilt from its targets."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._left: dict[CommandId, dict[str, None]] = {}
        self._waiting: dict[str, dict[CommandId, None]] = {}
        self._rows: dict[CommandId, dict[WorkerName, CopyView | DeleteView]] = {}
        for record in list(ledger.cluster.commands.values()):
            if record.result is None:
                self._await(record, is_resumed=True)

    def receive(self, event: Commanded) -> None:
        """Accept, refuse, or answer again."""
        known = self._ledger.cluster.commands.get(event.id)
        if known is None:
            self._accept(event)
        elif known.body != event.body:
            text = f"command {event.id} was sent before with another body: use a new id"
            self._refuse(event, Failure(code="conflict", message=text))
        elif known.result is not None:
            self._ledger.reply(event.id, event.body, known.result)

    def settle(self, instance: Instance) -> None:
        """An instance changed, or was removed: commands that wait for it may be done."""
        for id in list(self._waiting.get(instance.id, {})):
            command = self._ledger.cluster.commands[id].command
            if _is_settled(command, instance):
                self._tick_off(id, instance.id)

    def signaled(self, worker: WorkerName, message: SignalDone) -> None:
        record = self._ledger.cluster.commands.get(message.command)
        instance = self._ledger.cluster.instances.get(message.key.rpartition("#")[0])
        if record is None or not isinstance(record.command, Signal) or instance is None:
            return
        if instance.key == message.key and instance.worker == worker:
            self._tick_off(record.id, instance.id)

    def is_removing(self, instance: Instance, worker: WorkerName) -> bool:
        """It is dead, and somebody asked this worker to delete what is left of it."""
        commands = self._ledger.cluster.commands
        waiting = self._waiting.get(instance.id, {})
        is_theirs = instance.worker == worker and not instance.is_live
        return is_theirs and any(isinstance(commands[id].command, Remove) for id in waiting)

    def removed(self, ids: list[InstanceId]) -> None:
        for id in ids:
            for command in list(self._waiting.get(id, {})):
                if isinstance(self._ledger.cluster.commands[command].command, Remove):
                    self._tick_off(command, id)

    def installed(self, worker: WorkerName, message: Installed) -> None:
        result = "installed" if message.files_sent else "unchanged"
        self._copy_row(worker, message.digest, result, message)

    def install_failed(self, worker: WorkerName, digest: Digest, reason: str) -> None:
        self._copy_row(worker, digest, reason, None)

    def uninstalled(self, worker: WorkerName, message: Uninstalled) -> None:
        for id in self._waiting_for_worker(worker):
            row = self._rows[id][worker]
            if isinstance(row, DeleteView) and row.digest == message.digest:
                result = "in use: nothing was removed" if message.in_use else accept.REMOVED
                self._settle_row(id, msgspec.structs.replace(row, result=result))

    def worker_lost(self, worker: WorkerName) -> None:
        """Nothing waits for a worker that is gone."""
        for id in self._waiting_for_worker(worker):
            row = self._rows[id][worker]
            gone = candidates.gone(self._ledger.cluster, worker)
            self._settle_row(id, msgspec.structs.replace(row, result=gone))
        for record, instance in self._pending(worker, Remove):
            self._tick_off(record.id, instance.id)

    def worker_joined(self, worker: WorkerName, installed: Container[Digest]) -> None:
        """What was sent on an earlier connection may not have arrived: ask again for the rest."""
        for id in self._waiting_for_worker(worker):
            row = self._rows[id][worker]
            is_wanted = self._ledger.is_wanted(worker, row.digest)
            if isinstance(row, DeleteView) and (is_wanted or row.digest not in installed):
                self._settle_row(id, msgspec.structs.replace(row, result=accept.REMOVED))
            elif isinstance(row, CopyView) and not is_wanted:
                text = "deleted before it was installed"
                self._settle_row(id, msgspec.structs.replace(row, result=text))
            elif isinstance(row, CopyView) and row.digest in installed:
                self._ledger.send_to(worker, Install(digest=row.digest))
        for _, instance in self._pending(worker, Remove):
            self._ledger.send_to(worker, RemoveFiles(keys=(instance.key,)))
        for record, instance in self._pending(worker, Signal):
            assert isinstance(record.command, Signal)
            number = record.command.signal
            is_over = instance.timings.placed_at > record.at  # the attempt that was meant
            if is_over or any(
                sent.signal == number and sent.at >= record.at - SKEW_S
                for sent in instance.delivered
            ):
                self._tick_off(record.id, instance.id)
            else:
                message = SendSignal(key=instance.key, signal=number, command=record.id)
                self._ledger.send_to(worker, message)

    def progress(self, id: CommandId) -> tuple[CopyView, ...]:
        """Rows of a copy so far, for eyes only."""
        return tuple(row for row in self._rows.get(id, {}).values() if isinstance(row, CopyView))

    def copies(self) -> list[tuple[CommandRecord, CopyView]]:
        """All that are under way, a row for each worker."""
        commands = self._ledger.cluster.commands
        return [(commands[id], row) for id in self._left for row in self.progress(id)]

    def on_progress(self, worker: WorkerName, message: Progress) -> None:
        for id in self._waiting_for_worker(worker):
            row = self._rows[id][worker]
            if isinstance(row, CopyView) and row.digest == message.digest:
                self._rows[id][worker] = msgspec.structs.replace(
                    row,
                    bytes_from_peers=believe.count(message.bytes_from_peers),
                    bytes_done=believe.count(message.bytes_done),
                    bytes_sent=believe.count(message.bytes_sent),
                    bytes_total=believe.count(message.bytes_total),
                )

    def check(self) -> None:
        """Assert that what is waited for and what waits agree."""
        commands = self._ledger.cluster.commands.values()
        undone = {record.id for record in commands if record.result is None}
        assert undone == set(self._left)
        pairs = {(id, slot) for id, left in self._left.items() for slot in left}
        assert pairs == {(id, slot) for slot, ids in self._waiting.items() for id in ids}

    # ---- accept

    def _accept(self, event: Commanded) -> None:
        ledger = self._ledger
        try:
            if len(self._left) >= UNDER_WAY_MAX:
                raise Unavailable(f"{UNDER_WAY_MAX} commands are under way: try again later")
            command = accept.resolve(ledger, event.command)
            targets = _targets(ledger, event, command)
        except CorpsError as error:
            failure = Failure(code=error.code, message=error.message, details=error.details)
            self._refuse(event, failure)
            return
        record = CommandRecord(
            id=event.id,
            body=event.body,
            command=secrets.kept(command),
            by=event.by,
            at=ledger.now,
            source=event.source,
            targets=targets,
        )
        ledger.save(record)
        if targets:
            ledger.audit(deeds.asked(event, command))
        self._await(record)
        if not targets:
            self._finish(record)

    def _refuse(self, event: Commanded, failure: Failure) -> None:
        self._ledger.witness(deeds.refused(event, failure))
        self._ledger.reply(event.id, event.body, failure)

    def _await(self, record: CommandRecord, *, is_resumed: bool = False) -> None:
        on_workers = isinstance(record.command, Copy | Delete)
        slots = [_slot(name) for name in record.targets] if on_workers else list(record.targets)
        self._left[record.id] = dict.fromkeys(slots)
        for slot in slots:
            self._waiting.setdefault(slot, {})[record.id] = None
        if isinstance(record.command, Copy | Delete):
            rows = accept.rows(self._ledger, record.command, record.targets, is_resumed=is_resumed)
            self._rows[record.id] = {row.worker: row for row in rows}
            for row in rows:
                if row.result != WAITING:
                    self._tick_off(record.id, _slot(row.worker))
            return
        for target in record.targets:
            instance = self._ledger.cluster.instances.get(target)
            if instance is None or _is_settled(record.command, instance):
                self._tick_off(record.id, target)

    # ---- done

    def _copy_row(
        self, worker: WorkerName, digest: Digest, result: str, message: Installed | None
    ) -> None:
        for id in self._waiting_for_worker(worker):
            row = self._rows[id][worker]
            if not isinstance(row, CopyView) or row.digest != digest:
                continue
            row = msgspec.structs.replace(row, result=result)
            if message is not None:
                row = msgspec.structs.replace(
                    row,
                    bytes_from_peers=believe.count(message.bytes_from_peers),
                    bytes_done=believe.count(message.bytes_total),
                    bytes_sent=believe.count(message.bytes_sent),
                    bytes_total=believe.count(message.bytes_total),
                    files_sent=believe.count(message.files_sent),
                    files_total=believe.count(message.files_total),
                    seconds=believe.seconds(message.seconds),
                )
            self._settle_row(id, row)

    def _settle_row(self, id: CommandId, row: CopyView | DeleteView) -> None:
        self._rows[id][row.worker] = row
        self._tick_off(id, _slot(row.worker))

    def _waiting_for_worker(self, worker: WorkerName) -> list[CommandId]:
        return list(self._waiting.get(_slot(worker), {}))

    def _pending(
        self, worker: WorkerName, kind: type[Remove | Signal]
    ) -> list[tuple[CommandRecord, Instance]]:
        cluster = self._ledger.cluster
        return [
            (cluster.commands[id], cluster.instances[target])
            for id, left in self._left.items()
            if isinstance(cluster.commands[id].command, kind)
            for target in left
            if target in cluster.instances and cluster.instances[target].worker == worker
        ]

    def _tick_off(self, id: CommandId, target: str) -> None:
        left = self._left.get(id)
        if left is None or target not in left:
            return
        del left[target]
        del self._waiting[target][id]
        if not self._waiting[target]:
            del self._waiting[target]
        if not left:
            self._finish(self._ledger.cluster.commands[id])

    def _finish(self, record: CommandRecord) -> None:
        self._left.pop(record.id, None)
        result = self._result(record)
        self._rows.pop(record.id, None)
        self._ledger.save(msgspec.structs.replace(record, result=result, done_at=self._ledger.now))
        self._ledger.audit(deeds.answered(record, result))
        self._ledger.reply(record.id, record.body, result)

    def _result(self, record: CommandRecord) -> AnyResult:
        rows = self._rows.get(record.id, {}).values()
        match record.command:
            case Copy():
                return Copied(workers=tuple(row for row in rows if isinstance(row, CopyView)))
            case Delete():
                return Deleted(workers=tuple(row for row in rows if isinstance(row, DeleteView)))
            case Remove():
                gone = (id for id in record.targets if id not in self._ledger.cluster.instances)
                return Removed(instances=tuple(gone))
            case Sign():
                vouched = record.command.signature.vouched
                return Signed(artifact=f"{vouched.name}@{vouched.digest}")
            case Tag():
                return Tagged(artifact=record.command.artifact, tag=record.command.tag)
            case TrustCommand():
                return Ruled(subject=trust.subject(record.command))
            case Launch() | Stop() | Kill() | Signal():
                instances = self._ledger.cluster.instances
                return Instances(
                    instances=tuple(
                        view_instance(instances[id], now=self._ledger.now)
                        for id in record.targets
                        if id in instances
                    )
                )
            case _:
                assert_never(record.command)


def _slot(worker: WorkerName) -> str:
    """What a command waits for at a worker; never equal to an instance id."""
    return f"@{worker}"


def _targets(ledger: Ledger, event: Commanded, command: AnyCommand) -> tuple[str, ...]:
    match command:
        case Copy():
            return accept.copy(ledger, command, event.by, event.facts or ArtifactFacts(0, 0))
        case Delete():
            return accept.delete(ledger, command, event.by)
        case Launch():
            return accept.launch(ledger, command, event.id, event.by)
        case Stop() | Kill():
            return accept.end(ledger, command, event.id, event.by)
        case Signal():
            return accept.signal(ledger, command, event.id, event.by)
        case Remove():
            return accept.remove(ledger, command)
        case Sign():
            return versions.sign(ledger, command, event.by)
        case Tag():
            return versions.tag(ledger, command, event.by)
        case TrustCommand():
            return trust.rule(ledger, command, event.by)
        case _:
            assert_never(command)


def _is_settled(command: AnyCommand, instance: Instance) -> bool:
    match command:
        case Launch():
            is_settled = instance.is_waiting or instance.attempt > 1  # it had its first attempt
            return is_settled or instance.state in _STARTED
        case Stop() | Kill():
            return instance.state in _ENDED or instance.is_stuck
        case Signal():
            return instance.is_waiting or instance.state in _ENDED
        case Remove() | Copy() | Delete() | Sign() | Tag() | TrustCommand():
            return False
        case _:
            assert_never(command)
