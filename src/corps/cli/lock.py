"""Who holds the lock of a daemon's directory, and ending exactly that process.

Master and worker hold POSIX locks, so F_GETLK names the holder; a keeper holds a BSD lock, which
/proc/locks names. A pid is only believed while a pidfd of it is open and it still holds the lock.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_FLOCK = struct.Struct("hhqqi4x")  # struct flock of fcntl(2) where off_t has 64 bits


def holder(path: Path) -> int | None:
    """The pid of the daemon that holds the POSIX lock `path`."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_GETLK, asked))
    finally:
        os.close(fd)
    return None if kind == fcntl.F_UNLCK else int(pid)


def keeper_holder(path: Path) -> int | None:
    """The pid of the keeper that holds the BSD lock `path`, as proc_locks(5) says."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
    for line in Path("/proc/locks").read_text().splitlines():
        words = line.split()
        if words[1] == "FLOCK" and words[5] == f"{device}:{status.st_ino}":
            return int(words[4])
    return None


class Holder:
    """The process that held a lock when it was found. Its pidfd means no other, ever."""

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self._pidfd = pidfd

    @staticmethod
    def find(path: Path, find: Callable[[Path], int | None]) -> Holder | None:
        """Who holds `path`, as `find` says."""
        pid = find(path)
        if not pid:
            return None
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return None
        if find(path) != pid:  # held after the pidfd was opened: then it is the pidfd's process
            os.close(pidfd)
            return None
        return Holder(pid, pidfd)

    def send(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, number)

    def is_gone(self, within_s: float = 0.0) -> bool:
        """It has ended, a zombie at most."""
        poller = select.poll()
        poller.register(self._pidfd, select.POLLIN)
        return bool(poller.poll(within_s * 1000))

    def close(self) -> None:
        os.close(self._pidfd)
