"""What a keeper with rights does for a worker that has none, and no more.

A worker daemon that was taken over gets no further than these rules. They are in the policy of the
machine, root's own file, which this keeper reads itself at each launch; files it touches only as
its worker's user could.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
import tomllib

from corps.keeper import users
from corps.keeper.users import Json

POLICY_MAX_BYTES = 1 << 20
NOGROUP = 65_534
DEPTH_MAX = 200  # of directories in each other that are cleared
DEFAULTS: Json = {"allow_users": None, "allow_groups": [], "min_uid": 1_000, "default_user": None}
DEFAULTS |= {"allow_root": False, "allow_new_privileges": False}
KINDS = {"allow_users": list, "allow_groups": list, "min_uid": int, "default_user": str}


class Rules:
    """Of a keeper whose worker runs as `user`. Raise OSError when there is no such user."""

    def __init__(self, user: str, policy: str) -> None:
        try:
            known = pwd.getpwnam(user)
        except KeyError:
            raise OSError(f"no user {user!r} here") from None
        self.uid, self.gid = known.pw_uid, known.pw_gid
        self.groups = os.getgrouplist(user, known.pw_gid)
        self._policy = policy
        here = os.stat(".")
        if self.uid == 0 or not users.has(users.CAP_SETUID):
            raise OSError("only a worker without rights needs such a keeper, and one that has them")
        if here.st_uid != os.geteuid() or here.st_mode & 0o022:
            raise OSError("whoever may write here decides what is killed: chown, chmod go-w")

    def refusal(self, message: Json) -> str | None:
        """Why a launch is not carried out. Raise ValueError for what no worker says."""
        uid, asked = message["uid"], [message["gid"], *message["groups"]]
        if uid is None:
            return "nothing runs as this worker itself: launch with --user"
        if any(type(gid) is not int for gid in asked):
            raise ValueError("a group that is no number")
        try:
            policy = self._read()
        except (OSError, ValueError, RecursionError) as error:
            return f"nothing may start here: the policy '{self._policy}' cannot be applied: {error}"
        if reason := self._denied(uid, policy):
            return reason
        if message["new_privileges"] and (users.IS_SHUT or not policy["allow_new_privileges"]):
            return "--new-privileges is not allowed here (allow_new_privileges, or NoNewPrivileges)"
        foreign = {*asked} - _groups(uid) - {_number(name) for name in policy["allow_groups"]}
        if foreign:
            return f"group {min(foreign)} is not one of uid {uid}, nor allowed here (allow_groups)"
        return None

    def clear(self, directory: str) -> None:
        """In a child: delete what is in the working directory of an attempt, as who it belongs to.

        Raise OSError or RecursionError.
        """
        self.enter()
        fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        self.leave()
        owner = os.fstat(fd)
        if reason := self._denied(owner.st_uid, self._read()):
            raise PermissionError(reason)
        group = owner.st_gid if owner.st_gid in _groups(owner.st_uid) else NOGROUP
        identity = {"uid": owner.st_uid, "gid": group, "groups": [group]}
        users.become(identity | {"new_privileges": False})
        os.fchdir(fd)
        _empty(".", DEPTH_MAX)

    def give(self, directory: str, uid: int, gid: int) -> None:
        """In a child: make a directory of the worker's, where an attempt is to run, its user's."""
        self.enter()
        try:
            if os.lstat(directory).st_uid == uid:
                return
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        finally:
            self.leave()
        if os.fstat(fd).st_uid != self.uid:
            raise PermissionError(1, "not the worker's to give")
        os.fchown(fd, uid, gid)
        os.close(fd)

    def enter(self) -> None:
        """In a child: whatever a path leads to, it is no more than the worker could open."""
        os.setgroups(self.groups)
        os.setegid(self.gid)
        os.seteuid(self.uid)

    def leave(self) -> None:
        os.seteuid(os.getuid())
        os.setegid(os.getgid())
        os.setgroups([])

    def _denied(self, uid: int, policy: Json) -> str | None:
        name = _name(uid)
        if not 0 <= uid <= users.ID_MAX:
            return f"no user has the number {uid}"
        if uid == 0:
            return None if policy["allow_root"] else "root is not allowed here (allow_root)"
        if policy["default_user"] in (name, str(uid)):
            return None
        allowed: list[str] | None = policy["allow_users"]
        if allowed is not None and name not in allowed:
            return f"user {name!r} is not allowed here (allow_users)"
        if allowed is None and uid in range(policy["min_uid"]):
            return f"user {name!r} is not allowed here (min_uid = {policy['min_uid']})"
        if allowed is None and uid == self.uid:
            return f"user {name!r} is the worker's own: it is not allowed here (allow_users)"
        return None

    def _read(self) -> Json:
        """Raise OSError or ValueError: then nothing may start. Keys of the worker's own rules are
        the worker's business."""
        try:
            with open(self._policy, "rb") as file:
                found = os.fstat(file.fileno())
                if not stat.S_ISREG(found.st_mode) or found.st_uid or found.st_mode & 0o022:
                    raise ValueError("it is not root's own file, or others may write it")
                said = tomllib.loads(file.read(POLICY_MAX_BYTES).decode())
        except FileNotFoundError:
            return DEFAULTS
        ours = {key: value for key, value in said.items() if key in DEFAULTS}
        for key, value in ours.items():
            kind = KINDS.get(key, bool)
            words = value if isinstance(value, list) else []
            if type(value) is not kind or any(type(word) is not str for word in words):
                raise ValueError(f"{key} is of another kind")
        return DEFAULTS | ours


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return str(uid)


def _groups(uid: int) -> set[int]:
    """Those the machine has it in; one it does not know is alone in its own, unless that is
    a group of others."""
    try:
        known = pwd.getpwuid(uid)
    except KeyError:
        return set() if _is_group(uid) else {uid}
    return set(os.getgrouplist(known.pw_name, known.pw_gid))


def _is_group(gid: int) -> bool:
    try:
        grp.getgrgid(gid)
    except KeyError:
        return False
    return True


def _number(group: str) -> int:
    try:
        return int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
    except KeyError:
        return -1


def _empty(path: str, depth: int) -> None:
    """Whoever swaps a directory for a link under our eyes only harms itself: we are its user."""
    for entry in list(os.scandir(path)):
        if not entry.is_dir(follow_symlinks=False):
            os.unlink(entry.path)
            continue
        if not depth:
            raise RecursionError(path)
        os.chmod(entry.path, 0o700)
        _empty(entry.path, depth - 1)
        os.rmdir(entry.path)
