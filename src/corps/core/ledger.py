"""Ledger: the cluster's tables together with the effects of the step under way.

Every change of hard state goes through here, so that nothing changes without being saved. What a
step saves comes before all that it says, so that nothing is said before what it rests on is saved.
"""

from __future__ import annotations

import msgspec

from corps.core.chain import LEAF
from corps.core.cluster import Cluster
from corps.core.events import Close, Drop, MasterEffect, Reply, Reveal, Rooted, Save, Send
from corps.core.fitness import Fitness
from corps.core.records import Event, Record
from corps.core.throttle import WINDOW_S, Throttle
from corps.model.command import AnyResult
from corps.model.identity import MASTER, Identity
from corps.model.instance import Instance
from corps.model.name import AttemptKey, CommandId, Digest, WorkerName
from corps.model.secret import Secret
from corps.model.trail import DETAIL_MAX, NOBODY, Deed, Outcome, TrailMark, short
from corps.wire.worker import ToWorker

SUSPICIOUS = frozenset({"foreign", "conflict"})  # events that go into the audit trail too


class Ledger:
    """What the parts of a MasterCore share."""

    def __init__(self, cluster: Cluster, now: float) -> None:
        self.cluster = cluster
        self.now = now
        self.session_of: dict[WorkerName, int] = {}  # workers that may be sent work
        self.taken: dict[str, int] = {}  # by app, the highest number that strangers have
        self.ahead_s: dict[WorkerName, float] = {}  # by how much the clocks of workers are ahead
        self.fitness = Fitness()
        self.rooted: Rooted | None = None  # the CAs; None as long as there is none
        self._throttle = Throttle()
        self._changes: list[MasterEffect] = []
        self._words: list[MasterEffect] = []

    @property
    def last_seq(self) -> int:
        """Of the last event that is, or is about to be, durable."""
        return self.cluster.next_seq - 1

    def save(self, record: Record) -> None:
        self.cluster.put(record)
        self._changes.append(Save(record))

    def drop(self, record: Record) -> None:
        """An instance takes its certificates with it."""
        if isinstance(record, Instance):
            for certificate in self.cluster.certificates_of(record.id):
                self.drop(certificate)
        self.cluster.drop(record)
        self._changes.append(Drop(record))

    def send(self, session: int, message: ToWorker) -> None:
        self._words.append(Send(session, message))

    def send_to(self, worker: WorkerName, message: ToWorker) -> bool:
        """False when the worker is not connected: what it must know it learns when it is back."""
        session = self.session_of.get(worker)
        if session is not None:
            self.send(session, message)
        return session is not None

    def close(self, session: int, reason: str) -> None:
        self._words.append(Close(session, reason))

    def reveal(self, session: int, key: AttemptKey, secrets: tuple[Secret, ...]) -> None:
        self._words.append(Reveal(session, key, secrets))

    def reply(self, id: CommandId, body: str, result: AnyResult) -> None:
        self._words.append(Reply(id, result, body))

    def refusal(self, identity: Identity) -> str | None:
        """Why the bearer of this certificate is nobody now; None when it is who it says."""
        return self.cluster.roll.refusal(identity, self.cluster.meta.cluster, self.now)

    def is_wanted(self, worker: WorkerName, digest: Digest) -> bool:
        """The worker should have these files, under whatever name, or something of them lives."""
        return any(
            artifact.digest == digest and worker in artifact.workers
            for artifact in self.cluster.artifacts.values()
        ) or any(instance.launch.digest == digest for instance in self.cluster.live_on(worker))

    def happened(
        self, kind: str, subject: str, message: str, worker: WorkerName | None = None
    ) -> None:
        """Record an event. `subject` is the instance, worker or artifact it happened to."""
        self.save(
            Event(
                seq=self.cluster.next_seq,
                at=self.now,
                kind=kind,
                subject=subject,
                message=message,
                worker=worker,
            )
        )
        if kind in SUSPICIOUS and worker is not None:
            self.witness_worker(worker, kind, subject, message)

    def audit(self, deed: Deed, cut: TrailMark | None = None) -> None:
        """One more entry of the trail, durable with what this step saves."""
        deed = msgspec.structs.replace(
            deed,
            who=short(deed.who),
            source=short(deed.source),
            subject=short(deed.subject),
            detail=short(deed.detail, DETAIL_MAX),
        )
        chain = self.cluster.chain
        self.save(chain.next(self.now, deed, cut))
        self._changes.append(Save(chain.head))
        if chain.head.seq % LEAF == 0:
            self.save(TrailMark(seq=chain.head.seq, hash=chain.head.hash))

    def cut_trail(self, mark: TrailMark) -> None:
        """The oldest entries go; a new one says so, with the hash that the rest begins from."""
        deed = Deed(
            who=MASTER,
            act="cut",
            outcome=Outcome.DONE,
            subject=str(mark.seq),
            detail="the oldest entries are dropped",
        )
        self.audit(deed, mark)
        self.drop(mark)

    def witness(self, deed: Deed, *, is_free: bool = False) -> None:
        """As `audit`, but no more than so many from one source of what costs it nothing: denials,
        failures, refusals, and whatever else `is_free`."""
        self.tell_left_out()
        is_free = is_free or deed.outcome in (Outcome.DENIED, Outcome.FAILED, Outcome.REFUSED)
        source = deed.source.partition(", pid")[0]  # whatever its process, or its port
        source = source.rpartition(":")[0] or source or deed.who
        if not is_free or self._throttle.admits(source, self.now):
            self.audit(deed)

    def witness_worker(self, worker: WorkerName, act: str, subject: str, detail: str) -> None:
        """A worker says, or asks for, what it may not."""
        known = self.cluster.workers.get(worker)
        self.witness(
            Deed(
                who=worker,
                act=act,
                outcome=Outcome.DENIED,
                source="" if known is None else known.address,
                subject=subject,
                detail=detail,
            )
        )

    def tell_left_out(self) -> None:
        for source, count in self._throttle.left_out(self.now).items():
            text = f"{count} more denials, failures, refusals or renewals in {WINDOW_S:g} s"
            self.audit(
                Deed(who=NOBODY, act="left-out", outcome=Outcome.DENIED, source=source, detail=text)
            )

    def take(self) -> list[MasterEffect]:
        """The effects since the last take."""
        changes, self._changes = self._changes, []
        words, self._words = self._words, []
        return changes + words
