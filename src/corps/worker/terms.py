"""The terms of a launch in the keeper's words: names become numbers on the machine they mean."""

from __future__ import annotations

import grp
import os
import pwd
from typing import NamedTuple, TypedDict

from corps.errors import Denied, Invalid
from corps.model.terms import ID_MAX, Linger, Terms

WATCHABLE = ("memory", "pids")  # what the worker can see to itself, by looking


class SpawnTerms(TypedDict):
    """The fields of `wire.keeper.Spawn` that terms decide."""

    rlimits: dict[str, int]
    uid: int | None
    gid: int | None
    groups: tuple[int, ...]
    nice: int | None
    umask: int | None
    memory_bytes: int | None
    cpus: float | None
    pids: int | None
    watched: tuple[str, ...]
    keeps_children: bool
    new_privileges: bool


def spawn_terms(terms: Terms, *, may_choose: bool = False) -> SpawnTerms:
    """Raise Invalid for a user or group that this machine does not know, Denied for one that
    this worker cannot become, and `may_choose` does not say that its keeper can."""
    limits = terms.limits
    rlimits = {
        "nofile": limits.nofile,
        "nproc": limits.nproc,
        "core": limits.core_bytes,
        "as": limits.as_bytes,
        "cpu": limits.cpu_s,
    }
    uid, gid, groups = (None, None, ()) if terms.user is None else _identity(terms.user, may_choose)
    return SpawnTerms(
        rlimits={name: value for name, value in rlimits.items() if value is not None},
        uid=uid,
        gid=gid,
        groups=groups,
        nice=terms.nice,
        umask=terms.umask,
        memory_bytes=limits.memory_bytes,
        cpus=limits.cpus,
        pids=limits.pids,
        watched=WATCHABLE if limits.watchdog else (),
        keeps_children=terms.linger is Linger.KEEP,
        new_privileges=terms.new_privileges,
    )


class User(NamedTuple):
    """Who a launch runs as: its name where this machine knows one, else its number."""

    uid: int
    name: str


def own_user() -> tuple[str, str]:
    """As whom this process runs: by name and by number."""
    uid = os.geteuid()
    try:
        return pwd.getpwuid(uid).pw_name, str(uid)
    except KeyError:
        return str(uid), str(uid)


def user_of(terms: SpawnTerms) -> User:
    uid = os.geteuid() if terms["uid"] is None else terms["uid"]
    try:
        return User(uid, pwd.getpwuid(uid).pw_name)
    except KeyError:
        return User(uid, str(uid))


def groups_of(user: User) -> tuple[int, ...]:
    """Those that the machine has it in; one it does not know is alone in its own, unless that is
    a group of others."""
    try:
        known = pwd.getpwuid(user.uid)
    except KeyError:
        return () if _is_group(user.uid) else (user.uid,)
    return tuple(os.getgrouplist(known.pw_name, known.pw_gid))


def _is_group(gid: int) -> bool:
    try:
        grp.getgrgid(gid)
    except KeyError:
        return False
    return True


def group_number(name: str) -> int | None:
    """None: this machine does not know it."""
    try:
        return int(name) if name.isdigit() else grp.getgrnam(name).gr_gid
    except KeyError:
        return None


def user_environment(uid: int, home: str) -> dict[str, str]:
    """As a login gives it; `home` serves a user who has none."""
    try:
        known = pwd.getpwuid(uid)
    except KeyError:
        return {"HOME": home, "USER": str(uid), "LOGNAME": str(uid)}
    if os.path.isdir(known.pw_dir):
        home = known.pw_dir
    return {"HOME": home, "USER": known.pw_name, "LOGNAME": known.pw_name}


def _identity(user: str, may_choose: bool) -> tuple[int, int, tuple[int, ...]]:
    """uid, gid and supplementary groups; a user by number need not be known to the machine."""
    name, _, group = user.partition(":")
    known = _user(name)
    uid = known.pw_uid if known else int(name)
    gid = _group(group) if group else known.pw_gid if known else uid
    if max(uid, gid) > ID_MAX:
        raise Invalid(f"bad user {user!r}: no number is above {ID_MAX}", field="user")
    groups = tuple(os.getgrouplist(known.pw_name, gid)) if known else (gid,)
    if not may_choose and os.geteuid() not in (0, uid):
        raise Denied(f"this worker runs as uid {os.geteuid()}: it cannot run anything as {user!r}")
    return uid, gid, groups


def _user(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwuid(int(name)) if name.isdigit() else pwd.getpwnam(name)
    except KeyError:
        if name.isdigit():
            return None
        raise Invalid(f"no user {name!r} on this worker", field="user") from None


def _group(name: str) -> int:
    number = group_number(name)
    if number is None:
        raise Invalid(f"no group {name!r} on this worker", field="user")
    return number
