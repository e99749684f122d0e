"""Limits that no cgroup can hold here and that were asked for all the same: looked at, not held.

Each second the resident sets and the threads of a whole tree are added up. What exceeds its limit
is killed, and the keeper keeps why. Between two looks a tree may take what it likes.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from signal import SIGKILL
from typing import NamedTuple

from corps.model.measure import size
from corps.model.name import AttemptKey
from corps.wire import keeper

EVERY_S = 1.0
STAT_BYTES, ENVIRON_BYTES = 4_096, 1 << 20
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
PPID, SESSION, THREADS, RSS = 1, 3, 17, 21  # proc_pid_stat(5), counted after the command's ")"


class Watched(NamedTuple):
    pid: int
    limits: dict[str, int]  # by name: `memory` in bytes, `pids`


class Process(NamedTuple):
    parent: int
    session: int
    threads: int
    rss_bytes: int


class Watchdog:
    """`send` is the way to the keeper."""

    def __init__(self, send: Callable[[keeper.SendSignal], None]) -> None:
        self._send = send
        self._watched: dict[AttemptKey, Watched] = {}
        self._keeper_pid = 0
        self._look_at = 0.0
        self._is_looking = False

    def keeper_said(self, message: keeper.FromKeeper) -> None:
        match message:
            case keeper.Spawned():
                self._watch(message.key, message.pid, message.watched)
            case keeper.Listing():
                self._keeper_pid = message.keeper_pid
                for kept in message.attempts:
                    self._watch(kept.key, kept.pid, kept.watched if kept.is_live else {})
            case keeper.Ended():
                self._watched.pop(message.attempt.key, None)
            case _:
                pass

    def is_due(self, now: float) -> bool:
        if not self._watched or self._is_looking or now < self._look_at:
            return False
        self._look_at = now + EVERY_S
        return True

    async def look(self) -> None:
        """One look at all of /proc, in a thread; the keeper signals, by pidfd and by key."""
        self._is_looking = True
        try:
            found = await asyncio.to_thread(exceeding, dict(self._watched), self._keeper_pid)
        finally:
            self._is_looking = False
        for key, reason in found.items():
            if key in self._watched:
                self._send(keeper.SendSignal(key=key, signal=SIGKILL, note=reason))

    def _watch(self, key: AttemptKey, pid: int, limits: dict[str, int]) -> None:
        if limits:
            self._watched[key] = Watched(pid, limits)
        else:
            self._watched.pop(key, None)


def exceeding(watched: dict[AttemptKey, Watched], keeper_pid: int) -> dict[AttemptKey, str]:
    """Those whose trees exceed a limit, and which in words."""
    table = {int(name): _read(name) for name in os.listdir("/proc") if name.isdigit()}
    living = {pid: process for pid, process in table.items() if process is not None}
    orphans = [pid for pid, process in living.items() if process.parent == keeper_pid]
    found: dict[AttemptKey, str] = {}
    for key, one in watched.items():
        tree = [living[pid] for pid in _tree(key, one.pid, living, orphans)]
        threads = sum(process.threads for process in tree)
        used_bytes = sum(process.rss_bytes for process in tree)
        if used_bytes > one.limits.get("memory", used_bytes):
            most = size(one.limits["memory"])
            found[key] = f"memory {size(used_bytes)}, at most {most} (watchdog)"
        elif threads > one.limits.get("pids", threads):
            found[key] = f"pids {threads}, at most {one.limits['pids']} (watchdog)"
    return found


def _tree(key: AttemptKey, leader: int, living: dict[int, Process], orphans: list[int]) -> set[int]:
    """The leader, its session, orphans that name its attempt, and all their descendants."""
    tree = {pid for pid, process in living.items() if leader in (pid, process.session)}
    tree |= {pid for pid in orphans if pid not in tree and _names(pid, key)}
    is_growing = True
    while is_growing:
        more = {pid for pid, process in living.items() if process.parent in tree} - tree
        tree |= more
        is_growing = bool(more)
    return tree


def _names(pid: int, key: AttemptKey) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return f"CORPS_ATTEMPT={key}".encode() in file.read(ENVIRON_BYTES).split(b"\0")
    except OSError:
        return False


def _read(name: str) -> Process | None:
    try:
        with open(f"/proc/{name}/stat", "rb", buffering=0) as file:
            words = file.read(STAT_BYTES).rpartition(b")")[2].split()
    except OSError:
        return None
    if len(words) <= RSS:
        return None
    threads, rss_bytes = int(words[THREADS]), int(words[RSS]) * PAGE_BYTES
    return Process(int(words[PPID]), int(words[SESSION]), threads, rss_bytes)
