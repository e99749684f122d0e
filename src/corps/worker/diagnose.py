"""Why a program did not start, in the words a person needs.

execve(2) says ENOENT for a missing file, a missing interpreter and a missing ELF loader alike, and
EACCES for a directory, a missing x bit and a noexec mount alike: here the file itself is asked.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from typing import NamedTuple

from corps.worker.binary import ELF, SHEBANG, elf_reason, shebang_of, shebang_reason

HEAD_BYTES = 4_096
ARGUMENT_MAX_BYTES = 131_072  # MAX_ARG_STRLEN of the kernel
INTERPRETERS_MAX = 5  # execve(2): a script whose interpreter is a script, and so on
NAME_MAX, PATH_MAX = 255, 4_096
ST_NOEXEC = 8  # statvfs(3)
BOM = b"\xef\xbb\xbf"
LIMIT_WORDS = {
    errno.EAGAIN: "a limit on processes is reached: nproc, pids of a cgroup, kernel.pid_max",
    errno.ENOMEM: "the machine has no memory left",
    errno.EMFILE: "the keeper has no descriptor left: raise its hard limit on open files",
    errno.ENFILE: "the machine has no descriptor left: raise fs.file-max",
}
PATH_WORDS = {
    errno.ELOOP: "it is a symbolic link",
    errno.ENXIO: "it is no regular file with one name",
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota of its owner is used up",
    errno.EROFS: "the file system is read-only",
    errno.EIO: "the disk reports an error: see the kernel's log",
}
EXEC_WORDS = {
    errno.ETXTBSY: "somebody has the file open for writing: try again when that is over",
    errno.EPERM: "forbidden: a security policy, or a file system mounted nosuid; "
    "see the kernel's audit log",
    errno.ELIBBAD: "its loader is damaged, or built for another machine type",
    errno.EINVAL: "the ELF file names more than one loader",
    errno.EISDIR: "its loader is a directory",
    **LIMIT_WORDS,
}
UNEXPLAINED_WORDS = {  # when the file itself is no reason
    errno.EACCES: "a security policy may forbid it: ausearch -m avc",
    errno.EIO: "the disk reports an error: see the kernel's log",
}
STAGE_WORDS = {
    "cgroup": "its keeper cannot make a cgroup for it",
    "nice": "its nice value cannot be set",
    "umask": "its umask cannot be set",
    "limits": "its limits cannot be set",
    "user": "it cannot become the user that was asked for",
    "secrets": "its secrets cannot be given to it",
    "work": "its directory cannot be given to its user",
    "never_executed": "its keeper died before it was executed",
    "killed_before_exec": "it was killed before it was executed",
    "mark": "the keeper's journal cannot be marked",
    "journal": "the keeper's journal cannot be written: is the disk full?",
}


class Launched(NamedTuple):
    """What was to be executed, and as whom; `uid` None: as the worker itself."""

    path: str
    argv: tuple[str, ...] = ()
    cwd: str = "/"
    env: Mapping[str, str] = {}
    uid: int | None = None
    groups: tuple[int, ...] = ()


def diagnose(what: Launched, stage: str, number: int, deadline_s: float | None = None) -> str:
    """One sentence: what failed, on what, why."""
    said = os.strerror(number)
    match stage:
        case "chdir":
            why = path_reason(what.cwd, number, what, is_directory=True)
            return f"cannot enter the directory {what.cwd!r}: {why or said}"
        case "log":
            return f"cannot open its log file: {PATH_WORDS.get(number, said)}"
        case "fork":
            why = LIMIT_WORDS.get(number)
            return f"cannot make another process: {why} ({said})" if why else f"cannot fork: {said}"
        case "execve":
            name = os.path.basename(what.path)
            return f"cannot execute {name!r}: {_exec_reason(what, what.path, number, 0)}"
        case "timeout":
            after = f" within {deadline_s:g} s" if deadline_s is not None else " in time"
            return f"it was not executed{after}: its keeper ended it; does its file system hang?"
    words = STAGE_WORDS.get(stage, stage.replace("_", " "))
    return f"{words}: {said}" if number else words


def path_reason(
    path: str, number: int, what: Launched, *, is_directory: bool = False
) -> str | None:
    """At which part of a path its lookup fails, and why; None when the path is no reason."""
    said = os.strerror(number)
    if number == errno.ENAMETOOLONG:
        longest = max(path.split("/"), key=len)
        if len(os.fsencode(longest)) > NAME_MAX:
            return f"{longest[:40]!r}... in it is longer than {NAME_MAX} bytes ({said})"
        return f"the path is longer than {PATH_MAX - 1} bytes ({said})"
    if number == errno.ELOOP:
        return f"too many symbolic links ({said})" if _is_link_loop(path) else None
    parts = path.rstrip("/").split("/")
    at = ["/".join(parts[: end + 1]) or "/" for end in range(len(parts))]
    for part in at if is_directory else at[:-1]:
        try:
            status = os.stat(part)
        except FileNotFoundError:
            return f"{_itself(part, path)} is missing on this worker ({said})"
        except OSError as error:
            return f"{_itself(part, path)} cannot be looked at: {error.strerror}"
        if not stat.S_ISDIR(status.st_mode):
            return f"{_itself(part, path)} is no directory ({said})"
        if not _may(status, what, 1):
            return f"{_who(what)} may not enter {_itself(part, path)}: its mode is {_mode(status)}"
    return None


def _itself(part: str, path: str) -> str:
    return "it" if part == path.rstrip("/") else repr(part)


def _exec_reason(what: Launched, path: str, number: int, depth: int) -> str:
    """Why this file, or the interpreter that it names, cannot be executed."""
    said = os.strerror(number)
    if number == errno.E2BIG:
        return _too_long(what, said)
    if (reason := path_reason(path, number, what)) is not None:
        return reason
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            return f"it is {_kind(status)}, no regular file ({said})"
        if number == errno.EACCES and (reason := _denied(what, path, status, said)) is not None:
            return reason
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
    except FileNotFoundError:
        if os.path.islink(path):
            return f"it is a symbolic link to {os.readlink(path)!r}, which is missing ({said})"
        return f"the file is missing on this worker ({said})"
    except OSError as error:
        return f"{said}; and it cannot be read: {error.strerror}"
    if number in EXEC_WORDS:
        return f"{EXEC_WORDS[number]} ({said})"
    return _content_reason(what, head, number, depth)


def _content_reason(what: Launched, head: bytes, number: int, depth: int) -> str:
    said = os.strerror(number)
    if head.startswith(SHEBANG):
        interpreter = shebang_of(head)
        if (reason := shebang_reason(head, said)) is not None:
            return reason
        return _interpreter_reason(what, interpreter, number, depth)
    if head.startswith(ELF):
        if (reason := elf_reason(head, number)) is not None:
            return reason
        words = UNEXPLAINED_WORDS.get(number)
        return f"{words} ({said})" if words else said
    if not head:
        return f"the file is empty ({said})"
    if head.startswith(BOM + SHEBANG):
        return f"a UTF-8 byte order mark stands before its '#!': remove it ({said})"
    if number == errno.ENOEXEC:
        return f"it is neither ELF nor begins with '#!INTERPRETER' ({said}); no shell is tried"
    return said


def _interpreter_reason(what: Launched, interpreter: str, number: int, depth: int) -> str:
    said = os.strerror(number)
    where = os.path.join(what.cwd, interpreter)
    relative = "" if interpreter.startswith("/") else f", looked for from {what.cwd!r},"
    if not os.path.lexists(where):
        return f"its interpreter {interpreter!r}{relative} is missing on this worker ({said})"
    if number == errno.ELOOP and not _is_link_loop(where):
        return (
            f"its interpreter {interpreter!r} is a script itself, its interpreter too, and so on, "
            f"more than {INTERPRETERS_MAX} deep ({said})"
        )
    if depth == INTERPRETERS_MAX:
        return said
    reason = _exec_reason(what, where, number, depth + 1)
    return f"its interpreter {interpreter!r}{relative} cannot be executed: {reason}"


def _is_link_loop(path: str) -> bool:
    try:
        os.stat(path)
    except OSError as error:
        return error.errno == errno.ELOOP
    return False


def _denied(what: Launched, path: str, status: os.stat_result, said: str) -> str | None:
    """None: it may be executed, so its interpreter or loader may not."""
    if not status.st_mode & 0o111:
        return f"it has no x bit: chmod +x and copy it again ({said})"
    if os.statvfs(path).f_flag & ST_NOEXEC:
        return f"it lies on a file system mounted noexec ({said})"
    if not _may(status, what, 1):
        return f"{_who(what)} may not: it belongs to uid {status.st_uid}, mode {_mode(status)}"
    return None


def _may(status: os.stat_result, what: Launched, bit: int) -> bool:
    """By owner, group and mode, as path_resolution(7) decides; an ACL may say otherwise."""
    uid = os.geteuid() if what.uid is None else what.uid
    groups = (os.getegid(), *os.getgroups()) if what.uid is None else what.groups
    if uid == 0:
        return stat.S_ISDIR(status.st_mode) or bool(status.st_mode & 0o111)
    if uid == status.st_uid:
        return bool(status.st_mode & bit << 6)
    if status.st_gid in groups:
        return bool(status.st_mode & bit << 3)
    return bool(status.st_mode & bit)


def _who(what: Launched) -> str:
    return f"uid {os.geteuid() if what.uid is None else what.uid}"


def _mode(status: os.stat_result) -> str:
    return f"{stat.S_IMODE(status.st_mode):04o}"


def _kind(status: os.stat_result) -> str:
    kinds = (
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    )
    return next((name for is_it, name in kinds if is_it(status.st_mode)), "something else")


def _too_long(what: Launched, said: str) -> str:
    """E2BIG is for one word that is too long, or for all together."""
    words = [(f"argument {at}", word) for at, word in enumerate(what.argv)]
    words += [(f"variable {name!r}", f"{name}={value}") for name, value in what.env.items()]
    total = 0
    for name, word in words:
        size = len(os.fsencode(word)) + 1
        if size > ARGUMENT_MAX_BYTES:
            return f"its {name} has {size - 1} bytes, at most {ARGUMENT_MAX_BYTES - 1} ({said})"
        total += size
    counted = f" ({total} bytes)" if what.env else ""  # else not all of it is known any more
    return (
        f"its arguments and environment together{counted} are too long: at most a quarter of the "
        f"limit on its stack, and never more than 6 MiB ({said})"
    )
