"""How far an install is, told a few times a second, and once more when it comes to a halt."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from corps.wire.worker import Progress

EVERY_S = 0.25


class Pulse:
    """`beat` may be called from any thread, and often; `tell` is called in the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, tell: Callable[[Progress], None]) -> None:
        self._loop, self._tell = loop, tell
        self._lock = threading.Lock()
        self._latest: Progress | None = None
        self._is_waiting = False

    def beat(self, progress: Progress) -> None:
        with self._lock:
            self._latest = progress
            if self._is_waiting:
                return
            self._is_waiting = True
        self._loop.call_soon_threadsafe(self._say)

    def _say(self) -> None:
        """Say what is new; then nothing for a while, so as not to say it all."""
        with self._lock:
            latest, self._latest = self._latest, None
            self._is_waiting = latest is not None
        if latest is not None:
            self._tell(latest)
            self._loop.call_later(EVERY_S, self._say)
