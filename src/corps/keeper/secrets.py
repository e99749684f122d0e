"""Secrets of attempts: files on a tmpfs, sealed memory with a number, variables. Never on a disk.

The files of an attempt are gone when its tree is over; what a keeper that was killed has left of
the dead goes when the next one begins. The child writes them itself, before it becomes its user.
"""

from __future__ import annotations

import binascii
import contextlib
import ctypes
import errno
import fcntl
import os

from corps.keeper.limits import Json
from corps.keeper.users import LIBC

TYPE_CHECKING = False  # importing typing would cost half a megabyte
if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from corps.keeper.process import Launch

NONE = type(None)
SHAPE = {"value": (str,), "file": (str, NONE), "fd": (int, NONE), "variable": (str, NONE)}
BASES = ("/run/corps", "/run/user/{uid}/corps", "/dev/shm/corps-{uid}")
IN_MEMORY = (0x01021994, 0x858458F6)  # tmpfs and ramfs, statfs(2)
SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
FD_MIN, FD_END = 3, 64  # numbers that an app may ask for
DEPTH_MAX = 16  # of what an app may have made in its directory
TRIES = 5


class Secrets:
    """Of the keeper of the working directory, by whose inode its own directories are named."""

    def __init__(self, log: Callable[[str], None]) -> None:
        here, uid, self._log = os.stat("."), os.geteuid(), log
        name = f"{here.st_dev:x}-{here.st_ino:x}"
        self._places = [f"{base.format(uid=uid)}/{name}" for base in BASES]
        self._made: dict[str, str] = {}  # the directories that there are, by attempt
        for place in self._places:
            with contextlib.suppress(OSError):
                if os.lstat(place).st_uid == uid:
                    self._made |= {key: f"{place}/{key}" for key in os.listdir(place)}

    def prepare(self, key: str, launch: Launch) -> str | None:
        """Set the variables, and make a directory if there are files; or why it cannot be."""
        asked: list[Json] = launch.message["secrets"]
        if reason := _wrong(key, asked):
            return reason
        launch.secrets = tuple((one["file"], one["fd"], _value(one)) for one in asked)
        if any(one["file"] for one in asked):
            try:
                launch.secrets_in = self._make(key)
            except OSError as error:
                return f"there is no place for its secrets: {error.strerror}"
            launch.env[b"CORPS_SECRETS"] = launch.secrets_in.encode()
        for one, (file, _, value) in zip(asked, launch.secrets, strict=True):
            if one["variable"]:
                told = value if file is None else f"{launch.secrets_in}/{file}".encode()
                launch.env[one["variable"].encode()] = told
        return None

    def remove(self, key: str) -> None:
        path = self._made.pop(key, None)
        if path is not None:
            try:
                _drop(path, DEPTH_MAX)
            except OSError as error:
                self._log(f"cannot remove the secrets of {key}: {error}")
            place = os.path.dirname(path)
            with contextlib.suppress(OSError):  # others are there
                os.rmdir(place)
                os.rmdir(os.path.dirname(place))

    def clean(self, living: Container[str]) -> None:
        """Remove all but those of the living."""
        for key in [key for key in self._made if key not in living]:
            self.remove(key)

    def _make(self, key: str) -> str:
        self.remove(key)
        tried = []
        for place in self._places * TRIES:  # another keeper may take away what both need
            base, why = os.path.dirname(place), "not in memory, or not its own"
            try:
                if _is_fit(os.path.dirname(base)) and _is_own(base) and _is_own(place):
                    os.mkdir(f"{place}/{key}", 0o700)
                    self._made[key] = f"{place}/{key}"
                    return self._made[key]
            except OSError as error:
                why = str(error.strerror)
            tried.append(f"{base} ({why})")
        raise OSError(errno.ENOENT, f"tried {', '.join(tried[-len(self._places) :])}")


def out_of_the_way(launch: Launch, fds: tuple[int, ...]) -> tuple[int, ...]:
    """Descriptors of ours with numbers that no program can have asked for its secrets."""
    if not launch.secrets:
        return fds
    return tuple(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, FD_END) for fd in fds)


def give(launch: Launch) -> None:
    """In the child, while it still has all its rights. Raise OSError."""
    uid, gid = launch.message["uid"], launch.message["gid"]
    for file, number, value in launch.secrets:
        if file is not None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            fd = os.open(f"{launch.secrets_in}/{file}", flags, 0o400)
            _write(fd, value)
            os.fchmod(fd, 0o400)
            if uid is not None:
                os.fchown(fd, uid, gid)
            os.close(fd)
        elif number is not None:
            fd = os.memfd_create("secret", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            _write(fd, value)
            os.lseek(fd, 0, os.SEEK_SET)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
            os.dup2(fd, number)
            os.set_inheritable(number, True)  # also when that was its number already
    if launch.secrets_in:
        os.chmod(launch.secrets_in, 0o500)
        if uid is not None:
            os.chown(launch.secrets_in, uid, gid)


def _wrong(key: str, asked: list[Json]) -> str | None:
    """Why these cannot be given. Raise ValueError for what no worker says."""
    for one in asked:
        if type(one) is not dict or SHAPE.keys() - one.keys():
            raise ValueError("a secret that lacks something")
        if any(type(one[name]) not in SHAPE[name] for name in SHAPE):
            raise ValueError("a secret of another shape")
        file, fd, variable = one["file"], one["fd"], one["variable"]
        if file is not None and ("/" in file + key or "\0" in file or file in ("", ".", "..")):
            return "the file of a secret is named by one word"
        if fd is not None and not FD_MIN <= fd < FD_END:
            return f"the descriptor of a secret is from {FD_MIN} to {FD_END - 1}"
        if variable is not None and (not variable or "=" in variable or "\0" in variable):
            return "the variable of a secret has a name without '='"
        if variable is not None and file is None and b"\0" in _value(one):
            return f"a secret with a NUL cannot be the variable {variable!r}"
    return None


def _value(one: Json) -> bytes:
    return binascii.a2b_base64(one["value"])


def _write(fd: int, value: bytes) -> None:
    if os.write(fd, value) != len(value):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _is_own(path: str) -> bool:
    """A directory that nobody else may write, made if it is not there; others may pass through."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
        os.chmod(path, 0o711)
    status = os.lstat(path)
    return status.st_uid == os.geteuid() and not status.st_mode & 0o022 and _is_fit(path)


def _is_fit(path: str) -> bool:
    """A directory, no link to one, that is in memory."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    said = ctypes.create_string_buffer(256)
    failed = LIBC.fstatfs(fd, said)
    os.close(fd)
    return not failed and int.from_bytes(said.raw[:4], "little") in IN_MEMORY


def _drop(path: str, depth: int) -> None:
    """First nobody else may change it any more: its user may have made links and directories."""
    if os.lstat(path).st_uid != os.geteuid():
        os.chown(path, os.geteuid(), os.getegid(), follow_symlinks=False)
    os.chmod(path, 0o700)
    for entry in list(os.scandir(path)):
        if not entry.is_dir(follow_symlinks=False):
            os.unlink(entry.path)
        elif depth:
            _drop(entry.path, depth - 1)
    os.rmdir(path)
