"""Unix seconds that never step back: wall time once, monotonic ever after.

Being unix-based, saved deadlines survive a restart; being monotonic, an NTP step expires nothing.
"""

from __future__ import annotations

import datetime
import time


class Clock:
    """The only reader of time; cores are handed `now`."""

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def __call__(self) -> float:
        return time.monotonic() + self._offset


def rfc3339(at: float) -> str:
    """`2026-11-23T13:28:00.123Z`."""
    moment = datetime.datetime.fromtimestamp(at, tz=datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
