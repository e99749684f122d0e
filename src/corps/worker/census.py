"""Census: which processes belong to which attempt, and what each tree of them has used.

One walk over /proc. A process belongs where its parent belongs, for ever. One that lost its parent
is known from before, by the control group of its attempt where that has one, or, if it is a child
of the keeper, which is its subreaper, by CORPS_ATTEMPT in its environment. What ended is never lost
from a sum: its CPU time went to the parent that waited for it, or is kept here. So sums are lower
bounds, count nothing twice, and do not decrease.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from corps.model.name import AttemptKey

STAT_BYTES = 4_096
ENVIRON_BYTES = 2 << 20
STEP = 16  # processes between two places where a walk may pause
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
MARKER = b"CORPS_ATTEMPT="
# Fields of proc_pid_stat(5), counted after the command's ")".
PPID, UTIME, STIME, CUTIME, CSTIME, THREADS, START, RSS = 1, 11, 12, 13, 14, 17, 19, 21


class Leader(NamedTuple):
    """The first process of an attempt: its pid and when it started, which no other has."""

    pid: int
    start: int


@dataclass
class Counters:
    """User and system CPU in ticks, bytes read and written."""

    user: int = 0
    system: int = 0
    read: int = 0
    written: int = 0

    def add(self, other: Counters) -> None:
        self.user += other.user
        self.system += other.system
        self.read += other.read
        self.written += other.written

    def raise_to(self, floor: Counters) -> None:
        self.user = max(self.user, floor.user)
        self.system = max(self.system, floor.system)
        self.read = max(self.read, floor.read)
        self.written = max(self.written, floor.written)


@dataclass
class Tree:
    """An attempt with all its living descendants now, and what those used that are gone."""

    used: Counters = field(default_factory=Counters)
    processes: int = 0
    threads: int = 0
    rss_bytes: int = 0
    fds: int | None = 0
    has_io: bool = True


@dataclass
class _Process:
    """`own` is its CPU time, `waited` that of the children it waited for; the kernel counts I/O of
    both in one, so that stands in `waited`. `before` is what `waited` was at the last walk."""

    pid: int
    start: int
    parent: int
    key: AttemptKey | None = None
    own: Counters = field(default_factory=Counters)
    waited: Counters = field(default_factory=Counters)
    before: Counters = field(default_factory=Counters)
    threads: int = 0
    rss_bytes: int = 0
    fds: int | None = 0
    has_io: bool = True
    is_undecided: bool = False  # below the keeper, and nobody's yet: look again

    def total(self) -> Counters:
        total = Counters()
        total.add(self.own)
        total.add(self.waited)
        return total


class Census:
    """Remembers every process of the machine from one walk to the next."""

    def __init__(self) -> None:
        self._known: dict[int, _Process] = {}
        self._leaders: Mapping[AttemptKey, Leader] = {}
        self._ended: dict[AttemptKey, Counters] = {}  # what had no heir in its tree
        self._groups: dict[str, AttemptKey] = {}  # paths in cgroup v2 that are one attempt's alone
        self._counts_fds = os.stat("/proc/self/fd").st_size > 0  # since Linux 6.2
        self._counts_io = os.path.exists("/proc/self/io")

    def walk(
        self,
        leaders: Mapping[AttemptKey, Leader],
        keeper_pid: int | None,
        trees: dict[AttemptKey, Tree],
    ) -> Iterator[None]:
        """Fill `trees`; may pause at each step. One walk at a time."""
        self._leaders = leaders
        heads = {leader: key for key, leader in leaders.items()}
        seen: dict[int, _Process] = {}
        for number, name in enumerate(os.listdir("/proc")):
            if name.isdigit() and (line := _read(f"/proc/{name}/stat")) is not None:
                process = self._look(int(name), line, heads)
                seen[process.pid] = process
            if number % STEP == 0:
                yield
        for process in list(seen.values()):
            if process.key is None and self._is_open(process):
                self._claim(process, seen, keeper_pid)
                yield
        self._settle(seen)
        self._known = seen
        self._ended = {key: used for key, used in self._ended.items() if key in leaders}
        self._groups = {path: key for path, key in self._groups.items() if key in leaders}
        trees.update((key, self._tree(key)) for key in leaders)
        for process in seen.values():
            if process.key is not None and process.key in trees:
                _count(process, trees[process.key])

    def keep(self, key: AttemptKey, tree: Tree, counted: Counters) -> None:
        """An earlier life of this worker had counted so much: go on from there."""
        used = tree.used
        missing = Counters(
            counted.user - used.user,
            counted.system - used.system,
            counted.read - used.read,
            counted.written - used.written,
        )
        missing.raise_to(Counters())
        self._ended.setdefault(key, Counters()).add(missing)
        used.add(missing)

    def _tree(self, key: AttemptKey) -> Tree:
        tree = Tree()
        if key in self._ended:
            tree.used.add(self._ended[key])
        return tree

    def _look(self, pid: int, line: bytes, heads: Mapping[Leader, AttemptKey]) -> _Process:
        fields = _fields(line)
        start, parent = int(fields[START]), int(fields[PPID])
        process = self._known.get(pid)
        if process is None or process.start != start:
            process = _Process(pid, start, parent)
        process.parent = parent
        if process.key is None and (key := heads.get(Leader(pid, start))) is not None:
            process.key = key
            group = _group(pid)
            if re.fullmatch(rf"{re.escape(key)}(\.[0-9]+)?", group.rpartition("/")[2]):
                self._groups[group] = key
        self._measure(process, fields)
        return process

    def _measure(self, process: _Process, fields: list[bytes]) -> None:
        if process.key not in self._leaders:
            return
        process.before = Counters()
        process.before.add(process.waited)
        process.own = Counters(int(fields[UTIME]), int(fields[STIME]))
        process.waited.raise_to(Counters(int(fields[CUTIME]), int(fields[CSTIME])))
        process.threads = int(fields[THREADS])
        process.rss_bytes = int(fields[RSS]) * PAGE_BYTES
        process.fds = self._fds(process.pid)
        process.has_io = self._counts_io and _add_io(process)

    def _is_open(self, process: _Process) -> bool:
        """Whether it is not known yet whose it is."""
        return process.is_undecided or self._known.get(process.pid) is not process

    def _claim(self, process: _Process, seen: dict[int, _Process], keeper_pid: int | None) -> None:
        """Find out whose a process is: whose its nearest known ancestor is."""
        line, key = [process], self._grouped(process.pid)
        while key is None and line[-1].parent != keeper_pid and len(line) <= len(seen):
            above = seen.get(line[-1].parent)
            if above is None or above.key is not None or not self._is_open(above):
                break
            line.append(above)
        above = seen.get(line[-1].parent)
        is_below = line[-1].parent == keeper_pid
        if key is None and above is not None and not is_below:
            key = above.key
        if key is None and is_below:
            key = _marked(line[-1].pid)
        for member in line:
            member.key, member.is_undecided = key, is_below and key is None
            if key is not None and (text := _read(f"/proc/{member.pid}/stat")) is not None:
                self._measure(member, _fields(text))

    def _grouped(self, pid: int) -> AttemptKey | None:
        """Whose the group is that it is in, or a group below."""
        path = _group(pid) if self._groups else ""
        while path and path not in self._groups:
            path = path.rpartition("/")[0]
        return self._groups.get(path)

    def _settle(self, seen: dict[int, _Process]) -> None:
        """What a member had used that is gone now must stand in what its parent has waited for. So
        much is the least we count there, whatever the kernel says and whenever we looked."""
        gone = {
            pid: process
            for pid, process in self._known.items()
            if process.key is not None and seen.get(pid) is not process
        }
        owed: dict[int, Counters] = {}
        for process in gone.values():
            heir = self._heir(process, gone)
            if heir is not None and heir.key == process.key:
                owed.setdefault(heir.pid, Counters()).add(process.total())
            else:
                assert process.key is not None
                self._ended.setdefault(process.key, Counters()).add(process.total())
        for pid, used in owed.items():
            used.add(seen[pid].before)
            seen[pid].waited.raise_to(used)

    def _heir(self, process: _Process, gone: Mapping[int, _Process]) -> _Process | None:
        """The nearest ancestor that is still there."""
        heir: _Process | None = process
        for _ in gone:
            heir = None if heir is None else self._known.get(heir.parent)
            if heir is None or heir.pid not in gone:
                return heir
        return None

    def _fds(self, pid: int) -> int | None:
        try:
            if self._counts_fds:
                return os.stat(f"/proc/{pid}/fd").st_size
            return len(os.listdir(f"/proc/{pid}/fd"))
        except PermissionError:
            return None
        except OSError:
            return 0  # it ended just now


def leader(pid: int, line: bytes) -> Leader:
    """From what /proc/PID/stat says."""
    return Leader(pid, int(_fields(line)[START]))


def _count(process: _Process, tree: Tree) -> None:
    tree.used.add(process.own)
    tree.used.add(process.waited)
    tree.processes += 1
    tree.threads += process.threads
    tree.rss_bytes += process.rss_bytes
    tree.fds = None if tree.fds is None or process.fds is None else tree.fds + process.fds
    tree.has_io &= process.has_io


def _fields(line: bytes) -> list[bytes]:
    """Of proc_pid_stat(5) after the command, which may hold spaces and brackets."""
    return line[line.rindex(b")") + 2 :].split(None, RSS + 1)


def _add_io(process: _Process) -> bool:
    """rchar and wchar of proc_pid_io(5). False when it may not be read."""
    try:
        text = _read(f"/proc/{process.pid}/io")
    except PermissionError:
        return False
    if text is not None:
        words = text.split(None, 4)
        process.waited.raise_to(Counters(0, 0, int(words[1]), int(words[3])))
    return True


def _group(pid: int) -> str:
    """Its path in the hierarchy of cgroup v2, cgroups(7); empty when it has none."""
    for line in (_read(f"/proc/{pid}/cgroup") or b"").splitlines():
        if line.startswith(b"0::/"):
            return os.fsdecode(line[3:])
    return ""


def _marked(pid: int) -> AttemptKey | None:
    """CORPS_ATTEMPT of the environment it was executed with; None when that may not be read."""
    try:
        text = _read(f"/proc/{pid}/environ", ENVIRON_BYTES)
    except PermissionError:
        return None
    for word in (text or b"").split(b"\0"):
        if word.startswith(MARKER):
            return word[len(MARKER) :].decode(errors="replace")
    return None


def _read(path: str, limit_bytes: int = STAT_BYTES) -> bytes | None:
    """None when the process has ended. Raise PermissionError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):
        return None
    try:
        return os.read(fd, limit_bytes) or None
    except ProcessLookupError:
        return None
    finally:
        os.close(fd)
