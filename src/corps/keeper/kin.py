"""Whose process is that? Where no group tells: the environment, the session and the parents do.

The keeper is the subreaper: what outlives its parent becomes the keeper's child, and the pid of
a child that nobody else can reap means this process and no other. A process with another
environment and another session than its instance's is known only by a parent seen in time.
"""

from __future__ import annotations

import contextlib
import os
import signal

from corps.keeper.process import Child, Fd, ended

VARIABLE = "CORPS_TREE"
HELD_MAX = 4_000  # processes at a time that are held by a pidfd
NOT_KNOWN = ""
STATES = {b"D": "in disk sleep", b"T": "stopped", b"t": "stopped"}

Facts = tuple[int, int, int, bytes]  # of a process: parent, session, start in ticks, state


class Kin:
    """`leaders`: the keeper's own children by pid, dead ones too until they are reaped."""

    def __init__(self, mark: str, leaders: dict[int, Child]) -> None:
        self.mark = mark  # of this keeper: attempts of other workers may have the same key
        self._leaders = leaders
        self._orphans: dict[int, str] = {}  # children that are no leaders, and whose they are
        self._seen: dict[tuple[int, int], str] = {}  # by pid and start: descendants of known ones
        self._list: Fd | None = None
        with contextlib.suppress(FileNotFoundError):
            path = f"/proc/{os.getpid()}/task/{os.getpid()}/children"
            self._list = Fd(os.open(path, os.O_RDONLY | os.O_CLOEXEC))

    def variable(self, key: str) -> tuple[bytes, bytes]:
        return VARIABLE.encode(), f"{self.mark}/{key}".encode()

    def is_childless(self) -> bool:
        """The keeper has no children but leaders."""
        return not self._orphans and self._listed().count(b" ") == len(self._leaders)

    def orphans(self, key: str) -> list[int]:
        """Children of the keeper that outlived their parents and are of this attempt."""
        listed = self._listed()
        # All that we lead and have not reaped are children, so numbers alone tell of a new one.
        if listed.count(b" ") != len(self._leaders) + len(self._orphans):
            for pid in set(map(int, listed.split())).difference(self._leaders, self._orphans):
                self._orphans[pid] = self._whose(pid)
        return [pid for pid, whose in self._orphans.items() if whose == key]

    def strays(self) -> list[int]:
        """Orphans of which nobody can say whose they are."""
        return [pid for pid, key in self._orphans.items() if key == NOT_KNOWN]

    def reaped(self, pid: int) -> str | None:
        """An orphan is gone: whose was it?"""
        return self._orphans.pop(pid, None)

    def find(self, keys: dict[str, bool]) -> dict[str, set[int]]:
        """The living processes of these attempts; of those that are True, whose keeper died, all
        of the machine are asked."""
        table = _table()
        found: dict[str, set[int]] = {key: set(self.orphans(key)) for key in keys}
        for pid, leader in self._leaders.items():
            if leader.key in found:  # it does not die, but its children may
                found[leader.key].add(pid)
        if any(keys.values()):
            for pid in table.keys() - self._leaders.keys() - self._orphans.keys():
                key = self._marked(pid)
                if keys.get(key):
                    found[key].add(pid)
        below: dict[int, list[int]] = {}
        for pid, facts in table.items():
            below.setdefault(facts[0], []).append(pid)
        for key, pids in found.items():
            left = list(pids)
            while left:
                more = [pid for pid in below.get(left.pop(), ()) if pid not in pids]
                pids.update(more)
                left += more
            pids &= {pid for pid in pids if pid in table and table[pid][3] not in b"ZX"}
            self._seen |= {(pid, table[pid][2]): key for pid in pids}
        return found

    def hold(self, keys: dict[str, bool]) -> dict[str, dict[int, Fd]]:
        """The same, each by a pidfd. Asked again with the pidfds open: a pid that was given to
        somebody else meanwhile is not taken for the process it was."""
        pids = [pid for pids in self.find(keys).values() for pid in pids]
        held = opened(pids)
        again = self.find(keys)
        return {
            key: {pid: held[pid] for pid in pids if pid in held and not ended(held[pid])}
            for key, pids in again.items()
        }

    def forget(self, key: str) -> None:
        self._seen = {one: whose for one, whose in self._seen.items() if whose != key}

    def _listed(self) -> bytes:
        """`PID PID `: our children, the dead ones too. Everybody is asked where the kernel has no
        list of them, proc_pid_task_children(5)."""
        if not self._list:
            table, me = _table(), os.getpid()
            return b"".join(b"%d " % pid for pid, facts in table.items() if facts[0] == me)
        data = part = os.pread(self._list.number, 4_096, 0)
        while part:
            part = os.pread(self._list.number, 65_536, len(data))
            data += part
        return data

    def _whose(self, pid: int) -> str:
        """Of a child: nobody else has its pid before we have reaped it."""
        facts, key = stat(pid), self._marked(pid)
        if key or not facts:
            return key
        if leader := self._leaders.get(facts[1]):
            return leader.key
        return self._seen.get((pid, facts[2]), NOT_KNOWN)

    def _marked(self, pid: int) -> str:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/environ", "rb") as file:
            data = b"\0" + file.read()
            _, found, rest = data.partition(f"\0{VARIABLE}={self.mark}/".encode())
            return rest.partition(b"\0")[0].decode(errors="replace") if found else NOT_KNOWN
        return NOT_KNOWN


def opened(pids: list[int]) -> dict[int, Fd]:
    """A pidfd for each that still is."""
    held = {}
    for pid in pids[:HELD_MAX]:
        with contextlib.suppress(OSError):
            held[pid] = Fd(os.pidfd_open(pid))
    return held


def send(held: dict[int, Fd], *numbers: int) -> None:
    for number in numbers:
        for pidfd in held.values():
            with contextlib.suppress(OSError):  # it has ended, or another user's
                signal.pidfd_send_signal(pidfd.number, number)


def named(pid: int) -> str:
    """Command and, when it says why it does not end, state: `dd (in disk sleep)`."""
    facts = stat(pid)
    try:
        with open(f"/proc/{pid}/comm", "rb") as file:
            name = file.read().decode(errors="backslashreplace").rstrip("\n")
    except OSError:
        name = "?"
    return name + (f" ({STATES[facts[3]]})" if facts and facts[3] in STATES else "")


def stat(pid: int) -> Facts | None:
    """proc_pid_stat(5); the command in it may hold spaces and brackets."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            words = file.read(4_096).rpartition(b")")[2].split()
    except OSError:
        return None
    return (int(words[1]), int(words[3]), int(words[19]), words[0]) if len(words) > 19 else None


def _table() -> dict[int, Facts]:
    table = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (facts := stat(int(name))):
            table[int(name)] = facts
    return table
