"""What must be true after every step, and what must be true in the end.

The master's word is held against the fake kernels: it may lag behind, it may never be wrong.
"""

from __future__ import annotations

from collections.abc import Sequence

from corps.core import events as ev
from corps.core.master import MasterCore
from corps.core.records import CommandRecord, Meta, Record, record_key
from corps.model.artifact import Artifact
from corps.model.certificate import Certificate
from corps.model.command import Copied, Deleted, Failure, Kill, Remove, Signal, Stop
from corps.model.instance import (
    Cause,
    Death,
    Desired,
    Exited,
    Instance,
    Signaled,
    SpawnFailed,
    Vanished,
)
from corps.model.terms import Restart
from corps.model.worker import Worker, WorkerState
from corps.wire import worker as wire
from tests.simulation.hosts import WorkerHost
from tests.simulation.kernel import CORE, Kernel, Process
from tests.simulation.master import HEARTBEAT_S, TICK_S, MasterHost
from tests.simulation.world import World

SILENT_TICKS = round(HEARTBEAT_S / TICK_S)  # of a master awake; short pauses it cannot tell

Tables = dict[tuple[str, str], Record]
Grave = tuple[Death | None, Cause | None, str | None]


class Witness:
    """Sees every effect of the master when it is decided, when it is durable, and what it did."""

    def __init__(
        self, world: World, kernel: Kernel, master: MasterHost, workers: Sequence[WorkerHost]
    ) -> None:
        self._world, self._kernel, self._master = world, kernel, master
        self._hosts = {host.name: host for host in workers}
        self._decided: Tables = {}
        self._durable: Tables = {}
        self._graves: dict[str, Grave] = {}
        self._removed: dict[str, None] = {}
        self._certified: dict[str, Grave] = {}  # by attempt, once it is durable
        self._running: dict[str, Process] = {}  # by instance, the last that executed
        self._never: dict[str, None] = {}  # attempts that were said never to have run
        self._seen: dict[str, None] = {}  # instances that were seen running
        self._allowed: dict[str, set[int]] = {}  # signals somebody asked for, by attempt
        self._sent_to: dict[str, tuple[str, str]] = {}  # boot and state a Start was for
        master.on_start, master.on_step = self._started, self._stepped
        master.on_commit = self._committed
        kernel.on_execute, kernel.on_signal = self._executed, self._signalled

    # ---- the master

    def _started(self, core: MasterCore) -> None:
        """A master begins with everything that was ever durable."""
        if self._durable:  # not the first master
            fault = self._master.store.prove().fault
            self._require(fault is None, f"the audit trail is broken: {fault}")
        cluster = core.cluster
        for id, grave in self._graves.items():
            instance = cluster.instances.get(id)
            self._require(instance is not None or id in self._removed, f"{id} was lost")
            if instance is not None:
                self._require(_grave(instance) == grave, f"{id} died another death")
        for record in self._durable.values():
            if isinstance(record, CommandRecord):
                known = cluster.commands.get(record.id)
                self._require(
                    known is not None and known.targets == record.targets, f"{record.id} was lost"
                )
        self._decided = dict(self._durable)

    def _stepped(self, core: MasterCore, effects: list[ev.MasterEffect]) -> None:
        """In order: what is sent rests on what was saved before."""
        for effect in effects:
            match effect:
                case ev.Save():
                    self._saves(effect.record)
                    self._decided[record_key(effect.record)] = effect.record
                case ev.Drop():
                    dropped = effect.record
                    live = isinstance(dropped, Instance) and dropped.is_live
                    self._require(not live, f"{record_key(dropped)} was dropped alive")
                    del self._decided[record_key(dropped)]
                case ev.Send():
                    self._sends(core, effect.session, effect.message)
                case ev.Reply():
                    self._replies(effect)
                case ev.Close():
                    pass

    def _saves(self, record: Record) -> None:
        if isinstance(record, Worker) and record.state is WorkerState.LOST:
            silent = self._master.ticks - self._master.heard.get(record.name, 0)
            self._require(silent >= SILENT_TICKS, f"{record.name} is lost after {silent} ticks")
        if isinstance(record, Instance):
            old = self._decided.get(record_key(record))
            if isinstance(old, Instance) and not old.is_live:
                self._require(_grave(old) == _grave(record), f"{record.id} did not stay dead")
            if record.id in self._graves:
                same = self._graves[record.id] == _grave(record)
                self._require(same, f"{record.id} did not stay dead")
            self._require(record.id not in self._removed, f"{record.id} came back from nowhere")
            self._goes_on(old if isinstance(old, Instance) else None, record)
        if isinstance(record, CommandRecord) and isinstance(record.command, Stop | Kill | Signal):
            self._allows(record, record.command)

    def _goes_on(self, old: Instance | None, new: Instance) -> None:
        """From attempt to attempt: one after the other, each death certified, never unasked."""
        if old is None:
            self._require(new.attempt == 1, f"{new.id} begins with attempt {new.attempt}")
        elif new.attempt != old.attempt:
            next_one = new.attempt == old.attempt + 1 and old.is_waiting
            self._require(next_one, f"{new.id}: attempt {new.attempt} after {old}")
            self._require(("certificates", old.key) in self._decided, f"{old.key} has no end")
            due = old.not_before is not None and old.not_before <= self._world.now
            self._require(due, f"{new.key} begins before its time")
        wanted = new.restart is not Restart.NEVER and new.desired is Desired.RUNNING
        self._require(wanted or not new.is_waiting, f"{new.id} waits for no attempt")
        if new.failures_max is not None:
            self._require(new.failures <= new.failures_max, f"{new.id} does not give up")

    def _allows(self, record: CommandRecord, command: Stop | Kill | Signal) -> None:
        """Signals to the attempts that there are now, and to no later one."""
        numbers = {Stop: {2, 9}, Kill: {9}}.get(type(command), set())
        if isinstance(command, Signal):
            numbers = {command.signal}
        for target in record.targets:
            instance = self._decided.get(("instances", target))
            if isinstance(instance, Instance):
                self._allowed.setdefault(instance.key, set()).update(numbers)

    def _sends(self, core: MasterCore, session: int, message: wire.ToWorker) -> None:
        match message:
            case wire.Start():
                instance = self._instance(message.key)
                self._require(
                    instance is not None
                    and instance.is_live
                    and instance.desired is Desired.RUNNING
                    and self._is_ready(instance),
                    f"{message.key} is started on a worker that is not ready, or without record",
                )
            case wire.End():
                instance = self._instance(message.key)
                wanted = instance is not None and instance.desired is Desired.STOPPED
                self._require(wanted, f"{message.key} is ended and nobody asked")
            case wire.SendSignal():
                record = self._decided.get(("commands", message.command))
                asked = isinstance(record, CommandRecord) and isinstance(record.command, Signal)
                self._require(asked, f"{message.key} is signalled and nobody asked")
            case wire.Forget():
                for key in message.keys:
                    instance = self._instance(key)
                    is_over = instance is None or ("certificates", key) in self._decided
                    self._require(is_over, f"{key} is forgotten before its death is recorded")
            case wire.Remove():
                asked = any(self._asked_to_remove(key) for key in message.keys)
                self._require(asked, f"{message.keys} removed and nobody asked")
            case wire.Uninstall():
                self._require(not self._is_used(core, session, message.digest), "used files go")
            case wire.Welcome():
                meta = self._decided[("meta", "cluster")]
                same = isinstance(meta, Meta) and meta.epoch == message.epoch
                self._require(same, "an epoch was told before it was saved")
            case _:
                pass

    def _sends_again(self, key: str) -> None:
        """On another boot or state nobody knows what became of the first time."""
        instance = self._durable[("instances", key.partition("#")[0])]
        assert isinstance(instance, Instance)
        worker = self._durable[("workers", instance.worker)]
        assert isinstance(worker, Worker)
        where = (worker.boot_id, worker.state_id)
        self._require(self._sent_to.setdefault(key, where) == where, f"{key} is started again")

    def _replies(self, reply: ev.Reply) -> None:
        if isinstance(reply.result, Copied | Deleted):
            absurd = [row for row in reply.result.workers if row.result.endswith("is ready")]
            self._require(not absurd, f"{reply.id} failed because all is well: {absurd}")
        if not isinstance(reply.result, Failure):
            record = self._decided.get(("commands", reply.id))
            same = isinstance(record, CommandRecord) and record.result == reply.result
            self._require(same, f"{reply.id} was answered before the answer was saved")

    def _committed(self, effects: list[ev.MasterEffect]) -> None:
        for effect in effects:
            if isinstance(effect, ev.Save):
                self._durable[record_key(effect.record)] = effect.record
                self._is_durable(effect.record)
            elif isinstance(effect, ev.Drop):
                self._durable.pop(record_key(effect.record), None)
                if isinstance(effect.record, Instance):
                    self._removed[effect.record.id] = None
            elif isinstance(effect, ev.Send) and isinstance(effect.message, wire.Start):
                self._sends_again(effect.message.key)

    def _is_durable(self, record: Record) -> None:
        if isinstance(record, Instance) and not record.is_over and record.started_at is not None:
            self._seen[record.key] = None
        if isinstance(record, Instance) and record.is_over:
            death, cause, _ = self._certified[record.key]
            self._require((record.death, record.cause) == (death, cause), f"{record.key}: {death}")
        if isinstance(record, Instance) and not record.is_live:
            self._graves[record.id] = _grave(record)
        if isinstance(record, Certificate):
            self._require(record.key not in self._certified, f"{record.key} died twice")
            self._certified[record.key] = (record.death, record.cause, record.message)
            self._judge(record)

    # ---- the truth

    def _judge(self, certificate: Certificate) -> None:
        """A death is the kernel's, or nobody could know it."""
        death, key = certificate.death, certificate.key
        process = self._kernel.of(key)
        match death:
            case Exited():
                truth = process is not None and process.status == death.code << 8
                self._require(truth, f"{key}: {death} is not what happened: {process}")
                self._judge_cause(certificate, process)
            case Signaled():
                status = death.signal | (CORE if death.core_dumped else 0)
                truth = process is not None and process.status == status
                self._require(truth, f"{key}: {death} is not what happened: {process}")
                self._judge_cause(certificate, process)
            case SpawnFailed():
                self._require(key not in self._kernel.executions, f"{key} ran: {death}")
                self._never[key] = None
            case Vanished():
                self._judge_vanished(certificate, death, process)

    def _judge_cause(self, certificate: Certificate, process: Process | None) -> None:
        assert process is not None
        key, ours = certificate.key, certificate.cause in (Cause.STOP, Cause.KILL)
        self._require(not ours or bool(process.signals), f"{key}: not our doing")
        death = certificate.death
        if isinstance(death, Signaled) and death.signal in process.signals:
            self._require(ours, f"{key}: our doing, and not said: {certificate.message}")

    def _judge_vanished(
        self, certificate: Certificate, death: Vanished, process: Process | None
    ) -> None:
        host, key = self._hosts[certificate.worker], certificate.key
        knowable = process is None or process.is_alive
        if "reboot" in death.reason:
            self._require(host.boots + host.clones > 0, f"{key}: no reboot")
        elif "state directory" in death.reason:
            self._require(host.wipes + host.clones > 0, f"{key}: no other state")
        elif any(text in death.reason for text in ("set back", "of how it ended", "is a copy")):
            self._require(host.restores + host.clones > 0, f"{key}: nothing was set back")
        else:
            self._require("keeper" in death.reason and not knowable, f"{key}: {death}, {process}")
        self._require(not (death.may_have_run and key in self._seen), f"{key}: it was seen running")
        lives = process is not None and process.is_alive
        over = death.may_still_run or not lives or host.whole_clones > 0
        self._require(over, f"{key}: lives, and is said to be over")
        if not death.may_have_run:
            ran = self._kernel.executions.get(key, 0) == 1
            self._require(ran, f"{key}: nobody can have seen it run: {death}")

    def _executed(self, process: Process) -> None:
        self._require(process.key not in self._never, f"{process.key} ran after all")
        id, _, attempt = process.key.partition("#")
        before = self._running.get(id)
        alone = before is None or not before.is_alive
        # While the first is out of reach, a machine cloned whole seems to be booted anew.
        seems_alone = self._hosts[process.host.partition(".")[0]].whole_clones > 0
        self._require(alone or seems_alone, f"{process.key} runs beside {before}")
        is_told = attempt == "1" or f"{id}#{int(attempt) - 1}" in self._certified
        self._require(is_told, f"{process.key} runs before the last death is recorded")
        self._running[id] = process

    def _signalled(self, process: Process, number: int) -> None:
        allowed = self._allowed.get(process.key, set())
        self._require(number in allowed, f"{process.key} got signal {number}, nobody asked")

    # ---- small questions

    def _require(self, truth: bool, rule: str) -> None:
        self._world.require(truth, rule)

    def _instance(self, key: str) -> Instance | None:
        record = self._decided.get(("instances", key.partition("#")[0]))
        return record if isinstance(record, Instance) else None

    def _is_ready(self, instance: Instance) -> bool:
        worker = self._decided.get(("workers", instance.worker))
        return isinstance(worker, Worker) and worker.state is WorkerState.READY

    def _asked_to_remove(self, key: str) -> bool:
        id = key.partition("#")[0]
        return any(
            isinstance(record, CommandRecord)
            and isinstance(record.command, Remove)
            and id in record.targets
            for record in self._decided.values()
        )

    def _is_used(self, core: MasterCore, session: int, digest: str) -> bool:
        """By a live instance there, or as an artifact that should be there."""
        names = [name for name in self._hosts if core.session_of(name) == session]
        return any(
            (isinstance(r, Artifact) and r.digest == digest and set(names) & set(r.workers))
            or (
                isinstance(r, Instance)
                and r.is_live
                and r.worker in names
                and r.launch.digest == digest
            )
            for r in self._decided.values()
        )


def _grave(instance: Instance) -> Grave:
    return instance.death, instance.cause, instance.message
