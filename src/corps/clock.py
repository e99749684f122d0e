"""Unix seconds that never step back: wall time once, monotonic ever after.

Being unix-based, saved deadlines survive a restart; being monotonic, an NTP step expires nothing.
"""

from __future__ import annotations

import time


class Clock:
    """The only reader of time; cores are handed `now`."""

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def __call__(self) -> float:
        return time.monotonic() + self._offset
