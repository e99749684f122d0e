"""Fake machines of workers: a real WorkerCore, a fake driver, a disk, a keeper, and their ends."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import assert_never

from corps.core import events as ev
from corps.core.worker import WorkerCore
from corps.model.secret import names_of
from corps.wire import keeper as kw
from corps.wire import worker as wire
from tests.simulation.keeper import Journal, Keeper
from tests.simulation.kernel import Kernel
from tests.simulation.network import Line, Listener, Network
from tests.simulation.world import World

TICK_S = 0.1
CRASH_CHANCE = 0.0008  # after each effect, while things go wrong
BLOCKED_CHANCE = 0.01
UNVERIFIED_CHANCE = 0.2
ENOSPC = 28


@dataclass
class Disk:
    """What outlives the daemons of a worker."""

    state_id: str
    journal: Journal
    cluster: str | None = None
    incarnation: int = 0
    epoch: int = 0
    life: str = ""
    heard_seq: int = 0
    is_copy: bool = False
    installed: dict[str, None] = field(default_factory=dict)
    files: dict[str, None] = field(default_factory=dict)  # attempts that have a log

    def copy(self) -> Disk:
        """As `cp -a` makes it; what it says of processes is true of the same processes."""
        return replace(
            self,
            journal=self.journal.copy(),
            is_copy=True,
            installed=dict(self.installed),
            files=dict(self.files),
        )


class WorkerHost:
    """One machine. Everything that happens to a life of its daemon ends with that life."""

    def __init__(  # a clone has a machine of its own
        self,
        world: World,
        kernel: Kernel,
        network: Network,
        name: str,
        master: Listener,
        place: str = "",
    ) -> None:
        self._world, self._kernel, self._network = world, kernel, network
        self.name, self._master = name, master
        self.place = place or name  # the machine: a clone has the name of another
        self.boots = self.wipes = self.restores = self.clones = self.whole_clones = 0
        self.backup: Disk | None = None
        self.is_retired = False
        self.disk = Disk(state_id=self._state_id(), journal=Journal(self.boot_id))
        self.core: WorkerCore | None = None
        self.keeper: Keeper | None = None
        self.is_frozen = False
        self.refusals = 0
        self._inbox: deque[Callable[[], None]] = deque()  # what a frozen daemon will find
        self._life = 0
        self._keeper_link = 0
        self.line: Line | None = None

    @property
    def boot_id(self) -> str:
        return f"boot-{self.place}-{self.boots}"

    # ---- lives

    def start(self) -> None:
        if self.core is not None or self.is_retired:
            return
        self._life += 1
        self.disk.incarnation += 1
        hello = wire.Hello(
            protocol=1,
            name=self.name,
            state_id=self.disk.state_id,
            boot_id=self.boot_id,
            cluster=self.disk.cluster,
            labels={"zone": "ab"[len(self.name) % 2]},
            cpu_count=2,
            memory_bytes=1 << 30,
            version="0.1.0",
            incarnation=self.disk.incarnation,
            process_id=f"{self.place}-{self._life}",
            is_copy=self.disk.is_copy,
            epoch=self.disk.epoch,
            life=self.disk.life,
            heard_seq=self.disk.heard_seq,
        )
        self.core = WorkerCore(hello, self.disk.installed)
        self._world.note(self.name, f"worker starts, life {self._life}")
        self._open_keeper()
        self._later(self._world.delay(0, 0.05), self._dial)
        self._later(self._world.delay(0, TICK_S), self._tick)

    def crash(self, down_s: float | None = None) -> None:
        """kill -9 of the daemon alone: the keeper and the programs go on. It comes back."""
        if self.core is None:
            return
        self._world.after(self._world.delay(0.05, 2.5) if down_s is None else down_s, self.start)
        self._world.note(self.name, "worker crashes")
        self.core = None
        self._life += 1
        self.is_frozen = False
        self._inbox.clear()
        if self.keeper is not None:
            self.keeper.hang_up(self._keeper_link)
        line, self.line = self.line, None
        if line is not None and self._world.rng.random() < 0.5:
            line.cut(0.5)
        elif line is not None:
            line.hang_up_caller()

    def reboot(self) -> None:
        """Power loss: no process survives, nor, perhaps, what the journal got last."""
        self._world.note(self.name, "machine reboots")
        self.crash(self._world.delay(0.5, 8.0))
        if self.keeper is not None:
            self.keeper.crash()
            self.keeper = None
        self._end_all()
        self.boots += 1
        self.disk.journal.lose_since(self._world.now - self._world.delay(0, 3.0))

    def wipe(self) -> None:
        """The state directory is removed; its keeper and its programs are strays now."""
        self._world.note(self.name, "state directory wiped")
        self.crash()
        self.keeper = None
        self.wipes += 1
        self.disk = Disk(state_id=self._state_id(), journal=Journal(self.boot_id))

    def back_up(self) -> None:
        self.backup = self.disk.copy()

    def restore(self) -> None:
        """An older copy of the state directory is put back; what ran goes on."""
        if self.backup is None:
            return
        self._world.note(self.name, "state directory restored")
        if self.keeper is not None:
            self.keeper.crash()
            self.keeper = None
        self.crash()
        self.restores += 1
        self.disk = self.backup.copy()
        self.disk.state_id = self.backup.state_id

    def clone(self) -> WorkerHost:
        """Another machine with a copy of this one's disk: made whole, or file by file."""
        self._world.note(self.name, "is cloned")
        self.clones += 1
        place = f"{self.name}.clone{self.clones}"
        world, kernel, network = self._world, self._kernel, self._network
        made = WorkerHost(world, kernel, network, self.name, self._master, place)
        made.disk = self.disk.copy()
        made.disk.is_copy = world.rng.random() < 0.5
        self.whole_clones += not made.disk.is_copy
        made.start()
        return made

    def retire(self) -> None:
        """The machine is taken away for good."""
        self._world.note(self.place, "is taken away")
        self.is_retired = True
        self.crash()
        if self.keeper is not None:
            self.keeper.crash()
            self.keeper = None
        self._end_all()

    def _end_all(self) -> None:
        for process in self._kernel.alive(self.place):
            process.on_end = None
            self._kernel.end(process, 9)

    def freeze(self) -> None:
        self.is_frozen = True

    def thaw(self) -> None:
        self.is_frozen = False
        life = self._life
        while self._inbox and life == self._life:
            self._inbox.popleft()()

    # ---- the master's line

    def linked(self, line: Line) -> None:
        def happens() -> None:
            self.line = line
            self._step(ev.Linked())

        self._when_awake(happens)

    def heard(self, line: Line, messages: tuple[wire.ToWorker, ...]) -> None:
        self._when_awake(lambda: self._step(ev.MasterSaid(messages)) if line is self.line else None)

    def unlinked(self, line: Line) -> None:
        def happens() -> None:
            if line is self.line:
                self.line = None
                self._step(ev.Unlinked())
                self._later(self._world.delay(0.01, 0.5), self._dial)

        self._when_awake(happens)

    def hang_up(self) -> None:
        """The daemon gives its connection up, as after a send that timed out."""
        line = self.line
        if line is not None:
            line.hang_up_caller()
            self.unlinked(line)

    def _dial(self) -> None:
        life = self._life
        if self.line is None:
            caller = _Caller(self, life)
            self._network.dial(self.place, caller, self._master, lambda: self._redial(life))

    def _redial(self, life: int) -> None:
        if life == self._life:
            self._later(self._world.delay(0.05, 0.8), self._dial)

    def is_alive(self, life: int) -> bool:
        return life == self._life and self.core is not None

    # ---- events and effects

    def _tick(self) -> None:
        if not self.is_frozen:
            self._step(ev.Tick())
        if self.core is not None:
            self._later(TICK_S, self._tick)

    def _feed(self, event: ev.WorkerEvent) -> None:
        self._when_awake(lambda: self._step(event))

    def _when_awake(self, action: Callable[[], None]) -> None:
        if self.is_frozen or self._inbox:
            self._inbox.append(action)
        elif self.core is not None:
            action()

    def _step(self, event: ev.WorkerEvent) -> None:
        core, life = self.core, self._life
        if core is None:
            return
        effects = core.step(self._world.now, event)
        core.check()
        if effects or not isinstance(event, ev.Tick):
            self._world.note(self.name, f"{_brief(event)} -> {'; '.join(map(_brief, effects))}")
        for effect in effects:
            if life != self._life:
                return
            self._perform(effect)
            if self._world.chance(CRASH_CHANCE):
                self.crash()

    def _perform(self, effect: ev.WorkerEffect) -> None:
        match effect:
            case ev.Tell():
                if self.line is not None:
                    self.line.up.send(effect.message)
            case ev.Instruct():
                self._instruct(effect.message)
            case ev.Spawn():
                self._spawn(effect)
            case ev.Fetch():
                self._later(self._world.delay(0.0, 1.5), lambda: self._fetched(effect.digest))
            case ev.RemoveArtifact():
                self._later(self._world.delay(0.0, 0.2), lambda: self._uninstall(effect.digest))
            case ev.RemoveFiles():
                self._later(self._world.delay(0.0, 0.1), lambda: self._remove(effect.keys))
            case ev.Adopt():
                self.disk.cluster, self.disk.is_copy = effect.cluster, effect.is_copy
                self.disk.epoch, self.disk.life = effect.epoch, effect.life
                self.disk.heard_seq = effect.heard_seq
            case ev.Leave():
                self.refusals += 1
                self.crash()
            case _:
                assert_never(effect)

    def _spawn(self, effect: ev.Spawn) -> None:
        self._world.require(
            effect.launch.digest in self.disk.installed, f"{effect.key} spawned without its files"
        )
        named = names_of(effect.launch.terms.secrets)
        given = tuple(secret.name for secret in effect.secrets)
        self._world.require(named == given, f"{effect.key} spawned with {given}, not {named}")
        values = [f"{secret.name} {secret.version}".encode() for secret in effect.secrets]
        is_whole = values == [secret.value for secret in effect.secrets]
        self._world.require(is_whole, f"{effect.key} got another secret: {values}")
        if not effect.is_verified and self._world.chance(UNVERIFIED_CHANCE):
            self._later(0.0, lambda: self._feed(ev.Unverified(effect.key)))
            return
        if self._world.chance(BLOCKED_CHANCE):
            blocked = ev.SpawnBlocked(effect.key, "log", ENOSPC, "no space left on device")
            self._later(0.0, lambda: self._feed(blocked))
            return
        self.disk.files[effect.key] = None
        self._instruct(
            kw.Spawn(
                key=effect.key,
                path="/program",
                argv=("/program", *effect.launch.args),
                env={},
                cwd="/",
                stdout="/out",
                stderr="/err",
                note=effect.launch.digest,
            )
        )

    def _fetched(self, digest: str) -> None:
        if self._world.chance(0.1):
            failed = wire.InstallFailed(digest=digest, message="the connection broke")
            self._feed(ev.Performed(failed))
            return
        files = 0 if digest in self.disk.installed else 1
        self.disk.installed[digest] = None
        installed = wire.Installed(
            digest=digest,
            bytes_sent=files * 10,
            bytes_total=10,
            files_sent=files,
            files_total=1,
            seconds=0.1,
        )
        self._feed(ev.Performed(installed))

    def _uninstall(self, digest: str) -> None:
        self.disk.installed.pop(digest, None)
        self._feed(ev.Performed(wire.Uninstalled(digest=digest)))

    def _remove(self, keys: tuple[str, ...]) -> None:
        for key in keys:
            self.disk.files.pop(key, None)
        self._feed(ev.Performed(wire.Removed(keys=keys)))

    # ---- the keeper's link

    def _open_keeper(self) -> None:
        """Find the keeper, or start one, which takes a while."""
        if self.keeper is not None and self.keeper.is_up:
            self._connect_keeper(self.keeper)
        else:
            self._later(self._world.delay(0.02, 0.4), self._start_keeper)

    def _start_keeper(self) -> None:
        journal = self.disk.journal
        journal.is_copy = self.disk.is_copy
        self.keeper = Keeper(self._world, self._kernel, self.place, journal, self.boot_id)
        self._connect_keeper(self.keeper)

    def _connect_keeper(self, keeper: Keeper) -> None:
        """Ask for all it knows."""
        life = self._life

        def said(message: kw.FromKeeper) -> None:
            if self.is_alive(life):
                self._feed(ev.KeeperSaid((message,)))

        def happens() -> None:
            self._step(ev.KeeperGone())
            self._later(self._world.delay(0.02, 0.5), self._open_keeper)

        def gone() -> None:
            if self.is_alive(life):
                self._when_awake(happens)

        self._keeper_link = keeper.connect(said, gone)
        keeper.send(self._keeper_link, kw.ListAll())

    def _instruct(self, message: kw.ToKeeper) -> None:
        if self.keeper is not None and self.keeper.is_up:
            self.keeper.send(self._keeper_link, message)

    def _later(self, delay_s: float, action: Callable[[], None]) -> None:
        """Unless this life ends before."""
        life = self._life
        self._world.after(delay_s, lambda: action() if life == self._life else None)

    def _state_id(self) -> str:
        return f"state-{self.name}-{self.wipes}"


class _Caller:
    """The end of one dial: it speaks only to the life that dialled."""

    def __init__(self, host: WorkerHost, life: int) -> None:
        self._host, self._life = host, life

    def linked(self, line: Line) -> None:
        if self._host.is_alive(self._life):
            self._host.linked(line)
        else:
            line.hang_up_caller()

    def heard(self, line: Line, messages: tuple[wire.ToWorker, ...]) -> None:
        if self._host.is_alive(self._life):
            self._host.heard(line, messages)

    def unlinked(self, line: Line) -> None:
        if self._host.is_alive(self._life):
            self._host.unlinked(line)


def _brief(thing: ev.WorkerEvent | ev.WorkerEffect) -> str:
    return repr(thing)
