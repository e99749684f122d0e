"""Roster: who is connected, who is usable, who is lost.

    opened --Hello--> greeted --last Inventory--> joined --(closed)--> suspect --2 beats--> lost
                                                     ^------ one beat lost: suspect, heard: ready

A lost worker comes back only through a new Hello with everything it still runs. What arrives late
on an older connection is not heard: it says how things were.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import assert_never

import msgspec

from corps.core.believe import COUNT_MAX
from corps.core.ledger import Ledger
from corps.core.liveness import Hearing
from corps.core.observe import Observer
from corps.core.orders import Orders
from corps.errors import Conflict, CorpsError, Invalid, ProtocolError, Unavailable
from corps.model.instance import InstanceState
from corps.model.name import Digest, WorkerName, check_name
from corps.model.selector import ALL, check_label
from corps.model.worker import Worker, WorkerState
from corps.wire.codec import PROTOCOL_VERSION
from corps.wire.worker import (
    Hello,
    Install,
    Inventory,
    Refused,
    Rejoin,
    Report,
    Uninstall,
    Welcome,
)

JOIN_MAX_S = 10.0
WORKERS_MAX = 10_000
REPORTS_MAX = 200_000
ARTIFACTS_MAX = 20_000
LABELS_MAX = 64
FACT_MAX = 200


class Phase(Enum):
    OPENED = auto()
    GREETED = auto()
    JOINED = auto()
    EXPELLED = auto()  # lost while connected: what it says next is answered with Rejoin
    RECALLED = auto()  # told to rejoin: only a new Hello counts


@dataclass
class Session:
    """One connection. Soft state: it ends with the connection."""

    id: int
    address: str
    phase: Phase = Phase.OPENED
    worker: WorkerName | None = None
    hello: Hello | None = None
    reports: list[Report] = field(default_factory=list)
    artifacts: dict[Digest, None] = field(default_factory=dict)


class Roster:
    """Sessions and liveness of all workers."""

    def __init__(
        self, ledger: Ledger, orders: Orders, observer: Observer, heartbeat_s: float
    ) -> None:
        self._ledger, self._orders, self._observer = ledger, orders, observer
        self._heartbeat_s = heartbeat_s
        self._hearing = Hearing(ledger.now)
        self._sessions: dict[int, Session] = {}
        self._strangers: dict[int, float] = {}  # sessions that must join soon, oldest first
        self._newest: dict[WorkerName, int] = {}  # the last session that joined, open or not
        self.installed: dict[WorkerName, dict[Digest, None]] = {}
        for worker in list(ledger.cluster.workers.values()):
            # Nobody is connected to a master that has just begun; each gets the full two beats.
            if worker.state is not WorkerState.LOST:
                self._hearing.hear(worker.name)
                self._set_state(worker, WorkerState.SUSPECT, "the master was started again")

    def wake(self, now: float) -> None:
        self._hearing.wake(now)

    def silence_s(self, worker: WorkerName) -> float | None:
        return self._hearing.silence_s(worker)

    def opened(self, session: int, address: str) -> None:
        self._sessions[session] = Session(session, address)
        self._strangers[session] = self._hearing.awake

    def session(self, id: int) -> Session | None:
        return self._sessions.get(id)

    def closed(self, id: int) -> None:
        """Seen at once: no new work; two beats of silence decide whether it is lost."""
        session = self._sessions.pop(id, None)
        self._strangers.pop(id, None)
        if session is None or session.worker is None:
            return
        if self._ledger.session_of.get(session.worker) == id:
            del self._ledger.session_of[session.worker]
            worker = self._ledger.cluster.workers[session.worker]
            if worker.state is WorkerState.READY:
                self._set_state(worker, WorkerState.SUSPECT, "its connection closed")

    def shut(self, session: Session, reason: str) -> None:
        """Close it, and hear no more of it: what it still says may be old."""
        self._ledger.close(session.id, reason)
        self.closed(session.id)

    def heard(self, session: Session) -> WorkerName | None:
        """Whose message this is, and a sign of life of it. None: it must say hello first."""
        match session.phase:
            case Phase.JOINED:
                assert session.worker is not None
                self._hearing.hear(session.worker)
                worker = self._ledger.cluster.workers[session.worker]
                if worker.state is WorkerState.SUSPECT:
                    self._set_state(worker, WorkerState.READY, "heard again")
                    self._observer.worker_heard(worker.name)
                return session.worker
            case Phase.EXPELLED:
                self._ledger.send(session.id, Rejoin())
                session.phase = Phase.RECALLED
            case Phase.OPENED:
                self.shut(session, "no hello")
            case Phase.GREETED | Phase.RECALLED:
                pass  # said before it read our answer
            case _:
                assert_never(session.phase)
        return None

    def judge(self) -> None:
        for name, state in self._hearing.silent(self._heartbeat_s):
            worker = self._ledger.cluster.workers[name]
            silence_s = self._hearing.silence_s(name) or 0.0
            if state is WorkerState.LOST:
                self._lose(worker, silence_s)
            elif worker.state is WorkerState.READY:
                self._set_state(worker, state, f"silent for {silence_s:.2f} s")
        for id, since in list(self._strangers.items()):
            if self._hearing.awake - since <= JOIN_MAX_S:
                break
            self.shut(self._sessions[id], f"not joined within {JOIN_MAX_S:g} s")

    def greet(self, session: Session, hello: Hello) -> None:
        if session.phase in (Phase.GREETED, Phase.JOINED):
            self.shut(session, "a second hello")
            return
        if not self._is_welcome(session, hello):
            return
        session.phase, session.hello = Phase.GREETED, hello
        session.reports, session.artifacts = [], {}
        meta = self._ledger.cluster.meta
        self._ledger.send(
            session.id,
            Welcome(cluster=meta.cluster, epoch=meta.epoch, heartbeat_s=self._heartbeat_s),
        )

    def take_inventory(self, session: Session, inventory: Inventory) -> None:
        if session.phase is not Phase.GREETED or session.hello is None:
            self.shut(session, "an inventory without a hello")
            return
        session.reports.extend(inventory.reports)
        session.artifacts.update(dict.fromkeys(inventory.artifacts))
        if len(session.reports) > REPORTS_MAX or len(session.artifacts) > ARTIFACTS_MAX:
            self.shut(session, f"more than {REPORTS_MAX} attempts or {ARTIFACTS_MAX} artifacts")
        elif inventory.is_last:
            self._join(session, session.hello)

    def has_installed(self, worker: WorkerName, digest: Digest) -> None:
        """Remember it, unless nobody wants it there any more."""
        if self._ledger.is_wanted(worker, digest):
            self.installed[worker][digest] = None
        else:
            self._ledger.send_to(worker, Uninstall(digest=digest))

    def _join(self, session: Session, hello: Hello) -> None:
        ledger, name = self._ledger, hello.name
        if not self._is_welcome(session, hello):
            return  # another joined since it said hello
        if session.id < self._newest.get(name, 0):
            self.shut(session, "the worker connected again since")
            return
        known = ledger.cluster.workers.get(name)
        self._replace_session(session, name)
        self.installed[name] = dict(session.artifacts)
        self._hearing.hear(name)
        self._enroll(session, hello, known)
        reports, session.reports = session.reports, []
        artifacts, session.artifacts = session.artifacts, {}
        self._observer.rejoined(
            name,
            reports,
            same_boot=known is None or known.boot_id == hello.boot_id,
            same_state=known is None or known.state_id == hello.state_id,
        )
        self._reconcile_artifacts(name)
        self._orders.worker_joined(name, artifacts)

    def _replace_session(self, session: Session, name: WorkerName) -> None:
        old = self._ledger.session_of.get(name)
        session.phase, session.worker = Phase.JOINED, name
        self._strangers.pop(session.id, None)
        self._ledger.session_of[name] = self._newest[name] = session.id
        if old is not None and old != session.id:
            self.shut(self._sessions[old], "the worker connected again")

    def _enroll(self, session: Session, hello: Hello, known: Worker | None) -> None:
        """Saved in one step with what became of its instances: a crash sees both or neither."""
        now = self._ledger.now
        was_ready = known is not None and known.state is WorkerState.READY
        self._ledger.save(
            Worker(
                name=hello.name,
                state_id=hello.state_id,
                boot_id=hello.boot_id,
                state=WorkerState.READY,
                address=session.address,
                labels=hello.labels,
                cpu_count=hello.cpu_count,
                memory_bytes=hello.memory_bytes,
                version=hello.version,
                joined_at=known.joined_at if known else now,
                state_since=known.state_since if known and was_ready else now,
            )
        )
        if not was_ready:
            text = f"joined from {session.address}"
            self._ledger.happened("worker-ready", hello.name, text, hello.name)

    def _reconcile_artifacts(self, name: WorkerName) -> None:
        """Desired against observed: what is missing is installed, what nobody wants is removed."""
        ledger, there = self._ledger, self.installed[name]
        for artifact in ledger.cluster.artifacts.values():
            if name in artifact.workers and artifact.digest not in there:
                ledger.send_to(name, Install(digest=artifact.digest))
        for digest in [digest for digest in there if not ledger.is_wanted(name, digest)]:
            ledger.send_to(name, Uninstall(digest=digest))

    def _is_welcome(self, session: Session, hello: Hello) -> bool:
        """False: it was refused, and told why."""
        try:
            self._check_hello(hello)
        except CorpsError as error:
            self._ledger.send(session.id, Refused(code=error.code, message=error.message))
            self.shut(session, error.message)
            return False
        return True

    def _check_hello(self, hello: Hello) -> None:
        if hello.protocol != PROTOCOL_VERSION:
            raise ProtocolError(
                f"worker speaks protocol {hello.protocol}, master {PROTOCOL_VERSION}: "
                "install the same version of corps on both"
            )
        _check_facts(hello)
        cluster = self._ledger.cluster
        if hello.cluster is not None and hello.cluster != cluster.meta.cluster:
            raise Conflict(
                f"worker {hello.name!r} belongs to cluster {hello.cluster[:FACT_MAX]}, this is "
                f"{cluster.meta.cluster}: start it with another --dir or --name"
            )
        known = cluster.workers.get(hello.name)
        if known is None and len(cluster.workers) >= WORKERS_MAX:
            raise Unavailable(f"{WORKERS_MAX} workers have joined: there is room for no more")
        if known is None or known.state_id == hello.state_id:
            return
        if known.state is not WorkerState.LOST:
            raise Conflict(
                f"a worker named {hello.name!r} is {known.state} at {known.address}: "
                "choose another --name"
            )

    def _lose(self, worker: Worker, silence_s: float) -> None:
        self._hearing.forget(worker.name)
        self.installed.pop(worker.name, None)
        session = self._ledger.session_of.pop(worker.name, None)
        if session is not None:
            self._sessions[session].phase = Phase.EXPELLED
        self._set_state(worker, WorkerState.LOST, f"silent for {silence_s:.2f} s: two heartbeats")
        self._observer.worker_lost(worker.name)
        self._orders.worker_lost(worker.name)

    def _set_state(self, worker: Worker, state: WorkerState, why: str) -> None:
        now = self._ledger.now
        self._ledger.save(msgspec.structs.replace(worker, state=state, state_since=now))
        self._ledger.happened(f"worker-{state}", worker.name, why, worker.name)

    def check(self) -> None:
        """Assert what must hold between sessions and workers."""
        for name, id in self._ledger.session_of.items():
            session = self._sessions[id]
            assert session.worker == name and session.phase is Phase.JOINED
            worker = self._ledger.cluster.workers[name]
            assert worker.state is not WorkerState.LOST, name
        for worker in self._ledger.cluster.workers.values():
            if worker.state is WorkerState.LOST:
                for instance in self._ledger.cluster.live_on(worker.name):
                    known = instance.state is not InstanceState.UNKNOWN
                    assert not known or instance.is_waiting, instance.id


def _check_facts(hello: Hello) -> None:
    """Raise Invalid for what no honest worker says of itself."""
    check_name("worker", hello.name)
    if hello.name == ALL:
        raise Invalid(f"a worker cannot be named {ALL!r}, which means every worker", field="name")
    if len(hello.labels) > LABELS_MAX:
        raise Invalid(f"{len(hello.labels)} labels: at most {LABELS_MAX}", field="labels")
    for key, value in hello.labels.items():
        check_label(f"{key}={value}")
    if not hello.state_id or not hello.boot_id:
        raise Invalid("hello without state_id or boot_id", field="state_id")
    if max(len(hello.state_id), len(hello.boot_id), len(hello.version)) > FACT_MAX:
        raise Invalid(f"state_id, boot_id or version over {FACT_MAX} characters", field="hello")
    if not (0 <= hello.cpu_count < COUNT_MAX and 0 <= hello.memory_bytes < COUNT_MAX):
        raise Invalid("a number of processors or bytes that cannot be", field="hello")
