"""What the keeper asks of Linux: descriptors that close themselves, pidfds, /proc."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import signal
import struct
from collections.abc import Callable

PIDFD_GET_INFO = 0xC040FF0B  # _IOWR(0xFF, 11, struct pidfd_info), Linux >= 6.13
PIDFD_INFO = struct.Struct("=Q52xi")  # mask first, exit_code last
PIDFD_INFO_EXIT = 1 << 3  # Linux >= 6.15, and only once the process is reaped
STARTED, EXIT_CODE = 22, 52  # fields of /proc/PID/stat, proc_pid_stat(5)
GONE = (errno.ESRCH, errno.EINVAL, errno.ENOENT)  # no such process, or now a mere thread


class Fd:
    """A descriptor that closes with its last reference: never while a message waits with it."""

    def __init__(self, number: int) -> None:
        self.number = number

    def close(self) -> None:
        if self.number >= 0:
            os.close(self.number)
        self.number = -1

    __del__ = close


class Poll:
    """What to do when a descriptor becomes readable. An action must bear a false alarm."""

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self._actions: dict[int, Callable[[], None]] = {}

    def watch(self, fd: int, action: Callable[[], None]) -> None:
        self._actions[fd] = action
        self.epoll.register(fd, select.EPOLLIN)

    def unwatch(self, fd: int) -> None:
        del self._actions[fd]
        self.epoll.unregister(fd)

    def turn(self, timeout_s: float) -> None:
        for fd, _ in self.epoll.poll(timeout_s):
            if fd in self._actions:
                self._actions[fd]()


def log(text: str) -> None:
    """One line on stderr; dropped when it would block or nobody reads there."""
    with contextlib.suppress(OSError):
        if select.select([], [2], [], 0)[1]:
            os.write(2, f"corps keeper: {text}\n".encode(errors="backslashreplace"))


def has_ended(pidfd: Fd) -> bool:
    """The whole process has exited, reaped or not."""
    poll = select.poll()
    poll.register(pidfd.number, select.POLLIN)
    return bool(poll.poll(0))


def stat(pid: int, field: int) -> int:
    with open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[field - 3])


def find(pid: int, key: str, inode: int, started: int) -> Fd | None:
    """The process of an attempt, if it is not reaped. Without pidfs inodes it must name itself."""
    try:
        pidfd = Fd(os.pidfd_open(pid))
        if inode:
            return pidfd if os.fstat(pidfd.number).st_ino == inode else None
        with open(f"/proc/{pid}/environ", "rb") as file:
            is_named = f"CORPS_ATTEMPT={key}".encode() in file.read().split(b"\0")
        return pidfd if is_named and stat(pid, STARTED) == started else None
    except OSError as error:
        if error.errno in GONE:
            return None
        raise


def exit_status(pid: int, pidfd: Fd) -> int | None:
    """The wait status of an ended process that is no child of ours; None if it cannot be known.

    The kernel tells it once the process is reaped. Until then /proc/PID/stat has it, and a pidfd
    that can be signalled afterwards proves that the pid still was this process.
    """
    with contextlib.suppress(OSError):  # a kernel without PIDFD_GET_INFO
        for _ in range(2):
            info = bytearray(PIDFD_INFO.pack(PIDFD_INFO_EXIT, 0))
            fcntl.ioctl(pidfd.number, PIDFD_GET_INFO, info)
            mask, status = PIDFD_INFO.unpack(info)
            if mask & PIDFD_INFO_EXIT:
                return int(status)
            with contextlib.suppress(OSError):
                status = stat(pid, EXIT_CODE)
                signal.pidfd_send_signal(pidfd.number, 0)
                return status
    return None
