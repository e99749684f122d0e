"""Fake keepers: the contract of wire/keeper, a journal that outlives them, a crash at every step.

fork -> journal -> gate -> mark (the child's one-shot right to exec) -> exec -> exit -> reap
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum, auto

from corps.wire import keeper as wire
from corps.wire.worker import Totals
from tests.simulation.kernel import Kernel, Process
from tests.simulation.world import World

CRASH_CHANCE = 0.004  # at each step, while things go wrong
LISTING_PART = 3
ECANCELED = 125
ESRCH = 3


class Right(Enum):
    """The right to exec, used at most once."""

    UNUSED = auto()
    USED = auto()
    FAILED = auto()
    REVOKED = auto()


@dataclass
class Entry:
    """One attempt in the journal. `process` stands for its pidfd, which a keeper finds again."""

    key: str
    note: str
    forked_at: float
    process: Process
    written_at: float
    right: Right = Right.UNUSED
    executed: bool = False
    is_live: bool = True
    status: int | None = None
    failed_stage: str | None = None
    failed_errno: int | None = None
    lost: str | None = None
    ended_at: float | None = None
    signals: list[wire.KeptSignal] = field(default_factory=list)
    sending: wire.KeptSignal | None = None
    is_elsewhere: bool = False
    waiting: list[int] = field(default_factory=list)  # signals for when it has executed


@dataclass
class Journal:
    """What the disk has of a keeper."""

    boot_id: str
    entries: dict[str, Entry] = field(default_factory=dict)
    forgotten: deque[tuple[float, Entry]] = field(default_factory=lambda: deque(maxlen=20))
    is_copy: bool = False  # then its marks are older than it

    def copy(self) -> Journal:
        entries = {
            key: replace(entry, signals=list(entry.signals), waiting=[])
            for key, entry in self.entries.items()
        }
        return Journal(self.boot_id, entries)

    def lose_since(self, at: float) -> None:
        """A power loss: what was written after `at` is not there, not even the forgetting."""
        for key in [key for key, entry in self.entries.items() if entry.written_at > at]:
            del self.entries[key]
        for when, entry in self.forgotten:
            if when > at >= entry.written_at:
                self.entries[entry.key] = entry
        self.forgotten.clear()


class Keeper:
    """One life of a keeper. `on_message` and `on_gone` belong to the worker connected now."""

    def __init__(
        self, world: World, kernel: Kernel, name: str, journal: Journal, boot_id: str
    ) -> None:
        self._world, self._kernel, self._name = world, kernel, name
        self._journal = journal
        self.is_up = True
        # Linux 6.15 and newer tell the exit status of a process that is nobody's child any more.
        self._knows_strangers = world.rng.random() < 0.5
        self._link = 0
        self._on_message: Callable[[wire.FromKeeper], None] | None = None
        self._on_gone: Callable[[], None] | None = None
        self._take_over(boot_id)

    def connect(
        self, on_message: Callable[[wire.FromKeeper], None], on_gone: Callable[[], None]
    ) -> int:
        """The newest connection counts; what was not read of the old one is dropped."""
        self._link += 1
        self._on_message, self._on_gone = on_message, on_gone
        return self._link

    def hang_up(self, link: int) -> None:
        if link == self._link:
            self._on_message = self._on_gone = None
            self._link += 1

    def send(self, link: int, message: wire.ToKeeper) -> None:
        """A local socket: fast, in order, and lost with either end."""
        self._world.after(self._hop_s(), lambda: self._receive(link, message))

    def crash(self) -> None:
        if not self.is_up:
            return
        self.is_up = False
        self._world.note(self._name, "keeper crashes")
        for entry in self._journal.entries.values():
            if not entry.is_live:
                continue
            entry.process.on_end = None
            if entry.right is Right.UNUSED:
                self._kernel.end(entry.process, 126 << 8)  # its gate closes: it never executes
        if self._on_gone is not None:
            self._world.after(self._hop_s(), self._on_gone)

    # ---- beginning

    def _take_over(self, boot_id: str) -> None:
        is_same_boot = self._journal.boot_id == boot_id
        self._journal.boot_id = boot_id
        for entry in list(self._journal.entries.values()):
            if not entry.is_live:
                continue
            if not is_same_boot:  # a clone's processes are another machine's
                entry.is_live, entry.lost, entry.executed = False, "machine rebooted", True
                if self._journal.is_copy:
                    entry.lost, entry.is_elsewhere = "its journal is a copy", True
                entry.ended_at = entry.written_at = self._world.now
            elif entry.process.executed and entry.process.is_alive:
                entry.executed, entry.right = True, Right.USED  # its environment says so
                entry.process.on_end = lambda entry=entry: self._lose(entry)
            elif entry.right is Right.USED or self._journal.is_copy:
                self._kernel.end(entry.process, 9)
                self._bury(entry, lost="ended while no keeper was there", executed=True)
            else:
                stage = "execve" if entry.right is Right.FAILED else "never_executed"
                entry.right = Right.REVOKED
                self._kernel.end(entry.process, 9)
                self._bury(entry, failed_stage=stage, failed_errno=ECANCELED)

    # ---- the worker's word

    def _receive(self, link: int, message: wire.ToKeeper) -> None:
        if not self.is_up or link != self._link:
            return
        match message:
            case wire.Spawn():
                self._spawn(message)
            case wire.SendSignal():
                self._signal(message)
            case wire.Forget():
                for key in message.keys:
                    entry = self._journal.entries.get(key)
                    if entry is not None and not entry.is_live:
                        del self._journal.entries[key]
                        self._journal.forgotten.append((self._world.now, entry))
            case wire.ListAll():
                self._list()
            case wire.Quit():
                raise AssertionError("nobody shuts a worker down here")

    def _list(self) -> None:
        told = [_told(entry) for entry in self._journal.entries.values()]
        parts = [told[at : at + LISTING_PART] for at in range(0, len(told), LISTING_PART)] or [[]]
        for number, part in enumerate(parts, 1):
            self._tell(
                wire.Listing(
                    gives_secrets=True,
                    attempts=tuple(part),
                    totals=Totals(),
                    keeper_pid=1,
                    is_last=number == len(parts),
                )
            )

    def _spawn(self, message: wire.Spawn) -> None:
        known = self._journal.entries.get(message.key)
        if known is not None:
            self._tell_of(known)
            return
        if self._world.chance(0.01):
            self._tell(wire.Refused(key=message.key, reason="the journal cannot grow"))
            return
        process = self._kernel.fork(self._name, message.key, message.argv)
        if self._crashes_now("fork"):
            self._kernel.end(process, 126 << 8)
            return
        entry = Entry(
            key=message.key,
            note=message.note,
            forked_at=self._world.now,
            process=process,
            written_at=self._world.now,
        )
        self._journal.entries[message.key] = entry
        process.on_end = lambda: self._reap(entry)
        if not self._crashes_now("journal"):
            self._world.after(self._hop_s(), lambda: self._open_gate(entry))

    def _open_gate(self, entry: Entry) -> None:
        if not self.is_up or not entry.process.is_alive:
            return
        self._world.after(self._hop_s(), lambda: self._mark(entry))
        self._crashes_now("gate")

    # ---- the child goes on alone

    def _mark(self, entry: Entry) -> None:
        if entry.process.is_alive and entry.right is Right.UNUSED:
            entry.right = Right.USED
            self._world.after(self._hop_s(), lambda: self._execute(entry))
            self._crashes_now("mark")

    def _execute(self, entry: Entry) -> None:
        if not entry.process.is_alive:
            return
        errno = self._kernel.execute(entry.process)
        if errno:
            entry.right = Right.FAILED
            entry.failed_errno = errno
            self._kernel.end(entry.process, 127 << 8)
        else:
            self._world.note(self._name, f"executes {entry.key} as {entry.process.pid}")
            self._world.after(self._hop_s(), lambda: self._executed(entry))
        self._crashes_now("exec")

    def _executed(self, entry: Entry) -> None:
        if not self.is_up or not entry.is_live or entry.executed:
            return
        entry.executed = True
        self._tell_of(entry)
        for number in entry.waiting:
            self._deliver(entry, number)
        entry.waiting = []

    # ---- signals and ends

    def _signal(self, message: wire.SendSignal) -> None:
        entry = self._journal.entries.get(message.key)
        if entry is None or not entry.is_live:
            self._tell(wire.Signaled(key=message.key, signal=message.signal, errno=ESRCH))
        elif not entry.executed:
            entry.waiting.append(message.signal)
        else:
            self._deliver(entry, message.signal)

    def _deliver(self, entry: Entry, number: int) -> None:
        self._world.require(entry.process.key == entry.key, "a signal goes astray")
        if self._crashes_now("signal"):
            return
        entry.sending = wire.KeptSignal(signal=number, at=self._world.now)
        if self._crashes_now("sending"):
            return
        errno = self._kernel.send(entry.process, number)
        if self._crashes_now("sent"):
            return
        if errno == 0:
            entry.signals.append(entry.sending)
        entry.sending = None
        self._tell(wire.Signaled(key=entry.key, signal=number, errno=errno))

    def _reap(self, entry: Entry) -> None:
        """SIGCHLD: the status is journaled, then told."""
        self._world.after(self._hop_s(), lambda: self._ended(entry))

    def _ended(self, entry: Entry) -> None:
        if not self.is_up or not entry.is_live or self._crashes_now("exit"):
            return
        if entry.right is Right.FAILED:
            self._bury(entry, failed_stage="execve", failed_errno=entry.failed_errno)
        elif entry.right is Right.USED:
            self._bury(entry, status=entry.process.status, executed=True)
        else:
            self._bury(entry, failed_stage="killed_before_exec", failed_errno=ECANCELED)
        if not self._crashes_now("reap"):
            self._tell_of(entry)

    def _lose(self, entry: Entry) -> None:
        """The end of a process that an earlier keeper had forked."""
        if not self.is_up or not entry.is_live:
            return
        if self._knows_strangers:
            self._bury(entry, status=entry.process.status, executed=True)
        else:
            self._bury(entry, lost="its keeper was lost", executed=True)
        self._tell_of(entry)

    def _bury(self, entry: Entry, **facts: object) -> None:
        for name, value in facts.items():
            setattr(entry, name, value)
        entry.is_live = False
        entry.ended_at = entry.written_at = self._world.now
        entry.process.on_end = None

    def _tell_of(self, entry: Entry) -> None:
        if not entry.is_live:
            self._tell(wire.Ended(attempt=_told(entry)))
        elif entry.executed:
            self._tell(
                wire.Spawned(
                    key=entry.key,
                    pid=entry.process.pid,
                    forked_at=entry.forked_at,
                    executed_at=self._world.now,
                )
            )

    def _tell(self, message: wire.FromKeeper) -> None:
        on_message = self._on_message
        if on_message is not None:
            link = self._link
            self._world.after(
                self._hop_s(), lambda: on_message(message) if link == self._link else None
            )

    def _hop_s(self) -> float:
        # No chance here: what is said first arrives first.
        return 0.0005

    def _crashes_now(self, step: str) -> bool:
        if self.is_up and self._world.chance(CRASH_CHANCE):
            self._world.note(self._name, f"at {step}:")
            self.crash()
        return not self.is_up


def _told(entry: Entry) -> wire.KeptAttempt:
    return wire.KeptAttempt(
        key=entry.key,
        pid=0 if entry.is_elsewhere else entry.process.pid,
        note=entry.note,
        forked_at=entry.forked_at,
        is_live=entry.is_live,
        executed=entry.executed,
        status=entry.status,
        failed_stage=entry.failed_stage,
        failed_errno=entry.failed_errno,
        lost=entry.lost,
        ended_at=entry.ended_at,
        signals=tuple(entry.signals),
        sending=entry.sending,
    )
