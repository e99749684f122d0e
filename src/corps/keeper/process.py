"""Processes: a child from its fork to its program, and any process known by a pidfd.

fork; gate (the attempt is in the journal now); log; chdir; mark the right to exec as used; execve.
What fails in the child is told as `stage errno` in a pipe that exec closes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import select
import signal
import stat
import struct

TYPE_CHECKING = False  # importing typing would cost half a megabyte
if TYPE_CHECKING:
    from typing import Any

UNUSED, USED, FAILED, REVOKED = range(4)  # the right to exec, a flag in the journal
MARK = struct.Struct(">BI")  # the flag, and the resident set in KiB before exec
PLACE = struct.Struct("=Q")  # what goes through the gate: where the flag is
NOFILE = resource.getrlimit(resource.RLIMIT_NOFILE)  # before the keeper raises its own
SPARE_FDS, FD_END = 64, 1 << 20
LOG_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NOCTTY | os.O_NONBLOCK
PIDFD_GET_INFO = 0xC040FF0B  # _IOWR(0xFF, 11, struct pidfd_info), Linux >= 6.13
PIDFD_INFO = struct.Struct("=Q52xi")  # mask first, exit_code last
PIDFD_INFO_EXIT = 1 << 3  # Linux >= 6.15, and only once the process is reaped
STARTED, EXIT_CODE = 22, 52  # fields of /proc/PID/stat, proc_pid_stat(5)
GONE = (errno.ESRCH, errno.EINVAL, errno.ENOENT)  # no such process, or now a mere thread
HIDDEN = (errno.EACCES, errno.EPERM)  # another user's, or made so by a setuid program

Json = dict[str, "Any"]
Launch = tuple[bytes, list[bytes], dict[bytes, bytes], bytes, bytes, bytes]


class Fd:
    """A descriptor that closes with its last reference: never while a message waits with it."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.close(self.number)


class Child:
    """What this keeper holds of a living attempt. `pipe` is there until it has executed."""

    errno, report, doom, deadline, floor_bytes = 0, b"", "killed_before_exec", float("inf"), 0
    pidfd: Fd | None = None
    gate: Fd | None = None
    pipe: Fd | None = None
    waiting: tuple[int, ...] = ()  # signals for when it has executed

    def __init__(self, key: str, pid: int = 0) -> None:
        self.key, self.pid = key, pid


def prepare(message: Json) -> Launch:
    """What a child needs, as bytes; ValueError says what can never be executed."""
    names = ("path", "cwd", "stdout", "stderr")
    path, cwd, stdout, stderr = (_bytes(message[name]) for name in names)
    env = {_bytes(name): _bytes(value) for name, value in message["env"].items()}
    if not message["argv"] or any(not name or b"=" in name for name in env):
        raise ValueError("argv is empty, or a name in env is or has a '='")
    return path, [_bytes(word) for word in message["argv"]], env, cwd, stdout, stderr


def start(key: str, launch: Launch, journal: int) -> Child:
    """Fork a child that waits at its gate. One without a pid has an errno instead."""
    child = Child(key)
    try:
        gate, pipe = [Fd(fd) for fd in os.pipe()], [Fd(fd) for fd in os.pipe()]
        if pipe[1].number >= resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARE_FDS:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        child.pid = os.fork()
    except OSError as error:
        child.errno = error.errno or errno.EAGAIN
        return child
    if child.pid == 0:
        try:
            _become(launch, gate[0].number, pipe[1].number, journal)
        finally:
            os._exit(126)
    child.gate, child.pipe = gate[1], pipe[0]
    os.set_blocking(pipe[0].number, False)
    with contextlib.suppress(OSError):
        child.pidfd = Fd(os.pidfd_open(child.pid))
    return child


def _become(launch: Launch, gate: int, status: int, journal: int) -> None:
    """In the child. Exec resets the signals: the keeper ignores none, it has handlers for them."""
    path, argv, env, cwd, stdout, stderr = launch
    stage, place = "gate", 0
    try:
        signal.set_wakeup_fd(-1)
        os.setsid()
        low = 3
        for kept in sorted((gate, status, journal)):
            os.closerange(low, kept)
            low = kept + 1
        os.closerange(low, FD_END)
        resource.setrlimit(resource.RLIMIT_NOFILE, NOFILE)
        right = os.read(gate, PLACE.size)
        if not right:
            return  # the keeper died, or gave up
        (place,) = PLACE.unpack(right)
        stage = "log"
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, name in ((1, stdout), (2, stderr)):
            fd = os.open(name, LOG_FLAGS, 0o640)
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
                raise OSError(errno.ENXIO, "not a regular file with one name")
            os.set_blocking(fd, True)
            os.dup2(fd, number)
        stage = "chdir"
        os.chdir(cwd)
        floor = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        stage = "mark"  # the lock is held until exec closes `journal`
        fcntl.lockf(journal, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
        if (
            os.pread(journal, 1, place)[0] != UNUSED
            or os.pwrite(journal, MARK.pack(USED, floor), place) != MARK.size
        ):
            return
        stage = "execve"
        os.execve(path, argv, env)
    except (OSError, MemoryError) as error:
        if stage == "execve":
            os.pwrite(journal, bytes([FAILED]), place)
        number = error.errno if isinstance(error, OSError) and error.errno else errno.ENOMEM
        os.write(status, f"{stage} {number}".encode())


def revoke(journal: int, place: int) -> int:
    """Take an unused right to exec from a child whose keeper died; return how it stands."""
    with contextlib.suppress(BlockingIOError):  # locked: it is being used now
        fcntl.lockf(journal, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
        if os.pread(journal, 1, place)[0] == UNUSED:
            os.pwrite(journal, bytes([REVOKED]), place)
        fcntl.lockf(journal, fcntl.LOCK_UN, 1, place)
        return os.pread(journal, 1, place)[0]
    return USED


def ended(pidfd: Fd) -> int:
    """0 while the process lives; then POLLIN, and POLLHUP as well when it is reaped."""
    poll = select.poll()
    poll.register(pidfd.number, select.POLLIN)
    return sum(events for _, events in poll.poll(0))


def identity(pid: int, pidfd: Fd, is_new_kernel: bool) -> int:
    """The inode of its pidfd; negative: when it started, in ticks."""
    return os.fstat(pidfd.number).st_ino if is_new_kernel else -_stat(pid, STARTED)


def find(pid: int, key: str, known: int) -> Fd | None:
    """The process of an attempt, unless it is reaped. Known by its start it must name itself."""
    try:
        pidfd = Fd(os.pidfd_open(pid))
        is_it = identity(pid, pidfd, known > 0) == known
        if known < 0:
            is_it &= has_begun(pid, key)
        return pidfd if is_it else None
    except OSError as error:
        if error.errno in GONE + HIDDEN:
            return None
        raise


def has_begun(pid: int, key: str) -> bool:
    """It runs its program: before exec it has the keeper's environment, which is empty."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/environ", "rb") as file:
        return f"CORPS_ATTEMPT={key}".encode() in file.read().split(b"\0")
    return False


def exit_status(pid: int, pidfd: int) -> int | None:
    """The wait status of an ended process that is no child of ours; None if it cannot be known.

    The kernel tells it once the process is reaped. Until then /proc/PID/stat has it, and a pidfd
    that can be signalled afterwards proves that the pid still was this process.
    """
    with contextlib.suppress(OSError):  # a kernel without PIDFD_GET_INFO
        for _ in range(2):
            info = bytearray(PIDFD_INFO.pack(PIDFD_INFO_EXIT, 0))
            fcntl.ioctl(pidfd, PIDFD_GET_INFO, info)
            mask, status = PIDFD_INFO.unpack(info)
            if mask & PIDFD_INFO_EXIT:
                return int(status)
            with contextlib.suppress(OSError):
                with contextlib.suppress(FileNotFoundError):  # a zombie has no cwd,
                    os.readlink(f"/proc/{pid}/cwd")  # but to whom it is hidden its status is 0
                status = _stat(pid, EXIT_CODE)
                signal.pidfd_send_signal(pidfd, 0)
                return status
    return None


def _stat(pid: int, field: int) -> int:
    with open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[field - 3])


def _bytes(value: object) -> bytes:
    """Bytes that are no UTF-8 travel as surrogates; UnicodeEncodeError is a ValueError."""
    data = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else b"\0"
    if b"\0" in data:
        raise ValueError("a value is no text, or has a NUL")
    return data
