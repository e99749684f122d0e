"""The reserve: room that is kept free where a worker has its state.

Below it the heads of logs are given up, the largest first; when that is not enough, nothing new
is launched or installed until there is room again.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable

from corps.wire.output import Note

SHARE = 0.05
DEFAULT_MAX_BYTES = 1 << 30
FLOOR_BYTES = 1 << 20  # what each stream keeps all the same
HEADROOM = 1.25  # of the reserve, when there is something to give up: not a block at a time
SCAN_EVERY_S = 1.0

_log = logging.getLogger("corps.worker")
Shrink = Callable[[], int]


class Reserve:
    """`shrinkable` names what can be given up: its size on disk, and how."""

    def __init__(
        self,
        directory: str,
        reserve_bytes: int | None,
        shrinkable: Callable[[], Iterable[tuple[int, Shrink]]],
    ) -> None:
        self._directory, self._wanted_bytes = directory, reserve_bytes
        self._shrinkable = shrinkable
        self._scan_at = 0.0
        self.refusal: str | None = None

    def check(self, now: float) -> list[Note]:
        """Look at the disk, and act; an event when launches begin or cease to be refused."""
        free_bytes, reserve_bytes = self._room()
        if free_bytes < reserve_bytes and now >= self._scan_at:
            self._scan_at = now + SCAN_EVERY_S
            self._give_up(int(reserve_bytes * HEADROOM) - free_bytes)
            free_bytes, reserve_bytes = self._room()
        was_low = self.refusal is not None
        if free_bytes >= reserve_bytes:
            self.refusal = None
            if was_low:
                text = f"{free_bytes} bytes are free again: launches and installs go on"
                return [Note(kind="disk-ok", subject=None, message=text)]
            return []
        self.refusal = (
            f"the disk of {self._directory} is nearly full: {free_bytes} bytes are free, "
            f"{reserve_bytes} are kept in reserve; make room, or say --disk-reserve"
        )
        if was_low:
            return []
        return [Note(kind="disk-low", subject=None, message=f"nothing new starts: {self.refusal}")]

    def _room(self) -> tuple[int, int]:
        """Free bytes and the reserve. A filesystem that tells no size has no end: ramfs."""
        try:
            found = os.statvfs(self._directory)
        except OSError:  # its disk is gone: that is told by everything else
            return 0, 0
        total_bytes = found.f_blocks * found.f_frsize
        if not total_bytes:
            return 0, 0
        reserve_bytes = self._wanted_bytes
        if reserve_bytes is None:
            reserve_bytes = min(DEFAULT_MAX_BYTES, int(total_bytes * SHARE))
        return found.f_bavail * found.f_frsize, reserve_bytes

    def _give_up(self, wanted_bytes: int) -> None:
        freed_bytes = 0
        for _, shrink in sorted(self._shrinkable(), key=lambda item: -item[0]):
            freed_bytes += shrink()
            if freed_bytes >= wanted_bytes:
                break
        if freed_bytes:
            _log.warning("the disk is nearly full: %d bytes of old output given up", freed_bytes)
