"""The terms of a launch that a process takes upon itself, before its program has it.

setrlimit(2), nice, umask, user: each a stage in which a launch can fail.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource

TYPE_CHECKING = False  # importing typing would cost half a megabyte
if TYPE_CHECKING:
    from typing import Any

PR_SET_NO_NEW_PRIVS = 38
NOFILE = resource.getrlimit(resource.RLIMIT_NOFILE)  # before the keeper raises its own
LIBC = ctypes.PyDLL(None, use_errno=True)  # one that keeps the interpreter's lock: we fork
CPU_KILL_S = 1  # between SIGXCPU and SIGKILL: else the program hears no SIGXCPU

Json = dict[str, "Any"]


def above(rlimits: Json) -> str | None:
    """Which limit no child of this keeper can be given, and why."""
    for name, value in rlimits.items():
        number = getattr(resource, f"RLIMIT_{name.upper()}", None)
        if number is None:
            return f"no limit {name!r} on this system"
        hard = NOFILE[1] if name == "nofile" else resource.getrlimit(number)[1]
        if name == "nofile" and (most := _nr_open()) and not 0 <= value <= most:
            return f"the limit nofile={_spelled(value)} is above fs.nr_open, {most}, of its machine"
        if os.geteuid() and hard != resource.RLIM_INFINITY and not 0 <= value <= hard:
            spelled = f"the limit {name}={_spelled(value)} is above the hard limit of its worker"
            return f"{spelled}, {hard}, which only root may raise"
    return None


def _nr_open() -> int:
    with open("/proc/sys/fs/nr_open") as file:
        return int(file.read())


def _spelled(value: int) -> str:
    return "unlimited" if value < 0 else str(value)


def _accept_nice(message: Json) -> None:
    if message["nice"] is not None:
        os.setpriority(os.PRIO_PROCESS, 0, message["nice"])


def _accept_umask(message: Json) -> None:
    if message["umask"] is not None:
        os.umask(message["umask"])


def _accept_rlimits(message: Json) -> None:
    """Soft and hard alike; the address space last, as Python itself lives in it."""
    for name in sorted(message["rlimits"], key="as".__eq__):
        number, value = getattr(resource, f"RLIMIT_{name.upper()}"), message["rlimits"][name]
        hard = value
        if name == "cpu" and value >= 0:
            before = resource.getrlimit(number)[1]
            hard = value + CPU_KILL_S if before < 0 else min(value + CPU_KILL_S, before)
        try:
            resource.setrlimit(number, (value, hard))
        except ValueError as error:  # so Python tells EPERM, and EINVAL
            raise OSError(errno.EPERM, str(error)) from error


def _accept_user(message: Json) -> None:
    """For good: what is not root may not become it again by a setuid program either."""
    if message["uid"] is None:
        return
    if os.geteuid() == 0:
        os.setgroups(message["groups"])
        os.setresgid(*3 * (message["gid"],))
    elif os.getegid() != message["gid"]:
        raise OSError(errno.EPERM, "only root may choose a group")
    os.setresuid(*3 * (message["uid"],))
    if LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "no_new_privs")


TERMS = (
    ("nice", _accept_nice),
    ("umask", _accept_umask),
    ("limits", _accept_rlimits),
    ("user", _accept_user),
)
