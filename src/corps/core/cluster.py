"""Cluster: the master's tables and their indexes. One writer, one check of all invariants."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import assert_never

from corps.core.chain import Chain
from corps.core.records import App, CommandRecord, Event, Meta, Record, artifact_key
from corps.core.roll import Roll
from corps.model.artifact import Artifact
from corps.model.certificate import Certificate
from corps.model.instance import Desired, Instance, InstanceState
from corps.model.name import AttemptKey, CommandId, InstanceId, WorkerName
from corps.model.secret import Secret
from corps.model.trail import TrailEntry, TrailHead, TrailMark
from corps.model.trust import JoinToken, Member, User, UserToken
from corps.model.worker import Worker

EVENTS_KEPT = 20_000
COMMANDS_KEPT = 2_000
TARGETS_KEPT = 100_000  # of all commands kept: each is a row of a result
DEAD_KEPT = 20_000
CERTIFICATES_KEPT = 20_000
ATTEMPTS_KEPT = 100  # certificates of one instance, so that it pushes out no other's


class Cluster:
    """All hard state of a master, as it is (or is about to be) in its store."""

    def __init__(self, meta: Meta, records: Iterable[Record] = ()) -> None:
        self.meta = meta
        self.workers: dict[WorkerName, Worker] = {}
        self.artifacts: dict[str, Artifact] = {}
        self.apps: dict[str, App] = {}
        self.instances: dict[InstanceId, Instance] = {}
        self.certificates: dict[AttemptKey, Certificate] = {}  # oldest first
        self.commands: dict[CommandId, CommandRecord] = {}
        self.events: deque[Event] = deque()
        self.roll = Roll()
        self.chain = Chain()
        self.next_seq = 1
        self._live_by_worker: dict[WorkerName, dict[InstanceId, None]] = {}
        self._by_app: dict[str, dict[InstanceId, None]] = {}
        self._certified: dict[InstanceId, dict[AttemptKey, None]] = {}
        self._often: dict[InstanceId, None] = {}  # with more certificates than are kept
        self._dead: dict[InstanceId, None] = {}
        self._done: dict[CommandId, None] = {}
        self._done_targets = 0
        for record in records:
            self.put(record)
        self._sort()

    def put(self, record: Record) -> None:
        match record:
            case Instance():
                self._put_instance(record)
            case Certificate():
                self._put_certificate(record)
            case CommandRecord():
                self._put_command(record)
            case Event():
                self.events.append(record)
                self.next_seq = record.seq + 1
            case Worker() | Artifact() | App() | Meta():
                self._put_noun(record)
            case JoinToken() | Member() | User() | UserToken() | Secret():
                self.roll.put(record)
            case TrailEntry() | TrailHead() | TrailMark():
                self.chain.put(record)
            case _:
                assert_never(record)

    def drop(self, record: Record) -> None:
        match record:
            case Instance():
                del self.instances[record.id]
                self._dead.pop(record.id, None)
                del self._by_app[record.app][record.id]
            case Certificate():
                self._drop_certificate(record)
            case CommandRecord():
                del self.commands[record.id]
                if record.id in self._done:
                    del self._done[record.id]
                    self._done_targets -= len(record.targets)
            case Event():
                assert self.events[0] is record, "events are dropped oldest first"
                self.events.popleft()
            case Artifact():
                del self.artifacts[artifact_key(record)]
            case JoinToken() | Member() | User() | UserToken() | Secret():
                self.roll.drop(record)
            case TrailEntry() | TrailHead() | TrailMark():
                self.chain.drop(record)
            case Worker() | App() | Meta():
                raise AssertionError(f"{type(record).__name__} records are never dropped")
            case _:
                assert_never(record)

    def skip_events(self, seq: int) -> None:
        """The next event comes after `seq`."""
        self.next_seq = max(self.next_seq, seq + 1)

    def live_on(self, worker: WorkerName) -> list[Instance]:
        """Instances of a worker that may be running, in order of launch."""
        return [self.instances[id] for id in self._live_by_worker.get(worker, {})]

    def live_count(self, worker: WorkerName) -> int:
        return len(self._live_by_worker.get(worker, {}))

    def of_app(self, app: str) -> list[Instance]:
        return [self.instances[id] for id in self._by_app.get(app, {})]

    def certificates_of(self, id: InstanceId) -> list[Certificate]:
        """The deaths of an instance, attempt by attempt."""
        return [self.certificates[key] for key in self._certified.get(id, {})]

    def surplus(self) -> Record | None:
        """The oldest record beyond what is kept, if any: history has a limit."""
        if len(self.events) > EVENTS_KEPT:
            return self.events[0]
        too_large = self._done_targets > TARGETS_KEPT and len(self._done) > 1
        if len(self._done) > COMMANDS_KEPT or too_large:
            return self.commands[next(iter(self._done))]
        if self._often:
            return self.certificates_of(next(iter(self._often)))[0]
        if len(self.certificates) > CERTIFICATES_KEPT:
            return next(iter(self.certificates.values()))
        if len(self._dead) > DEAD_KEPT:
            return self.instances[next(iter(self._dead))]
        return None

    def check(self) -> None:
        """Assert every invariant across tables."""
        for id, instance in self.instances.items():
            is_live = instance.state is not InstanceState.DEAD
            assert instance.id == id == f"{instance.app}.{instance.number}"
            assert instance.number < self.apps[instance.app].next_number, id
            assert instance.worker in self.workers, id
            assert (id in self._live_by_worker[instance.worker]) is is_live, id
            assert (id in self._dead) is not is_live, id
            assert (instance.death is not None) is instance.is_over, id
            assert (instance.cause is not None) is instance.is_over, id
            assert not instance.is_waiting or instance.state is InstanceState.PENDING, id
            assert not instance.is_waiting or instance.desired is Desired.RUNNING, id
            assert is_live is False or instance.asked or instance.desired is Desired.RUNNING, id
            assert instance.pid or instance.state is not InstanceState.RUNNING, id
            for secret in instance.launch.terms.secrets:
                assert not is_live or secret.name in self.roll.secrets, (id, secret.name)
        for artifact in self.artifacts.values():
            for worker in artifact.workers:
                assert worker in self.workers, artifact.name
        assert sum(map(len, self._live_by_worker.values())) + len(self._dead) == len(self.instances)

    def _sort(self) -> None:
        """Loaded records come in the order in which they began; what is kept goes by their end."""
        dead = sorted(self._dead, key=lambda id: self.instances[id].state_since)
        self._dead = dict.fromkeys(dead)
        done = sorted(self._done, key=lambda id: self.commands[id].done_at or 0.0)
        self._done = dict.fromkeys(done)

    def _put_noun(self, record: Worker | Artifact | App | Meta) -> None:
        match record:
            case Worker():
                self.workers[record.name] = record
            case Artifact():
                self.artifacts[artifact_key(record)] = record
            case App():
                self.apps[record.name] = record
            case Meta():
                self.meta = record
            case _:
                assert_never(record)

    def _put_command(self, record: CommandRecord) -> None:
        self.commands[record.id] = record
        if record.result is not None and record.id not in self._done:
            self._done[record.id] = None
            self._done_targets += len(record.targets)

    def _put_instance(self, instance: Instance) -> None:
        self.instances[instance.id] = instance
        self._by_app.setdefault(instance.app, {})[instance.id] = None
        live = self._live_by_worker.setdefault(instance.worker, {})
        if instance.is_live:
            live[instance.id] = None
        else:
            live.pop(instance.id, None)
            self._dead[instance.id] = None

    def _put_certificate(self, certificate: Certificate) -> None:
        assert certificate.key not in self.certificates, "a death is certified once"
        self.certificates[certificate.key] = certificate
        deaths = self._certified.setdefault(certificate.id, {})
        deaths[certificate.key] = None
        if len(deaths) > ATTEMPTS_KEPT:
            self._often[certificate.id] = None

    def _drop_certificate(self, certificate: Certificate) -> None:
        del self.certificates[certificate.key]
        deaths = self._certified[certificate.id]
        del deaths[certificate.key]
        if not deaths:
            del self._certified[certificate.id]
        if len(deaths) <= ATTEMPTS_KEPT:
            self._often.pop(certificate.id, None)
