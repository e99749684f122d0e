"""A session: one connection of a worker, and how far its joining has come."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

from corps.model.identity import Identity
from corps.model.name import Digest, WorkerName
from corps.wire.worker import Hello, Report


class Phase(Enum):
    OPENED = auto()
    GREETED = auto()
    JOINED = auto()
    RIVAL = auto()  # another process of its state is connected: one of the two must go
    EXPELLED = auto()  # lost while connected: what it says next is answered with Rejoin
    RECALLED = auto()  # told to rejoin: only a new Hello counts


@dataclass
class Session:
    """One connection. Soft state: it ends with the connection."""

    id: int
    address: str
    identity: Identity | None = None  # of its certificate; None: in plain text, from this machine
    phase: Phase = Phase.OPENED
    worker: WorkerName | None = None
    hello: Hello | None = None
    rival_since: float = 0.0
    heard_at: float = 0.0  # of a rival: the worker's own hearing is the other's
    reports: list[Report] = field(default_factory=list)
    artifacts: dict[Digest, None] = field(default_factory=dict)

    @property
    def process(self) -> str:
        """Which life of the worker's daemon this is."""
        return self.hello.process_id if self.hello is not None else ""
