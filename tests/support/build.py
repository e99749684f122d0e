"""Builders: a thing as it mostly is, but for what a test says otherwise."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from random import Random
from typing import Any, TypeVar

import msgspec

from corps.core import events as ev
from corps.core.cluster import Cluster
from corps.core.master import MasterCore
from corps.core.records import Meta, Record, record_key
from corps.core.worker import WorkerCore
from corps.model.artifact import Artifact
from corps.model.command import AnyCommand, AnyResult, Copy, Launch
from corps.model.identity import Identity
from corps.model.instance import (
    Cause,
    Death,
    Delivered,
    Desired,
    Exited,
    Instance,
    InstanceState,
    Launchable,
    Timings,
)
from corps.model.worker import Worker, WorkerState
from corps.wire import keeper as kw
from corps.wire import worker as wire

NOW = 1_750_000_000.0
HEARTBEAT_S = 1.0
DIGEST = "1" * 64
CLUSTER = "c-1"
LIVES = itertools.count(1)  # no two masters of a test have the same name

T = TypeVar("T")


def a_worker(name: str = "w1", **facts: Any) -> Worker:
    worker = Worker(
        name=name,
        state_id=f"state-{name}",
        boot_id="boot-1",
        state=WorkerState.READY,
        address="10.0.0.1:4000",
        labels={},
        cpu_count=2,
        memory_bytes=1 << 30,
        version="0.1.0",
        joined_at=NOW,
        state_since=NOW,
    )
    return msgspec.structs.replace(worker, **facts)


def an_artifact(name: str = "web", digest: str = DIGEST, **facts: Any) -> Artifact:
    artifact = Artifact(
        name=name, digest=digest, size_bytes=10, file_count=1, created_at=NOW, created_by="root"
    )
    return msgspec.structs.replace(artifact, **facts)


def an_instance(id: str = "web.1", **facts: Any) -> Instance:
    app, _, number = id.rpartition(".")
    instance = Instance(
        id=id,
        app=app,
        number=int(number),
        attempt=1,
        worker="w1",
        launch=Launchable(artifact=app, digest=DIGEST),
        command="launch-1",
        by="root",
        state=InstanceState.RUNNING,
        desired=Desired.RUNNING,
        timings=Timings(placed_at=NOW),
        state_since=NOW,
        pid=100,
        started_at=NOW,
    )
    return msgspec.structs.replace(instance, **facts)


def a_dead_instance(id: str = "web.1", death: Death | None = None, **facts: Any) -> Instance:
    death = death or Exited(code=0)
    return an_instance(
        id,
        state=InstanceState.DEAD,
        death=death,
        cause=Cause.SELF,
        message="exited 0",
        ended_at=NOW,
        **facts,
    )


def a_hello(name: str = "w1", **facts: Any) -> wire.Hello:
    hello = wire.Hello(
        protocol=1,
        name=name,
        state_id=f"state-{name}",
        boot_id="boot-1",
        cluster=CLUSTER,
        labels={},
        cpu_count=2,
        memory_bytes=1 << 30,
        version="0.1.0",
    )
    return msgspec.structs.replace(hello, **facts)


def a_report(
    key: str = "web.1#1", state: InstanceState = InstanceState.RUNNING, **facts: Any
) -> wire.Report:
    report = wire.Report(key=key, state=state, digest=DIGEST)
    if state in (InstanceState.RUNNING, InstanceState.STOPPING):
        facts = {"pid": 100, "started_at": NOW, **facts}
    return msgspec.structs.replace(report, **facts)


def a_death_report(key: str = "web.1#1", death: Death | None = None, **facts: Any) -> wire.Report:
    facts = {"pid": 100, "death": death or Exited(code=0), "ended_at": NOW + 1, **facts}
    return a_report(key, InstanceState.DEAD, **facts)


def installed(digest: str = DIGEST, files_sent: int = 1) -> wire.Installed:
    return wire.Installed(
        digest=digest,
        bytes_sent=files_sent * 10,
        bytes_total=10,
        files_sent=files_sent,
        files_total=1,
        seconds=0.5,
    )


def kept(key: str = "web.1#1", **facts: Any) -> kw.KeptAttempt:
    """An attempt in a keeper's words: it runs, unless said otherwise."""
    attempt = kw.KeptAttempt(
        key=key, pid=100, note=DIGEST, forked_at=NOW, is_live=True, executed=True
    )
    return msgspec.structs.replace(attempt, **facts)


def kept_dead(key: str = "web.1#1", status: int | None = 0, **facts: Any) -> kw.KeptAttempt:
    return kept(key, is_live=False, status=status, ended_at=NOW + 1, **facts)


def delivered(*signals: int, at: float = NOW) -> tuple[Delivered, ...]:
    return tuple(Delivered(signal=signal, at=at) for signal in signals)


class AMaster:
    """A MasterCore, its clock, its store, and everything it said."""

    def __init__(
        self, records: Iterable[Record] = (), now: float = NOW, *, accepts_rollback: bool = False
    ) -> None:
        self.now = now
        self.said: list[ev.MasterEffect] = []
        self._stored: dict[tuple[str, str], Record] = {}
        self._sessions = itertools.count(1)
        self._orders = itertools.count(1)
        self._accepts_rollback = accepts_rollback
        meta = Meta(cluster=CLUSTER, epoch=0)
        for record in (meta, *records):
            self._stored[record_key(record)] = record
        self.core = self._begin()

    def restart(self) -> None:
        """Crash, and begin again with what was saved."""
        self.core = self._begin()

    def step(self, event: ev.MasterEvent) -> list[ev.MasterEffect]:
        effects = self.core.step(self.now, event)
        self.core.check()
        return self._carry_out(effects)

    def wait(self, duration_s: float) -> list[ev.MasterEffect]:
        """Ticks, as the driver sends them."""
        effects: list[ev.MasterEffect] = []
        for _ in range(round(duration_s / 0.1)):
            self.now += 0.1
            effects += self.step(ev.Tick())
        return effects

    def pause(self, duration_s: float) -> list[ev.MasterEffect]:
        """Nothing at all happens for so long; then one tick."""
        self.now += duration_s
        return self.step(ev.Tick())

    def open(self, identity: Identity | None = None) -> int:
        session = next(self._sessions)
        self.step(ev.Opened(session, f"10.0.0.1:{4000 + session}", identity))
        return session

    def identity(self, name: str = "w1") -> Identity | None:
        """By its certificate, if that worker has joined by a token."""
        member = self.core.cluster.roll.members.get(name)
        if member is None:
            return None
        return Identity(
            cluster=CLUSTER,
            worker=name,
            key=member.key,
            serial=member.serial,
            expires_at=member.expires_at,
        )

    def hear(self, session: int, *messages: wire.FromWorker) -> list[ev.MasterEffect]:
        return self.step(ev.Received(session, messages))

    def join(
        self,
        name: str = "w1",
        reports: Iterable[wire.Report] = (),
        artifacts: Iterable[str] = (),
        **facts: Any,
    ) -> int:
        """A worker connects, says hello and all it has."""
        session = self.open(self.identity(name))
        self.rejoin(session, name, reports, artifacts, **facts)
        return session

    def rejoin(
        self,
        session: int,
        name: str = "w1",
        reports: Iterable[wire.Report] = (),
        artifacts: Iterable[str] = (),
        **facts: Any,
    ) -> list[ev.MasterEffect]:
        inventory = wire.Inventory(reports=tuple(reports), artifacts=tuple(artifacts), is_last=True)
        return self.hear(session, a_hello(name, **facts), inventory)

    def close(self, session: int) -> list[ev.MasterEffect]:
        return self.step(ev.Closed(session))

    def order(self, command: AnyCommand, id: str = "", body: str = "") -> list[ev.MasterEffect]:
        id = id or f"order-{next(self._orders):04d}"
        body = body or repr(command)
        return self.step(ev.Commanded(id, body, command, "root", ev.ArtifactFacts(10, 1)))

    def launch(self, count: int | None = 1, **facts: Any) -> list[Instance]:
        """Copy `web` everywhere if it is not there, launch it, and see what was placed."""
        if not self.core.cluster.artifacts:
            self.order(Copy(name="web", digest=DIGEST))
        known = set(self.core.cluster.instances)
        self.order(Launch(**{"artifact": "web", "count": count, **facts}))
        return [i for id, i in self.core.cluster.instances.items() if id not in known]

    def launch_running(self, session: int, worker: str = "w1") -> Instance:
        """One instance on `worker`, which has said that it runs."""
        (instance,) = self.launch(on=worker)
        self.hear(session, wire.Changed(reports=(a_report(instance.key),)))
        return self.instance(instance.id)

    # ---- what it knows and what it said

    def instance(self, id: str) -> Instance:
        return self.core.cluster.instances[id]

    def worker(self, name: str = "w1") -> Worker:
        return self.core.cluster.workers[name]

    def sent(self, kind: type[T], session: int | None = None) -> list[T]:
        """Messages of one kind, of all that was said."""
        return [
            effect.message
            for effect in self.said
            if isinstance(effect, ev.Send)
            and isinstance(effect.message, kind)
            and session in (None, effect.session)
        ]

    def closed(self) -> list[tuple[int, str]]:
        return [(said.session, said.reason) for said in self.said if isinstance(said, ev.Close)]

    def replies(self, id: str) -> list[AnyResult]:
        return [said.result for said in self.said if isinstance(said, ev.Reply) and said.id == id]

    def events(self, subject: str) -> list[str]:
        return [event.kind for event in self.core.cluster.events if event.subject == subject]

    def _begin(self) -> MasterCore:
        meta = self._stored[("meta", "cluster")]
        assert isinstance(meta, Meta)
        core = MasterCore(
            Cluster(meta, self._stored.values()),
            HEARTBEAT_S,
            self.now,
            Random(0),
            life=f"life-{next(LIVES)}",
            accepts_rollback=self._accepts_rollback,
        )
        core.check()
        self._carry_out(core.begin())
        return core

    def _carry_out(self, effects: list[ev.MasterEffect]) -> list[ev.MasterEffect]:
        for effect in effects:
            if isinstance(effect, ev.Save):
                self._stored[record_key(effect.record)] = effect.record
            elif isinstance(effect, ev.Drop):
                del self._stored[record_key(effect.record)]
        self.said += effects
        return effects


class AWorker:
    """A WorkerCore and its clock."""

    def __init__(self, artifacts: Iterable[str] = (DIGEST,), **facts: Any) -> None:
        self.now = NOW
        self.core = WorkerCore(a_hello(**facts), artifacts)
        self.said: list[ev.WorkerEffect] = []

    def step(self, event: ev.WorkerEvent) -> list[ev.WorkerEffect]:
        effects = self.core.step(self.now, event)
        self.core.check()
        self.said += effects
        return effects

    def wait(self, duration_s: float) -> list[ev.WorkerEffect]:
        effects: list[ev.WorkerEffect] = []
        for _ in range(round(duration_s / 0.1)):
            self.now += 0.1
            effects += self.step(ev.Tick())
        return effects

    def obey(self, *messages: wire.ToWorker) -> list[ev.WorkerEffect]:
        return self.step(ev.MasterSaid(messages))

    def keeper_says(self, *messages: kw.FromKeeper) -> list[ev.WorkerEffect]:
        return self.step(ev.KeeperSaid(messages))

    def keeper_lists(
        self, *attempts: kw.KeptAttempt, is_last: bool = True
    ) -> list[ev.WorkerEffect]:
        """The keeper lists these."""
        return self.keeper_says(
            kw.Listing(
                gives_secrets=True,
                attempts=attempts,
                totals=wire.Totals(),
                keeper_pid=7,
                is_last=is_last,
            )
        )

    def welcome(self) -> list[ev.WorkerEffect]:
        return self.obey(wire.Welcome(cluster=CLUSTER, epoch=1, heartbeat_s=HEARTBEAT_S))

    def start(self, key: str = "web.1#1", digest: str = DIGEST) -> list[ev.WorkerEffect]:
        launch = Launchable(artifact="web", digest=digest)
        return self.obey(wire.Start(key=key, launch=launch))

    def spawned(self, key: str = "web.1#1", pid: int = 100) -> list[ev.WorkerEffect]:
        return self.keeper_says(
            kw.Spawned(key=key, pid=pid, forked_at=self.now, executed_at=self.now)
        )

    def run(self, key: str = "web.1#1") -> None:
        """Start it, and the keeper says that it runs."""
        self.start(key)
        self.spawned(key)

    def state(self, key: str = "web.1#1") -> InstanceState:
        report = self.core.report(key)
        assert report is not None
        return report.state


def a_ready_worker(artifacts: Iterable[str] = (DIGEST,), **facts: Any) -> AWorker:
    """It knows what runs, and the master bade it welcome."""
    worker = AWorker(artifacts, **facts)
    worker.keeper_lists()
    worker.step(ev.Linked())
    worker.welcome()
    worker.said.clear()
    return worker


def told(effects: Iterable[ev.WorkerEffect], kind: type[T]) -> list[T]:
    """Messages of one kind to the master."""
    return [e.message for e in effects if isinstance(e, ev.Tell) and isinstance(e.message, kind)]


def instructed(effects: Iterable[ev.WorkerEffect], kind: type[T]) -> list[T]:
    """Messages of one kind to the keeper."""
    return [
        e.message for e in effects if isinstance(e, ev.Instruct) and isinstance(e.message, kind)
    ]


def reports(effects: Iterable[ev.WorkerEffect]) -> dict[str, wire.Report]:
    """The last report of each attempt that the master was told."""
    return {
        report.key: report for message in told(effects, wire.Changed) for report in message.reports
    }
