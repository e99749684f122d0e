"""The terms of a launch: what a program may use, as whom it runs, what is kept of its output.

Parsed and checked before anything happens; what a worker cannot hold it to, the worker refuses.
"""

from __future__ import annotations

import math
import re
from enum import StrEnum

import msgspec

from corps.errors import Invalid
from corps.model.secret import Use, check_uses

UNLIMITED = -1  # RLIM_INFINITY, setrlimit(2)
SIZE_MAX_BYTES = 1 << 50
COUNT_MAX = 1 << 22  # PID_MAX_LIMIT of the kernel
CPU_MAX_S = 1 << 31
CPUS_MAX = 4_096.0
CPUS_MIN = 0.01
MEMORY_MIN_BYTES = 1 << 20
NICE_MIN, NICE_MAX = -20, 19
UMASK_MAX = 0o777
FAILURES_MAX = 10_000
LOG_MIN_BYTES = 64 << 10
LOG_DEFAULT_BYTES = 256 << 20
USER_MAX = 64
ID_MAX = (1 << 32) - 2  # one more is -1: no user at all, setresuid(2)
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,3})?)([KMGT]?)(?:i?B)?", re.IGNORECASE)
_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
_USER = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9_.-]*(?::[a-zA-Z0-9_][a-zA-Z0-9_.-]*)?")


class Linger(StrEnum):
    """What becomes of descendants that outlive the leader of an instance."""

    KILL = "kill"
    KEEP = "keep"


class Restart(StrEnum):
    """Which deaths make a new attempt. One that a stop or kill asked for never does."""

    NEVER = "never"
    ON_FAILURE = "on-failure"
    ALWAYS = "always"


class Limits(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """None: no limit of ours. The first five are setrlimit(2), for each process by itself;
    memory, cpus and pids hold for the whole tree of an instance, by cgroup, or where `watchdog`
    allows it by the worker, which looks every second and kills what exceeds them."""

    nofile: int | None = None
    nproc: int | None = None
    core_bytes: int | None = None
    as_bytes: int | None = None
    cpu_s: int | None = None
    memory_bytes: int | None = None
    cpus: float | None = None
    pids: int | None = None
    watchdog: bool = False


class Terms(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`user` is `NAME`, `UID`, or either with `:GROUP`; None: as the worker runs.

    `new_privileges`: setuid programs and file capabilities work, as for a login.
    """

    limits: Limits = Limits()
    user: str | None = None
    nice: int | None = None
    umask: int | None = None
    linger: Linger = Linger.KILL
    log_max_bytes: int = LOG_DEFAULT_BYTES
    secrets: tuple[Use, ...] = ()
    new_privileges: bool = False


def check_terms(terms: Terms) -> None:
    """Raise Invalid naming the first field that no kernel would take."""
    limits = terms.limits
    for name, most in (("nofile", COUNT_MAX), ("nproc", COUNT_MAX), ("cpu_s", CPU_MAX_S)):
        _check_range(name, getattr(limits, name), UNLIMITED, most)
    for name in ("core_bytes", "as_bytes"):
        _check_range(name, getattr(limits, name), UNLIMITED, SIZE_MAX_BYTES)
    _check_range("memory_bytes", limits.memory_bytes, MEMORY_MIN_BYTES, SIZE_MAX_BYTES)
    _check_range("pids", limits.pids, 1, COUNT_MAX)
    if limits.cpus is not None and not math.isfinite(limits.cpus):
        raise Invalid(f"cpus is {limits.cpus}: a number of processors", field="cpus")
    _check_range("cpus", limits.cpus, CPUS_MIN, CPUS_MAX)
    _check_range("nice", terms.nice, NICE_MIN, NICE_MAX)
    _check_range("umask", terms.umask, 0, UMASK_MAX)
    _check_range("log_max_bytes", terms.log_max_bytes, LOG_MIN_BYTES, SIZE_MAX_BYTES)
    check_uses(terms.secrets)
    if terms.user is not None and (len(terms.user) > USER_MAX or not _USER.fullmatch(terms.user)):
        raise Invalid(
            f"bad user {terms.user[:80]!r}: spelled NAME, UID, NAME:GROUP or UID:GID", field="user"
        )
    for name in (terms.user or "").split(":"):
        if name.isdigit() and int(name) > ID_MAX:
            raise Invalid(f"bad user {terms.user!r}: {name} is above {ID_MAX}", field="user")


def parse_size(field: str, text: str) -> int:
    """`512M`, `1.5G`, `4096` -> bytes, in powers of 1024. Raise Invalid for anything else."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise Invalid(
            f"bad size {text[:80]!r} for {field}: spelled 512M, 1.5G or 4096", field=field
        )
    return int(float(match[1]) * (1 << _UNITS[match[2].upper()]))


def parse_restart(text: str) -> tuple[Restart, int | None]:
    """`on-failure:5` -> the policy, and after how many failures in a row it gives up."""
    name, colon, count = text.partition(":")
    if name not in [policy.value for policy in Restart]:
        names = ", ".join(policy.value for policy in Restart)
        raise Invalid(f"bad restart policy {text[:40]!r}: one of {names}", field="restart")
    if not colon:
        return Restart(name), None
    if not (count.isascii() and count.isdigit() and len(count) < 6):
        raise Invalid(f"bad restart policy {text[:40]!r}: spelled on-failure:5", field="restart")
    check_restart(Restart(name), int(count))
    return Restart(name), int(count)


def show_restart(restart: Restart, failures_max: int | None) -> str:
    """What parse_restart reads."""
    return restart if failures_max is None else f"{restart}:{failures_max}"


def check_restart(restart: Restart, failures_max: int | None) -> None:
    """Raise Invalid for a limit that no policy has."""
    _check_range("failures_max", failures_max, 1, FAILURES_MAX)
    if failures_max is not None and restart is not Restart.ON_FAILURE:
        raise Invalid(f"only on-failure gives up: {restart} takes no number", field="restart")


def parse_limits(texts: tuple[str, ...]) -> dict[str, int]:
    """`nofile=1024,core=0` -> fields of Limits. Raise Invalid naming what is wrong."""
    fields = {"nofile": "nofile", "nproc": "nproc", "core": "core_bytes"}
    fields |= {"as": "as_bytes", "cpu": "cpu_s"}
    found: dict[str, int] = {}
    for text in ",".join(texts).split(",") if texts else ():
        name, equals, value = text.partition("=")
        if name not in fields or not equals:
            raise Invalid(
                f"bad limit {text[:80]!r}: one of {' '.join(fields)}, spelled nofile=1024",
                field="limit",
            )
        if fields[name] in found:
            raise Invalid(f"the limit {name!r} is given twice", field="limit")
        found[fields[name]] = _limit_value(name, value)
    return found


def parse_umask(text: str) -> int:
    """`027` -> 0o027. Raise Invalid for what is no octal mode."""
    if not re.fullmatch("[0-7]{1,4}", text) or int(text, 8) > UMASK_MAX:
        raise Invalid(f"bad umask {text[:20]!r}: octal, from 000 to 777", field="umask")
    return int(text, 8)


def _limit_value(name: str, value: str) -> int:
    if value == "unlimited":
        return UNLIMITED
    if name in ("core", "as"):
        return parse_size(name, value)
    if not value.isascii() or not value.isdigit() or len(value) > 15:
        raise Invalid(
            f"bad limit {name}={value[:40]}: a whole number or 'unlimited'", field="limit"
        )
    return int(value)


def _check_range(name: str, value: float | None, least: float, most: float) -> None:
    if value is not None and not least <= value <= most:
        raise Invalid(f"{name} is {value}: from {least} to {most}", field=name)
