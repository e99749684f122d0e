"""Was it the OOM killer? The kernel's log names its victims; without it a counter makes it likely.

/dev/kmsg gives one record for each read, oldest first, and never blocks us: it is read on from
where we were. Only the kernel's own records count: anyone with root can write others.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

KMSG = "/dev/kmsg"
RECORD_BYTES = 8_192  # CONSOLE_EXT_LOG_MAX
RECORDS_MAX = 20_000  # of one look: more than a ring buffer holds
VICTIMS_KEPT = 1_000
COUNT_EVERY_S = 5.0
FRESH_S = 0.1
COUNTS_KEPT = 3
SLACK_S = 5.0  # the kernel's log and wall clock drift apart a little
INITIAL_PID_NAMESPACE = "pid:[4026531836]"  # PROC_PID_INIT_INO
_KILLED = re.compile(r"Killed process (\d+) \(")
_CHOSEN = re.compile(r"oom-kill:.*,pid=(\d+),")


class Victim(NamedTuple):
    """A process that the OOM killer ended, and what the kernel said of it."""

    pid: int
    at: float
    text: str


class OomWatch:
    """What is known of the OOM killer on this machine."""

    def __init__(self, clock: Callable[[], float], kmsg: str = KMSG, proc: str = "/proc") -> None:
        self._clock, self._proc = clock, proc
        self._kmsg: int | None = None
        self._victims: deque[Victim] = deque(maxlen=VICTIMS_KEPT)
        self._kills: int | None = None
        self._read_at = float("-inf")
        self._counts: deque[tuple[float, int]] = deque(maxlen=COUNTS_KEPT)
        if _sees_all_pids(proc):  # else the pids in the kernel's log are not those we know
            # Hidden by kernel.dmesg_restrict, or not there: then the counter must do.
            with contextlib.suppress(OSError):
                self._kmsg = os.open(kmsg, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self.count()

    def close(self) -> None:
        if self._kmsg is not None:
            os.close(self._kmsg)
            self._kmsg = None

    def count(self) -> None:
        """Remember how often it struck so far: to be called at times, so that `since` is near."""
        now = self._clock()
        if self._counts and now - self._counts[-1][0] < COUNT_EVERY_S:
            return
        number = kills(self._proc)
        if number is not None:
            self._counts.append((now, number))

    def victim(self, pid: int, since: float) -> str | None:
        """What the kernel's log says of the end of this process, which began at `since`."""
        self._read_on()
        for victim in reversed(self._victims):
            if victim.pid == pid and victim.at >= since - SLACK_S:
                return f"the kernel's log: {victim.text}"
        return None

    def suspicion(self) -> str | None:
        """That it struck somebody lately, when nobody says whom."""
        number = self._fresh_kills()
        if number is None or not self._counts or number <= self._counts[0][1]:
            return None
        since, before = self._counts[0]
        struck = number - before
        times = "1 time" if struck == 1 else f"{struck} times"
        return (
            f"the machine's OOM killer struck {times} in the {self._clock() - since:.0f} s before: "
            "it may have been this one"
        )

    def _fresh_kills(self) -> int | None:
        """/proc/vmstat is long: one reading serves a burst of deaths."""
        now = self._clock()
        if now - self._read_at >= FRESH_S:
            self._read_at, self._kills = now, kills(self._proc)
        return self._kills

    def _read_on(self) -> None:
        # printk(9) stamps by a clock that nobody slews.
        booted_at = time.time() - time.clock_gettime(time.CLOCK_MONOTONIC_RAW)
        for _ in range(RECORDS_MAX if self._kmsg is not None else 0):
            assert self._kmsg is not None
            try:
                record = os.read(self._kmsg, RECORD_BYTES)
            except OSError as error:
                if error.errno == errno.EPIPE:  # overwritten before we came: go on behind it
                    continue
                return
            if not record:
                return
            victim = parse_record(record, booted_at)
            if victim is not None:
                self._victims.append(victim)


def parse_record(record: bytes, booted_at: float) -> Victim | None:
    """`6,339,5140900,-;TEXT`: priority and facility, number, microseconds since boot; None for
    what is not of the kernel or names no victim. Documentation/ABI/testing/dev-kmsg."""
    prefix, _, rest = record.partition(b";")
    fields = prefix.split(b",")
    if len(fields) < 3 or not fields[0].isdigit() or not fields[2].isdigit():
        return None
    if int(fields[0]) >> 3 != 0:  # LOG_KERN
        return None
    text = rest.split(b"\n", 1)[0].decode("utf-8", "backslashreplace")
    found = _KILLED.search(text) or _CHOSEN.search(text)
    if found is None:
        return None
    return Victim(int(found[1]), booted_at + int(fields[2]) / 1e6, text[:300])


def kills(proc: str = "/proc") -> int | None:
    """`oom_kill` of /proc/vmstat: how often since boot."""
    try:
        with open(f"{proc}/vmstat", "rb") as file:
            _, found, rest = file.read().partition(b"\noom_kill ")
    except OSError:
        return None
    return int(rest.split(None, 1)[0]) if found else None


def _sees_all_pids(proc: str) -> bool:
    try:
        return os.readlink(f"{proc}/self/ns/pid") == INITIAL_PID_NAMESPACE
    except OSError:
        return False
