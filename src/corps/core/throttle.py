"""Throttle: how many of the deeds that cost whoever does them nothing are written one by one.

Else a stranger who knocks without end would fill the trail, and push the rest out of it.
"""

from __future__ import annotations

WINDOW_S = 60.0
OF_ONE_MAX = 20  # from one source in a window
OF_ALL_MAX = 200
SOURCES_MAX = 1_000
OTHERS = "others"


class Throttle:
    """Counts by source, for one window after the other."""

    def __init__(self) -> None:
        self._began_at = 0.0
        self._admitted = 0
        self._of: dict[str, int] = {}
        self._left_out: dict[str, int] = {}

    def admits(self, source: str, now: float) -> bool:
        """False: it only counts. Call `left_out` first."""
        if not self._of:
            self._began_at = now
        if source not in self._of and len(self._of) >= SOURCES_MAX:
            source = OTHERS
        count = self._of[source] = self._of.get(source, 0) + 1
        if count > OF_ONE_MAX or self._admitted >= OF_ALL_MAX:
            self._left_out[source] = self._left_out.get(source, 0) + 1
            return False
        self._admitted += 1
        return True

    def left_out(self, now: float) -> dict[str, int]:
        """Those that only counted, by source, once their window is over."""
        if not self._of or now - self._began_at < WINDOW_S:
            return {}
        left_out = self._left_out
        self._admitted, self._of, self._left_out = 0, {}, {}
        return left_out
