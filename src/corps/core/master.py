"""MasterCore: what the master decides. Events in, effects out; it never waits and never fails."""

from __future__ import annotations

from typing import assert_never

import msgspec

from corps.core.cluster import Cluster
from corps.core.events import (
    Closed,
    Commanded,
    MasterEffect,
    MasterEvent,
    Opened,
    Received,
    Tick,
)
from corps.core.ledger import Ledger
from corps.core.observe import Observer
from corps.core.orders import Orders
from corps.core.roster import Phase, Roster, Session
from corps.model.name import CommandId, Digest, WorkerName
from corps.model.view import CopyView
from corps.wire.worker import (
    Changed,
    FromWorker,
    Heartbeat,
    Hello,
    Installed,
    InstallFailed,
    Inventory,
    LogRead,
    Progress,
    Removed,
    Sampled,
    SignalDone,
    Uninstalled,
)


class MasterCore:
    """Feed events to `step`, carry out the effects it returns, in order."""

    def __init__(self, cluster: Cluster, heartbeat_s: float, now: float) -> None:
        self.cluster = cluster
        self._ledger = Ledger(cluster, now)
        self._orders = Orders(self._ledger)
        self._observer = Observer(self._ledger, self._orders)
        self._roster = Roster(self._ledger, self._orders, self._observer, heartbeat_s)
        meta = cluster.meta
        self._ledger.save(msgspec.structs.replace(meta, epoch=meta.epoch + 1))

    def begin(self) -> list[MasterEffect]:
        """The effects of having started: call once, before any step."""
        return self._ledger.take()

    def step(self, now: float, event: MasterEvent) -> list[MasterEffect]:
        assert now >= self._ledger.now, "the clock went backwards"
        self._ledger.now = now
        self._roster.wake(now)
        match event:
            case Tick():
                self._roster.judge()
            case Received():
                self._receive(event)
            case Commanded():
                self._orders.receive(event)
            case Opened():
                self._roster.opened(event.session, event.address)
            case Closed():
                self._roster.closed(event.session)
            case _:
                assert_never(event)
        return self._ledger.take()

    # ---- what the driver may read

    def session_of(self, worker: WorkerName) -> int | None:
        """The connection of a usable worker."""
        return self._ledger.session_of.get(worker)

    def silence_s(self, worker: WorkerName) -> float | None:
        return self._roster.silence_s(worker)

    def holders(self, digest: Digest) -> tuple[WorkerName, ...]:
        """The connected workers that have the artifact whole."""
        return tuple(
            name for name, digests in sorted(self._roster.installed.items()) if digest in digests
        )

    def progress(self, id: CommandId) -> tuple[CopyView, ...]:
        return self._orders.progress(id)

    def check(self) -> None:
        """Assert every invariant."""
        self.cluster.check()
        self._roster.check()

    # ---- messages

    def _receive(self, event: Received) -> None:
        session = self._roster.session(event.session)
        if session is None:
            return  # closed by us, and it was still talking
        for message in event.messages:
            match message:
                case Hello():
                    self._roster.greet(session, message)
                case Inventory():
                    self._roster.take_inventory(session, message)
                case _ if session.phase is Phase.OPENED:
                    self._ledger.close(session.id, "no hello")
                case _:
                    self._listen(session, message)

    def _listen(self, session: Session, message: FromWorker) -> None:
        if not self._roster.heard(session) or session.phase is not Phase.JOINED:
            return
        worker = session.worker
        assert worker is not None
        match message:
            case Changed():
                self._observer.reported(worker, message.reports)
            case Installed() | InstallFailed() | Uninstalled() | Progress():
                self._hear_of_artifact(worker, message)
            case Removed():
                self._forget(worker, message)
            case SignalDone():
                self._orders.signaled(message)
            case Heartbeat() | Sampled() | LogRead() | Hello() | Inventory():
                pass  # a sign of life; answers to questions are the driver's
            case _:
                assert_never(message)

    def _hear_of_artifact(
        self, worker: WorkerName, message: Installed | InstallFailed | Uninstalled | Progress
    ) -> None:
        installed = self._roster.installed[worker]
        match message:
            case Installed():
                installed[message.digest] = None
                self._orders.installed(worker, message)
            case InstallFailed():
                self._ledger.happened("install-failed", worker, message.message, worker)
                self._orders.install_failed(worker, message.digest, message.message)
            case Uninstalled():
                if not message.in_use:
                    installed.pop(message.digest, None)
                self._orders.uninstalled(worker, message)
            case Progress():
                self._orders.on_progress(
                    worker, message.digest, message.bytes_sent, message.bytes_total
                )
            case _:
                assert_never(message)

    def _forget(self, worker: WorkerName, message: Removed) -> None:
        gone: list[str] = []
        for key in message.keys:
            instance = self.cluster.instances.get(key.rpartition("#")[0])
            if instance and not instance.is_live and instance.worker == worker:
                self._ledger.drop(instance)
                self._ledger.happened("removed", instance.id, "record and logs deleted", worker)
                gone.append(instance.id)
        self._orders.removed(gone)
