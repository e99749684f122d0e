"""The terms of a launch that a process takes upon itself, before its program has it.

setrlimit(2), nice, umask, user: each a stage in which a launch can fail.
"""

from __future__ import annotations

import errno
import os
import resource

from corps.keeper import users

TYPE_CHECKING = False  # importing typing would cost half a megabyte
if TYPE_CHECKING:
    from typing import Any

CAP_SYS_RESOURCE = 24
NOFILE = resource.getrlimit(resource.RLIMIT_NOFILE)  # before the keeper raises its own
LIBC = users.LIBC
CPU_KILL_S = 1  # between SIGXCPU and SIGKILL: else the program hears no SIGXCPU

Json = dict[str, "Any"]


def above(rlimits: Json) -> str | None:
    """Which limit no child of this keeper can be given, and why."""
    for name, value in rlimits.items():
        number = getattr(resource, f"RLIMIT_{name.upper()}", None)
        if number is None:
            return f"no limit {name!r} on this system"
        hard = NOFILE[1] if name == "nofile" else resource.getrlimit(number)[1]
        is_free = users.has(CAP_SYS_RESOURCE) or hard == resource.RLIM_INFINITY
        if name == "nofile" and (most := _nr_open()) and not 0 <= value <= most:
            return f"the limit nofile={_spelled(value)} is above fs.nr_open, {most}, of its machine"
        if not is_free and not 0 <= value <= hard:
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


TERMS = (
    ("nice", _accept_nice),
    ("umask", _accept_umask),
    ("limits", _accept_rlimits),
    ("user", users.become),
)
