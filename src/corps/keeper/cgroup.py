"""Groups: where the processes of an attempt are found, and what holds them to their limits.

Each attempt has a fresh group of cgroup v2 below the keeper's own; its limits are held there, or
by groups in the hierarchies of v1. All places are found in /proc, none is assumed.
"""

from __future__ import annotations

import binascii
import contextlib
import os
from errno import EINVAL

from corps.keeper.limits import Json
from corps.keeper.process import fork

LIMITS = {"memory_bytes": "memory", "cpus": "cpu", "pids": "pids"}  # and their controllers
NAMES = {"memory_bytes": "memory", "cpus": "cpus", "pids": "pids"}  # as operators spell them
PERIOD_US = 100_000
LIMITED = "-limited"  # beside the base: groups with controllers cost more to make
OPTIONAL = ("memory.swap.max", "memory.memsw.limit_in_bytes")  # not on every kernel
NAMES_MAX = 100  # groups of one name, left behind by keepers that were killed
EVENTS = {  # file, and the field that counts how often the limit was met
    "memory": (("memory.events", "max"), ("memory.failcnt", "")),
    "pids": (("pids.events", "max"),),
}
OOM = (("memory.events", "oom_kill"), ("memory.oom_control", "oom_kill"))


def name_of(directory: str) -> str:
    """What the groups of the keeper of this directory are below."""
    where = f"{directory} {os.stat(directory).st_ino}"
    return f"corps-{binascii.crc32(os.fsencode(where)):08x}"


def homes(mountinfo: str, own: str) -> dict[str, str]:
    """Our own directory in each hierarchy: by controller of v1, and `""` for v2."""
    ours: dict[str, str] = {}
    for line in own.splitlines():
        _, names, path = line.split(":", 2)
        ours |= dict.fromkeys(names.split(","), path)
    found: dict[str, str] = {}
    for line in mountinfo.splitlines():
        head, _, tail = line.partition(" - ")
        root, point = (_unescaped(word) for word in head.split()[3:5])
        kind, _, options = (tail.split() + [""] * 3)[:3]
        controllers = options.split(",") if kind == "cgroup" else []
        for name in [""] if kind == "cgroup2" else controllers:
            path = ours.get(name, "")
            if path == root or path.startswith(root.rstrip("/") + "/"):
                found.setdefault(name, (point + path[len(root.rstrip("/")) :]).rstrip("/"))
    return found


def settings(version: int, limit: str, value: float) -> list[tuple[str, str]]:
    """The files that hold a limit, in the order to write them, and what to write."""
    text = str(int(value))
    quota_us = str(max(1_000, int(value * PERIOD_US)))
    match limit, version:
        case "memory_bytes", 2:
            return [("memory.max", text), ("memory.swap.max", "0")]
        case "memory_bytes", _:
            return [("memory.limit_in_bytes", text), ("memory.memsw.limit_in_bytes", text)]
        case "cpus", 2:
            return [("cpu.max", f"{quota_us} {PERIOD_US}")]
        case "cpus", _:
            return [("cpu.cfs_period_us", str(PERIOD_US)), ("cpu.cfs_quota_us", quota_us)]
        case _:
            return [("pids.max", text)]


class Made:
    """The fresh groups of an attempt: where it is born, where it goes before its gate; or errno."""

    birthplace, errno = "", 0

    def __init__(self, to_join: list[str], terms: Json) -> None:
        self.to_join, self.terms = to_join, terms


class Groups:
    """`base` has a group for each attempt; empty when none can be had. `can_clone`: a child can be
    born in it; else it moves there itself, before its gate."""

    base, can_clone = "", False

    def __init__(self, places: dict[str, str], has_trees: bool, has_limits: bool) -> None:
        self.name = name_of(os.getcwd())
        self._places, self._has_limits = places, has_limits
        self._limited: dict[str, tuple[int, str]] = {}  # of a controller: version, directory
        if "" in places and has_trees:
            with contextlib.suppress(OSError):
                base = _made(f"{places['']}/{self.name}")
                self.can_clone = _try(base, is_cloned=True)
                self.base = base if self.can_clone or _try(base, is_cloned=False) else ""

    def clean(self, is_over: bool = False) -> None:
        """Remove what nobody is in: groups of keepers that were killed, at the end our own too."""
        homes = list(self._places.values())
        homes += [os.path.dirname(self._places[""])] if self._places.get("") else []
        for base in (f"{home}/{self.name}{tail}" for home in homes for tail in ("", LIMITED)):
            for path in (*_below(base), base):
                if is_over or path != base:
                    remove([path])

    def lacks(self, message: Json) -> str | None:
        """Why a launch cannot be held to its limits here."""
        for limit, controller in LIMITS.items():
            name = NAMES[limit]
            if message.get(limit) is None or self._find(controller)[0]:
                continue
            if name not in message["watched"]:
                ways = "have a cgroup with this controller delegated to the worker"
                if name in ("memory", "pids"):
                    ways += ", or launch with --watchdog"
                return f"no cgroup here can limit {name}: {ways}"
        return None

    def make(self, key: str, message: Json) -> Made:
        """Fresh groups for an attempt, and its terms for the journal."""
        tree, more, watched = self.base, {}, {}
        enforced = dict.fromkeys(message["rlimits"], "rlimit")
        for limit, controller in LIMITS.items():
            if message[limit] is None:
                continue
            found = self._find(controller)
            if not found[0]:
                enforced[NAMES[limit]], watched[NAMES[limit]] = "watchdog", message[limit]
                continue
            enforced[NAMES[limit]] = f"cgroup v{found[0]}"
            more[limit] = found
            if found[0] == 2:
                tree = found[1]
        made, paths = Made([], {}), []
        try:
            paths += [_fresh(tree, key)] if tree else []
            for limit, (version, base) in more.items():
                if version == 1:
                    paths.append(_fresh(base, key))
                path = paths[0] if version == 2 else paths[-1]
                for name, text in settings(version, limit, message[limit]):
                    if name not in OPTIONAL or os.path.exists(f"{path}/{name}"):
                        write(f"{path}/{name}", text)
        except OSError as error:
            remove(paths)
            made.errno = error.errno or EINVAL
            return made
        made.terms = {"tree": "cgroup" if tree else "marker", "enforced": enforced}
        made.terms |= {"groups": paths} if paths else {}
        made.terms |= {"watched": watched} if watched else {}
        made.terms |= {"keeps_children": True} if message["keeps_children"] else {}
        is_born_there = bool(tree) and self.can_clone
        made.birthplace = paths[0] if is_born_there else ""
        made.to_join = paths[1:] if is_born_there else paths
        return made

    def owner(self, pid: int) -> str | None:
        """The name of the group, mostly the key, of a dead process that is not reaped yet."""
        with contextlib.suppress(OSError):
            for line in _read(f"/proc/{pid}/cgroup").splitlines():
                _, is_ours, rest = line.partition(f"/{self.name}")
                if is_ours and line.startswith("0::"):
                    return rest.removesuffix(" (deleted)").split("/")[1]
        return None

    def _find(self, controller: str) -> tuple[int, str]:
        """Where it can hold limits, 0 for nowhere: found at the first launch that asks for it."""
        if controller not in self._limited:
            self._limited[controller] = self._look_for(controller)
        return self._limited[controller]

    def _look_for(self, controller: str) -> tuple[int, str]:
        if not self._has_limits:
            return 0, ""
        own = self._places.get("")
        above = os.path.dirname(own) if own else ""
        for place in (own, above if _is_delegated(above) else None) if self.base else ():
            with contextlib.suppress(OSError):
                if place and controller in _read(f"{place}/cgroup.controllers").split():
                    write(f"{place}/cgroup.subtree_control", f"+{controller}")
                    base = _made(f"{place}/{self.name}{LIMITED}")
                    write(f"{base}/cgroup.subtree_control", f"+{controller}")
                    return 2, base
        with contextlib.suppress(OSError):
            if controller in self._places:
                return 1, _made(f"{self._places[controller]}/{self.name}")
        return 0, ""


def members(path: str) -> list[int]:
    """The processes in a group and in those that its app has made below."""
    found = []
    for directory in (path, *_below(path)):
        with contextlib.suppress(OSError):  # gone, or a group of threads
            found += [int(pid) for pid in _read(f"{directory}/cgroup.procs").split()]
    return found


def kill(path: str) -> bool:
    """SIGKILL to all in a group, forks under way too. False before Linux 5.14: then they are only
    frozen, and to be killed one by one."""
    with contextlib.suppress(OSError):
        write(f"{path}/cgroup.kill", "1")
        return True
    with contextlib.suppress(OSError):  # what is frozen forks no more, and dies of SIGKILL
        write(f"{path}/cgroup.freeze", "1")
    return False


def remove(paths: list[str]) -> bool:
    """True when these groups are gone: then nobody is in them. Fails at the first that is not."""
    try:
        for path in paths:
            try:
                os.rmdir(path)
            except FileNotFoundError:
                continue
            except OSError:
                for inner in _below(path):
                    os.rmdir(inner)
                os.rmdir(path)
    except OSError:
        return False
    return True


def evidence(paths: list[str]) -> Json:
    """How often its limits were met, and how many the OOM killer took, as the kernel counts."""
    found: Json = {}
    for path in paths:
        for name, field in OOM:
            if (count := _count(f"{path}/{name}", field)) is not None:
                found["oom_kills"] = count
        for limit, files in EVENTS.items():
            for name, field in files:
                if count := _count(f"{path}/{name}", field):
                    found.setdefault("limit_hits", {})[limit] = count
    return found


def write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _fresh(base: str, key: str) -> str:
    """A group that never was: one on which cgroup.kill was written kills what is born in it."""
    name = key.replace("/", "_")
    for number in range(NAMES_MAX):
        with contextlib.suppress(FileExistsError):
            path = f"{base}/{name}" + (f".{number}" if number else "")
            os.mkdir(path)
            return path
    raise FileExistsError(f"{base}/{name}")


def _try(base: str, is_cloned: bool) -> bool:
    """Can a child be had in a group of this base?"""
    path = _fresh(base, "try")
    try:
        pid, _ = fork(path if is_cloned else "")
        if pid == 0:
            try:
                if not is_cloned:
                    write(f"{path}/cgroup.procs", "0")
                os._exit(0)
            finally:
                os._exit(1)
        return os.waitpid(pid, 0)[1] == 0
    except OSError:
        return False
    finally:
        remove([path])


def _made(path: str) -> str:
    with contextlib.suppress(FileExistsError):
        os.mkdir(path)
    return path


def _below(path: str) -> list[str]:
    """The groups in a group, the innermost first."""
    found = []
    with contextlib.suppress(OSError):
        for entry in os.scandir(path):
            if entry.is_dir(follow_symlinks=False):
                found += [*_below(entry.path), entry.path]
    return found


def _is_delegated(path: str) -> bool:
    """It is ours to change: an ordinary user's by its mode, else systemd must have said so."""
    if os.geteuid():
        return os.access(f"{path}/cgroup.subtree_control", os.W_OK)
    for name in ("trusted.delegate", "user.delegate"):
        with contextlib.suppress(OSError):
            return os.getxattr(path, name) == b"1"
    return False


def _count(path: str, field: str) -> int | None:
    with contextlib.suppress(OSError):
        for line in _read(path).splitlines():
            name, _, value = line.rpartition(" ")
            if name == field:
                return int(value)
    return None


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()


def _unescaped(text: str) -> str:
    """As mountinfo writes paths: a space is \\040, proc_pid_mountinfo(5)."""
    return text.encode().decode("unicode_escape").encode("latin-1").decode(errors="replace")
