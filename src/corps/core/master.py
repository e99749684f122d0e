"""MasterCore: what the master decides. Events in, effects out; it never waits and never fails."""

from __future__ import annotations

from random import Random
from typing import NamedTuple, assert_never

from corps.core import accept, believe, candidates, enroll, rotation
from corps.core.cluster import Cluster
from corps.core.events import (
    Closed,
    Commanded,
    Enroll,
    MasterEffect,
    MasterEvent,
    Opened,
    Received,
    Renew,
    Rooted,
    Tick,
    Witnessed,
)
from corps.core.ledger import Ledger
from corps.core.lineage import begin_life
from corps.core.observe import Observer
from corps.core.orders import Orders
from corps.core.records import CommandRecord
from corps.core.restart import Restarts
from corps.core.roster import Roster
from corps.core.secrets import Desk
from corps.model.command import Copy
from corps.model.identity import MASTER, Identity
from corps.model.instance import Instance
from corps.model.name import CommandId, Digest, WorkerName
from corps.model.trail import Deed, Outcome
from corps.model.view import CopyView
from corps.wire.drift import Verified
from corps.wire.probe import Probed
from corps.wire.secret import WantSecrets
from corps.wire.worker import (
    Changed,
    FromWorker,
    Heartbeat,
    Hello,
    Installed,
    InstallFailed,
    Inventory,
    LogRead,
    Noted,
    OutputRead,
    Progress,
    Remove,
    Removed,
    Sampled,
    SeriesRead,
    SignalDone,
    Trusting,
    Uninstalled,
)


class Destination(NamedTuple):
    """A worker that a copy is for, the artifacts it has whole, and why it gets none now."""

    worker: WorkerName
    installed: tuple[Digest, ...]
    problem: str | None


class MasterCore:
    """Feed events to `step`, carry out the effects it returns, in order."""

    def __init__(  # a life and a flag that only a master that begins anew has
        self,
        cluster: Cluster,
        heartbeat_s: float,
        now: float,
        rng: Random,
        *,
        life: str = "",
        accepts_rollback: bool = False,
    ) -> None:
        self.cluster = cluster
        begun = begin_life(cluster, life, cluster.meta.epoch + 1)
        self._ledger = Ledger(cluster, now)
        self._orders = Orders(self._ledger)
        self._restarts = Restarts(self._ledger, rng)
        self._observer = Observer(self._ledger, self._orders, self._restarts)
        self._roster = Roster(
            self._ledger,
            self._orders,
            self._observer,
            heartbeat_s,
            accepts_rollback=accepts_rollback,
        )
        self._desk = Desk(self._ledger)
        self._ledger.save(begun)
        meta, how = cluster.meta, "; accepts rollback" if accepts_rollback else ""
        self._ledger.audit(
            Deed(
                who=MASTER,
                act="start",
                outcome=Outcome.DONE,
                subject=meta.cluster,
                detail=f"epoch {meta.epoch}{how}",
            )
        )

    def begin(self) -> list[MasterEffect]:
        """The effects of having started: call once, before any step."""
        self._trim()
        return self._ledger.take()

    def step(self, now: float, event: MasterEvent) -> list[MasterEffect]:
        assert now >= self._ledger.now, "the clock went backwards"
        self._ledger.now = now
        self._roster.wake(now)
        match event:
            case Tick():
                self._roster.judge()
                self._restarts.tick()
                self._ledger.tell_left_out()
            case Received():
                self._receive(event)
            case Commanded():
                self._orders.receive(event)
            case Witnessed():
                self._ledger.witness(event.deed)
            case Enroll() | Renew():
                enroll.receive(self._ledger, event)
            case Rooted():
                rotation.rooted(self._ledger, event)
            case Opened():
                self._roster.opened(event.session, event.address, event.identity)
            case Closed():
                self._roster.closed(event.session)
            case _:
                assert_never(event)
        self._roster.expel()
        self._trim()
        return self._ledger.take()

    # ---- what the driver may read

    def session_of(self, worker: WorkerName) -> int | None:
        """The connection of a usable worker."""
        return self._ledger.session_of.get(worker)

    def silence_s(self, worker: WorkerName) -> float | None:
        return self._roster.silence_s(worker)

    def due_s(self) -> float | None:
        """In how many seconds a tick is wanted, because a worker may be lost then."""
        return self._roster.due_s()

    def refusal(self, identity: Identity) -> str | None:
        """Why the bearer of this certificate is nobody now; None when it is who it says."""
        return self._ledger.refusal(identity)

    def may_fetch(self, worker: WorkerName, artifact: Digest) -> bool:
        """The worker should have this artifact, or something of it lives there."""
        return self._ledger.is_wanted(worker, artifact)

    def holders(self, digest: Digest) -> tuple[WorkerName, ...]:
        """The connected workers that have the artifact whole."""
        return tuple(
            name for name, digests in sorted(self._roster.installed.items()) if digest in digests
        )

    def destinations(self, command: Copy) -> tuple[Destination, ...]:
        """Where a copy would go. Raise what it would be refused for."""
        installed = self._roster.installed
        return tuple(
            Destination(name, tuple(installed.get(name, {})), self._obstacle(name, command))
            for name in (worker.name for worker in accept.recipients(self._ledger, command))
        )

    def fits(self, worker: WorkerName, digest: Digest) -> bool | None:
        """Can the artifact run there, as the worker said? None: it has not said yet."""
        return self._ledger.fitness.fits(worker, digest)

    def lagging(self) -> tuple[WorkerName, ...]:
        """The workers that a rotation of the CA waits for."""
        return rotation.lagging(self._ledger)

    def progress(self, id: CommandId) -> tuple[CopyView, ...]:
        return self._orders.progress(id)

    def copies(self) -> list[tuple[CommandRecord, CopyView]]:
        return self._orders.copies()

    def check(self) -> None:
        """Assert every invariant."""
        self.cluster.check()
        self._roster.check()
        self._orders.check()
        self._restarts.check()

    def _trim(self) -> None:
        """History has a limit: the oldest goes."""
        if (mark := self.cluster.chain.surplus()) is not None:
            self._ledger.cut_trail(mark)
        while (surplus := self.cluster.surplus()) is not None:
            self._ledger.drop(surplus)
            if isinstance(surplus, Instance):
                self._ledger.send_to(surplus.worker, Remove(keys=(surplus.key,)))
                self._orders.removed([surplus.id])

    def _obstacle(self, name: WorkerName, command: Copy) -> str | None:
        if name not in self._ledger.session_of:
            return candidates.gone(self.cluster, name)
        return accept.unfit(self._ledger, command, name) or None

    # ---- messages

    def _receive(self, event: Received) -> None:
        session = self._roster.session(event.session)
        for message in event.messages:
            if session is None or self._roster.session(event.session) is not session:
                return  # closed by us, and it was still talking
            match message:
                case Hello():
                    self._roster.greet(session, message)
                case Inventory():
                    self._roster.take_inventory(session, message)
                case _:
                    worker = self._roster.heard(session)
                    if worker is not None:
                        self._listen(worker, message)

    def _listen(self, worker: WorkerName, message: FromWorker) -> None:
        match message:
            case Changed():
                self._observer.reported(worker, message.reports)
            case Installed() | InstallFailed() | Uninstalled() | Progress():
                self._hear_of_artifact(worker, message)
            case Removed() | SignalDone():
                self._hear_of_attempts(worker, message)
            case WantSecrets():
                self._desk.wanted(worker, message)
            case Noted():
                self._observer.noted(worker, message.notes)
            case Probed():
                problems = tuple(map(believe.text, message.problems))
                self._ledger.fitness.hear(worker, message.digest, problems)
            case Trusting():
                rotation.heard(self._ledger, worker, message)
            case Hello() | Inventory() | Heartbeat():
                pass
            case Sampled() | SeriesRead() | LogRead() | OutputRead() | Verified():
                pass  # a sign of life; answers to questions are the driver's
            case _:
                assert_never(message)

    def _hear_of_artifact(
        self, worker: WorkerName, message: Installed | InstallFailed | Uninstalled | Progress
    ) -> None:
        match message:
            case Installed():
                self._roster.has_installed(worker, message.digest)
                self._orders.installed(worker, message)
            case InstallFailed():
                reason = believe.text(message.message)
                if self._ledger.is_wanted(worker, message.digest):
                    self._ledger.happened("install-failed", worker, reason, worker)
                self._orders.install_failed(worker, message.digest, reason)
            case Uninstalled():
                if not message.in_use:
                    self._roster.installed[worker].pop(message.digest, None)
                self._orders.uninstalled(worker, message)
            case Progress():
                self._orders.on_progress(worker, message)
            case _:
                assert_never(message)

    def _hear_of_attempts(self, worker: WorkerName, message: Removed | SignalDone) -> None:
        match message:
            case Removed():
                self._forget(worker, message)
            case SignalDone():
                self._orders.signaled(worker, message)
            case _:
                assert_never(message)

    def _forget(self, worker: WorkerName, message: Removed) -> None:
        gone = [key.rpartition("#")[0] for key in message.alive]  # nothing more will come of it
        for key in message.keys:
            id = key.rpartition("#")[0]
            instance = self.cluster.instances.get(id)
            if instance is None:
                gone.append(id)  # dropped as surplus meanwhile: nothing is left to wait for
            elif instance.key == key and self._orders.is_removing(instance, worker):
                self._ledger.drop(instance)
                self._ledger.happened("removed", id, "record and logs deleted", worker)
                gone.append(id)
        self._orders.removed(gone)
