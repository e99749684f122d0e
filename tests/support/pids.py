"""Pids that are used again: the kernel is told which one to give out next."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

LAST_PID = Path("/proc/sys/kernel/ns_last_pid")
TRIES_MAX = 2_000


@contextlib.contextmanager
def stranger(pid: int) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has this free pid, and means nothing by it. Others fork too: so try again."""
    for _ in range(TRIES_MAX):
        LAST_PID.write_text(str(pid - 1))
        process = subprocess.Popen(["sleep", "1000"])
        if process.pid == pid:
            break
        process.kill()
        process.wait()
    else:
        raise AssertionError(f"pid {pid} was not to be had")
    try:
        yield process
    finally:
        process.kill()
        process.wait()
