"""Ledger: the cluster's tables together with the effects of the step under way.

Every change of hard state goes through here, so that nothing changes without being saved, and
nothing is sent before what it rests on is saved (effects are carried out in order).
"""

from __future__ import annotations

from corps.core.cluster import Cluster
from corps.core.events import Close, Drop, MasterEffect, Reply, Save, Send
from corps.core.records import Event, Record
from corps.model.command import AnyResult
from corps.model.name import CommandId, WorkerName
from corps.wire.worker import ToWorker


class Ledger:
    """What the parts of a MasterCore share."""

    def __init__(self, cluster: Cluster, now: float) -> None:
        self.cluster = cluster
        self.now = now
        self.session_of: dict[WorkerName, int] = {}  # workers that may be sent work
        self._effects: list[MasterEffect] = []

    def save(self, record: Record) -> None:
        self.cluster.put(record)
        self._effects.append(Save(record))

    def drop(self, record: Record) -> None:
        self.cluster.drop(record)
        self._effects.append(Drop(record))

    def send(self, session: int, message: ToWorker) -> None:
        self._effects.append(Send(session, message))

    def send_to(self, worker: WorkerName, message: ToWorker) -> bool:
        """False when the worker is not connected: what it must know it learns when it is back."""
        session = self.session_of.get(worker)
        if session is not None:
            self.send(session, message)
        return session is not None

    def close(self, session: int, reason: str) -> None:
        self._effects.append(Close(session, reason))

    def reply(self, id: CommandId, result: AnyResult) -> None:
        self._effects.append(Reply(id, result))

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

    def take(self) -> list[MasterEffect]:
        """The effects since the last take; history beyond its limit goes with them."""
        while (surplus := self.cluster.surplus()) is not None:
            self.drop(surplus)
        effects, self._effects = self._effects, []
        return effects
