"""Live usage of attempts, read by hand from /proc with descriptors that stay open.

A descriptor of /proc/PID/stat belongs to one process for ever: after its death it reads ESRCH,
never a stranger who got the same pid. 500 processes take 3 ms a sweep.
"""

from __future__ import annotations

import errno
import os
import select
from contextlib import suppress

from corps.model.instance import RssSource, Usage
from corps.model.name import AttemptKey
from corps.wire.worker import LiveUsage
from corps.worker.census import Leader, leader

READ_BYTES = 4_096
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
OS_STATES = {
    "R": "running",
    "S": "sleeping",
    "D": "disk_sleep",
    "T": "stopped",
    "t": "stopped",
    "Z": "zombie",
    "X": "zombie",
    "I": "idle",
}
FULL = (errno.EMFILE, errno.ENFILE)
UTIME, STIME, RSS = 11, 12, 21  # fields of proc_pid_stat(5) counted after the command's ")"


class Processes:
    """The processes under watch: for each its pidfd (ours to close) and its /proc files."""

    def __init__(self) -> None:
        self._watched: dict[AttemptKey, tuple[int, int, int]] = {}
        self._unsampled: dict[AttemptKey, None] = {}
        self._peaks: dict[AttemptKey, int] = {}
        self._leaders: dict[AttemptKey, Leader] = {}

    def watch(self, key: AttemptKey, pid: int, pidfd: int) -> bool:
        """Take over `pidfd`. Nothing is opened for a process that is gone already.

        False: no descriptor was left to watch it by.
        """
        self.drop(key)
        try:
            stat = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            os.close(pidfd)
            return error.errno not in FULL
        try:
            status = os.open(f"/proc/{pid}/status", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            os.close(stat)
            os.close(pidfd)
            return error.errno not in FULL
        self._watched[key] = (pidfd, stat, status)
        self._unsampled[key] = None
        with suppress(ProcessLookupError):
            self._leaders[key] = leader(pid, os.pread(stat, READ_BYTES, 0))
        if _has_ended(pidfd):
            # The pid may have been given to somebody else before we opened its files.
            self.drop(key)
        return True

    def pidfd(self, key: AttemptKey) -> int | None:
        watched = self._watched.get(key)
        return watched[0] if watched else None

    def leaders(self) -> dict[AttemptKey, Leader]:
        """The first process of each attempt under watch."""
        return dict(self._leaders)

    def drop(self, key: AttemptKey) -> None:
        self._leaders.pop(key, None)
        self._unsampled.pop(key, None)
        self._peaks.pop(key, None)
        for fd in self._watched.pop(key, ()):
            os.close(fd)

    def sample(
        self, keys: tuple[AttemptKey, ...] | None, *, with_peaks: bool = True
    ) -> list[LiveUsage]:
        """What /proc says now of these (None: all); one that has ended is left out.

        Without `with_peaks` the peak is the last one taken, at most some seconds old.
        """
        return [
            live
            for key in (list(self._watched) if keys is None else keys)
            if key in self._watched and (live := self._read(key, with_peaks)) is not None
        ]

    def peaks(self, *, whole: bool) -> tuple[tuple[AttemptKey, int], ...]:
        """VmHWM in bytes of all, or only of those that were never asked."""
        keys = list(self._watched if whole else self._unsampled)
        self._unsampled.clear()
        return tuple((key, peak) for key in keys if (peak := self._peak(key)) is not None)

    def close(self) -> None:
        for key in list(self._watched):
            self.drop(key)

    def _peak(self, key: AttemptKey) -> int | None:
        peak = _peak_bytes(self._watched[key][2])
        if peak is not None:
            self._peaks[key] = peak
        return peak

    def _read(self, key: AttemptKey, with_peaks: bool) -> LiveUsage | None:
        try:
            line = os.pread(self._watched[key][1], READ_BYTES, 0)
        except ProcessLookupError:
            return None
        peak_bytes = self._peak(key) if with_peaks else self._peaks.get(key)
        return _live_usage(key, line, peak_bytes)


def _live_usage(key: AttemptKey, line: bytes, peak_bytes: int | None) -> LiveUsage:
    """From a line of proc_pid_stat(5); the command in it may hold spaces and brackets."""
    fields = line[line.rindex(b")") + 2 :].split(None, RSS + 1)
    rss_bytes = int(fields[RSS]) * PAGE_BYTES
    return LiveUsage(
        key=key,
        os_state=OS_STATES.get(fields[0].decode(), "idle"),
        usage=Usage(
            cpu_user_s=int(fields[UTIME]) / TICKS_PER_S,
            cpu_system_s=int(fields[STIME]) / TICKS_PER_S,
            max_rss_bytes=None if peak_bytes is None else max(peak_bytes, rss_bytes),
            rss_bytes=rss_bytes,
            max_rss_source=None if peak_bytes is None else RssSource.SAMPLED,
        ),
    )


def _peak_bytes(status: int) -> int | None:
    """VmHWM of proc_pid_status(5): the peak of the program itself, not of the image before exec."""
    try:
        text = os.pread(status, READ_BYTES, 0)
    except ProcessLookupError:
        return None
    at = text.find(b"VmHWM:")
    if at < 0:
        return None  # a zombie has no memory any more
    return int(text[at + 6 : text.index(b"kB", at)]) * 1024


def _has_ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))
