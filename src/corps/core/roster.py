"""Roster: who is connected, who is usable, who is lost.

    opened --Hello--> greeted --last Inventory--> joined --(closed)--> suspect --2 beats--> lost
                                                     ^------ one beat lost: suspect, heard: ready

A lost worker comes back only through a new Hello with everything it still runs. What arrives late
on an older connection is not heard: it says how things were. A second process of the same state
waits until the first is gone; if both are heard they are clones, and neither is given work.
"""

from __future__ import annotations

from typing import assert_never

import msgspec

from corps.core.admission import Admission
from corps.core.ledger import Ledger
from corps.core.lineage import (
    Doubt,
    begin_life,
    doubt,
    is_ahead,
    reason,
)
from corps.core.liveness import Hearing
from corps.core.observe import Observer
from corps.core.orders import Orders
from corps.core.places import OF_ONE_MAX, Places
from corps.core.rivals import Rivals
from corps.core.session import Phase, Session
from corps.core.skew import SKEW_S, ahead_s
from corps.errors import CorpsError, Denied
from corps.model.artifact import Transfer
from corps.model.identity import Identity
from corps.model.instance import InstanceState
from corps.model.name import Digest, WorkerName
from corps.model.trail import NOBODY, Deed, Outcome
from corps.model.worker import Worker, WorkerState
from corps.wire.worker import (
    Hello,
    Install,
    Inventory,
    Refused,
    Rejoin,
    Told,
    Uninstall,
    Welcome,
)

JOIN_MAX_S = 10.0
REPORTS_MAX = 200_000
ARTIFACTS_MAX = 20_000


class Roster:
    """Sessions and liveness of all workers."""

    def __init__(
        self,
        ledger: Ledger,
        orders: Orders,
        observer: Observer,
        heartbeat_s: float,
        *,
        accepts_rollback: bool = False,
    ) -> None:
        self._ledger, self._orders, self._observer = ledger, orders, observer
        self._heartbeat_s = heartbeat_s
        self._hearing = Hearing(ledger.now)
        self._admission = Admission(ledger, accepts_rollback=accepts_rollback)
        self._sessions: dict[int, Session] = {}
        self._strangers: dict[int, float] = {}  # sessions that must join soon, oldest first
        self._places = Places()
        self._newest: dict[WorkerName, int] = {}  # the last session that joined, open or not
        self._rivals = Rivals(ledger, self._sessions, self._hearing, self.shut, self._suspect)
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

    def due_s(self) -> float | None:
        return self._hearing.due_s(self._heartbeat_s)

    def opened(self, id: int, address: str, identity: Identity | None) -> None:
        session = self._sessions[id] = Session(id, address, identity)
        self._strangers[id] = self._hearing.awake
        refusal = self._admission.refusal(identity)
        if refusal is not None:
            self._witness(session, "", refusal.message)
            self._ledger.send(id, refusal)
            self.shut(session, refusal.message)
            return
        name = "" if identity is None else identity.worker or ""
        oldest = self._places.take(session, self._ledger.session_of.get(name))
        if oldest is not None:
            self.shut(self._sessions[oldest], f"{name} has {OF_ONE_MAX} connections")

    def expel(self) -> None:
        """Cut those whose certificate is worth nothing any more: revoked, or expired."""
        for session, why in self._admission.ended(self._sessions.values()):
            self.shut(session, why)

    def session(self, id: int) -> Session | None:
        return self._sessions.get(id)

    def closed(self, id: int) -> None:
        """Seen at once: no new work; two beats of silence decide whether it is lost."""
        session = self._sessions.pop(id, None)
        self._strangers.pop(id, None)
        if session is None:
            return
        self._places.leave(session)
        if session.worker is None:
            return
        self._rivals.closed(session)
        if self._ledger.session_of.get(session.worker) == id:
            del self._ledger.session_of[session.worker]
            worker = self._ledger.cluster.workers[session.worker]
            if worker.state is WorkerState.READY:
                self._set_state(worker, WorkerState.SUSPECT, "its connection closed")
        self._settle_rivals(session.worker)

    def shut(self, session: Session, reason: str) -> None:
        """Close it, and hear no more of it: what it still says may be old."""
        self._ledger.close(session.id, reason)
        self.closed(session.id)

    def heard(self, session: Session) -> WorkerName | None:
        """Whose message this is, and a sign of life of it. None: it must say hello first."""
        match session.phase:
            case Phase.JOINED:
                assert session.worker is not None
                return self._heard_joined(session.worker)
            case Phase.RIVAL:
                self._rivals.heard(session)
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

    def _heard_joined(self, name: WorkerName) -> WorkerName | None:
        self._hearing.hear(name)
        if self._rivals.accused(name, self._heartbeat_s):
            return None
        worker = self._ledger.cluster.workers[name]
        if worker.state is WorkerState.SUSPECT:
            self._set_state(worker, WorkerState.READY, "heard again")
            self._observer.worker_heard(name)
        return name

    def judge(self) -> None:
        for name, state in self._hearing.silent(self._heartbeat_s):
            worker = self._ledger.cluster.workers[name]
            silence_s = self._hearing.silence_s(name) or 0.0
            if state is WorkerState.LOST:
                self._lose(worker, silence_s)
            elif worker.state is WorkerState.READY:
                self._set_state(worker, state, f"silent for {silence_s:.2f} s")
        self._rivals.judge(self._heartbeat_s)
        for id, since in list(self._strangers.items()):
            if self._hearing.awake - since <= JOIN_MAX_S:
                break
            self.shut(self._sessions[id], f"not joined within {JOIN_MAX_S:g} s")

    def greet(self, session: Session, hello: Hello) -> None:
        if session.phase in (Phase.GREETED, Phase.JOINED, Phase.RIVAL):
            self.shut(session, "a second hello")
            return
        if not self._is_welcome(session, hello):
            return
        session.phase, session.hello = Phase.GREETED, hello
        session.reports, session.artifacts = [], {}
        if is_ahead(hello, self._ledger.cluster):
            self._rise_above(hello)
        meta = self._ledger.cluster.meta
        self._ledger.send(
            session.id,
            Welcome(
                cluster=meta.cluster,
                epoch=meta.epoch,
                heartbeat_s=self._heartbeat_s,
                life=meta.lives[-1].id,
                seq=self._ledger.last_seq,
            ),
        )

    def take_inventory(self, session: Session, inventory: Inventory) -> None:
        if session.phase is Phase.RIVAL:
            return  # it will be asked again
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
        if self._rivals.contest(session, hello):
            self._strangers.pop(session.id, None)
            return
        known = ledger.cluster.workers.get(name)
        why = doubt(known, hello, is_cloned=self._rivals.was_cloned(name))
        self._replace_session(session, name)
        self.installed[name] = dict(session.artifacts)
        self._hearing.hear(name)
        self._enroll(session, hello, known)
        self._compare_clocks(hello)
        reports, session.reports = session.reports, []
        artifacts, session.artifacts = session.artifacts, {}
        why = self._observer.rejoined(name, reports, why)
        if why is not None or hello.is_copy:
            self._tell_doubt(session, why or Doubt.SET_BACK)
        ledger.fitness.forget(name)  # its machine may be another one now
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
                incarnation=hello.incarnation,
                process_id=hello.process_id,
                facts=hello.facts,
            )
        )
        if not was_ready:
            text = f"joined from {session.address}"
            self._ledger.happened("worker-ready", hello.name, text, hello.name)

    def _compare_clocks(self, hello: Hello) -> None:
        """Whatever its clock says, its times are shown as ours says."""
        ledger, name = self._ledger, hello.name
        before, ahead = ledger.ahead_s.pop(name, 0.0), ahead_s(hello.now, ledger.now)
        if ahead:
            ledger.ahead_s[name] = ahead
        if abs(ahead - before) > SKEW_S:
            text = f"the clock of {name} is {ahead:+.0f} s from this master's, "
            ledger.happened("clock", name, text + "on which its times are shown", name)

    def _tell_doubt(self, session: Session, why: Doubt) -> None:
        """To operators as an event, and into the worker's log."""
        assert session.worker is not None
        name = session.worker
        text = f"{reason(why, name)}: what {name} should have and does not list may have run"
        self._ledger.happened(why, name, text, name)
        self._ledger.send(session.id, Told(text=text, is_noted=True))

    def _rise_above(self, hello: Hello) -> None:
        """This master is an older copy, and was told to go on: past all that any worker heard."""
        ledger = self._ledger
        meta, known = ledger.cluster.meta, ledger.cluster.workers.get(hello.name)
        epoch = max(meta.epoch, hello.epoch + 1)
        if epoch > meta.epoch:
            ledger.save(begin_life(ledger.cluster, meta.lives[-1].id, epoch))
        ledger.cluster.skip_events(hello.heard_seq)
        text = f"this master was set back: {hello.name} has heard of event {hello.heard_seq}; "
        text += f"it goes on as epoch {epoch}, as --accept-rollback says"
        ledger.happened(Doubt.MASTER_SET_BACK, "master", text, hello.name)
        if known is not None:
            ledger.save(msgspec.structs.replace(known, has_heard_more=True))

    def _reconcile_artifacts(self, name: WorkerName) -> None:
        """Desired against observed: what is missing is installed, what nobody wants is removed."""
        ledger, there = self._ledger, self.installed[name]
        for artifact in ledger.cluster.artifacts.values():
            if name in artifact.workers and artifact.digest not in there:
                transfer = Transfer(forced=name in artifact.forced)
                ledger.send_to(name, Install(digest=artifact.digest, transfer=transfer))
        for digest in [digest for digest in there if not ledger.is_wanted(name, digest)]:
            ledger.send_to(name, Uninstall(digest=digest))

    def _is_welcome(self, session: Session, hello: Hello) -> bool:
        """False: it was refused, and told why."""
        try:
            self._admission.check_hello(session, hello)
        except CorpsError as error:
            if isinstance(error, Denied):
                self._witness(session, hello.name, error.message)
            self._ledger.send(session.id, Refused(code=error.code, message=error.message))
            self.shut(session, error.message)
            return False
        return True

    def _witness(self, session: Session, name: WorkerName, why: str) -> None:
        """It was turned away, whoever its certificate names and whatever it calls itself."""
        identity = session.identity
        deed = Deed(
            who=(identity and identity.worker) or NOBODY,
            act="hello",
            outcome=Outcome.DENIED,
            source=session.address,
            subject=name,
            detail=why,
        )
        self._ledger.witness(deed)

    def _lose(self, worker: Worker, silence_s: float) -> None:
        self._hearing.forget(worker.name)
        self.installed.pop(worker.name, None)
        self._ledger.fitness.forget(worker.name)
        session = self._ledger.session_of.pop(worker.name, None)
        if session is not None:
            self._sessions[session].phase = Phase.EXPELLED
        self._set_state(worker, WorkerState.LOST, f"silent for {silence_s:.2f} s: two heartbeats")
        self._observer.worker_lost(worker.name)
        self._orders.worker_lost(worker.name)
        self._settle_rivals(worker.name)

    def _settle_rivals(self, name: WorkerName) -> None:
        id = self._rivals.settle(name)
        if id is not None:
            self._strangers[id] = self._hearing.awake

    def _suspect(self, name: WorkerName, why: str) -> None:
        self._set_state(self._ledger.cluster.workers[name], WorkerState.SUSPECT, why)

    def _set_state(self, worker: Worker, state: WorkerState, why: str) -> None:
        now = self._ledger.now
        changed = msgspec.structs.replace(worker, state=state, state_since=now, reason=why)
        self._ledger.save(changed)
        self._ledger.happened(f"worker-{state}", worker.name, why, worker.name)

    def check(self) -> None:
        """Assert what must hold between sessions and workers."""
        for name, id in self._ledger.session_of.items():
            session = self._sessions[id]
            assert session.worker == name and session.phase is Phase.JOINED
            worker = self._ledger.cluster.workers[name]
            assert worker.state is not WorkerState.LOST, name
        self._rivals.check()
        for worker in self._ledger.cluster.workers.values():
            if worker.state is WorkerState.LOST:
                for instance in self._ledger.cluster.live_on(worker.name):
                    known = instance.state is not InstanceState.UNKNOWN
                    assert not known or instance.is_waiting, instance.id
