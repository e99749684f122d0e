"""Unix seconds that never step back: wall time once, the time since boot ever after.

Being unix-based, saved deadlines survive a restart; counted from the boot (CLOCK_BOOTTIME, which
goes on while the machine sleeps), no step of the wall clock expires or delays anything.
"""

from __future__ import annotations

import time


class Clock:
    """The only reader of time; cores are handed `now`. `began_at` is when the machine booted."""

    def __init__(self, began_at: float | None = None) -> None:
        boot_s = time.clock_gettime(time.CLOCK_BOOTTIME)
        self.began_at = time.time() - boot_s if began_at is None else began_at

    def __call__(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME) + self.began_at
