"""Pace: at most so many bytes in a second, over all threads that share it."""

from __future__ import annotations

import threading

from corps.clock import Clock

BURST_S = 0.1


class Pace:
    """`is_over` ends every wait at once."""

    def __init__(self, rate_bytes_s: int, is_over: threading.Event | None = None) -> None:
        self._rate_bytes_s = rate_bytes_s
        self._is_over = is_over or threading.Event()
        self._clock = Clock()
        self._lock = threading.Lock()
        self._free_at = self._clock()

    def spend(self, count: int) -> None:
        """Returns when so many bytes more may have travelled."""
        with self._lock:
            now = self._clock()
            self._free_at = max(self._free_at, now - BURST_S) + count / self._rate_bytes_s
            wait_s = self._free_at - now
        if wait_s > 0:
            self._is_over.wait(wait_s)
