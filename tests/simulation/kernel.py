"""Fake kernels: processes that really ran, how they really ended. The truth that all is held to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from signal import SIGCHLD, SIGCONT, SIGINT, SIGKILL, SIGSTOP, SIGTERM, SIGTSTP, SIGURG, SIGWINCH

from tests.simulation.world import World

ENOENT = 2
ENOEXEC = 8
ESRCH = 3
CORE = 0x80
SIGSEGV = 11
HARMLESS = frozenset({SIGCHLD, SIGCONT, SIGSTOP, SIGTSTP, SIGURG, SIGWINCH})
PIDS = 60  # few, so that they are used again soon


@dataclass
class Process:
    """One fork. `status` is what waitpid(2) would give, once it is dead."""

    key: str
    host: str
    pid: int
    argv: tuple[str, ...]
    executed: bool = False
    status: int | None = None
    signals: list[int] = field(default_factory=list)
    on_end: Callable[[], None] | None = None  # a keeper that would notice

    @property
    def is_alive(self) -> bool:
        return self.status is None


class Kernel:
    """All machines' processes, and how often each attempt's program was really executed."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.executions: dict[str, int] = {}
        self.processes: dict[str, list[Process]] = {}
        self.on_execute: Callable[[Process], None] = lambda process: None
        self.on_signal: Callable[[Process, int], None] = lambda process, number: None
        self._next_pid: dict[str, int] = {}

    def fork(self, host: str, key: str, argv: tuple[str, ...]) -> Process:
        process = Process(key=key, host=host, pid=self._free_pid(host), argv=argv)
        self.processes.setdefault(key, []).append(process)
        return process

    def execute(self, process: Process) -> int:
        """Exec the program: errno, or 0 and it runs."""
        if process.argv[1] == "missing":
            return ENOENT
        if process.argv[1] == "damaged":
            return ENOEXEC
        self._world.require(process.is_alive, f"{process.key} executed after its death")
        count = self.executions[process.key] = self.executions.get(process.key, 0) + 1
        self._world.require(count == 1, f"the program of {process.key} was executed twice")
        process.executed = True
        self.on_execute(process)
        kind, after_s, code = process.argv[1], float(process.argv[2]), int(process.argv[3])
        if kind == "exits":
            self._world.after(after_s, lambda: self.end(process, code << 8))
        elif kind == "crashes":
            self._world.after(after_s, lambda: self.end(process, SIGSEGV | CORE))
        elif kind == "suicide":
            self._world.after(after_s, lambda: self.end(process, int(SIGKILL)))
        return 0

    def send(self, process: Process, number: int) -> int:
        """By pidfd: to this process or to nobody."""
        if not process.is_alive:
            return ESRCH
        process.signals.append(number)
        self.on_signal(process, number)
        kind = process.argv[1]
        if number in HARMLESS:
            return 0
        if number == SIGKILL or not process.executed:
            self.end(process, number)
        elif kind == "polite" and number in (SIGINT, SIGTERM):
            delay_s = float(process.argv[2])
            self._world.after(delay_s, lambda: self.end(process, int(process.argv[3]) << 8))
        elif kind != "stubborn":
            self.end(process, number)
        return 0

    def end(self, process: Process, status: int) -> None:
        if not process.is_alive:
            return
        process.status = status
        self._world.note(process.host, f"process {process.key} ends with status {status:#x}")
        if process.on_end is not None:
            process.on_end()

    def alive(self, host: str | None = None) -> list[Process]:
        return [
            process
            for forks in self.processes.values()
            for process in forks
            if process.is_alive and host in (None, process.host)
        ]

    def of(self, key: str) -> Process | None:
        """The fork that executed, or the last one."""
        forks = self.processes.get(key, [])
        return next(
            (process for process in forks if process.executed), forks[-1] if forks else None
        )

    def _free_pid(self, host: str) -> int:
        used = {process.pid for process in self.alive(host)}
        pid = self._next_pid.get(host, 100)
        while pid in used:
            pid = 100 + (pid - 99) % (PIDS + len(used))
        self._next_pid[host] = 100 + (pid - 99) % (PIDS + len(used))
        return pid
