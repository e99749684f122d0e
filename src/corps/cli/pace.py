"""How fast something goes, and how long it will take: by its last seconds, not its whole life."""

from __future__ import annotations

from collections import deque

WINDOW_S = 5.0


class Pace:
    """Of bytes that become more. What was there at first was not carried."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def add(self, now: float, done_bytes: int) -> None:
        """So much is done now."""
        if self._seen and done_bytes < self._seen[-1][1]:
            self._seen.clear()  # begun anew
        self._seen.append((now, done_bytes))
        while len(self._seen) > 2 and self._seen[1][0] <= now - WINDOW_S:
            self._seen.popleft()

    def rate_bytes_s(self) -> float | None:
        """None when it is too early to tell."""
        (begin, before), (end, after) = self._seen[0], self._seen[-1]
        return (after - before) / (end - begin) if end > begin else None

    def left_s(self, total_bytes: int) -> float | None:
        """None when nothing moves, or nobody knows yet."""
        rate = self.rate_bytes_s()
        return max(0, total_bytes - self._seen[-1][1]) / rate if rate else None
