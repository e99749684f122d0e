"""The world: one heap of what will happen, one clock, one source of chance, one trace."""

from __future__ import annotations

import hashlib
import heapq
from collections import deque
from collections.abc import Callable
from random import Random

START_S = 1_750_000_000.0
TRACE_KEPT = 50


class Broken(AssertionError):
    """A rule that must always hold did not."""


class World:
    """Virtual time. What is due at one moment happens in the order in which it was planned."""

    def __init__(self, seed: int, say: Callable[[str], None] | None = None) -> None:
        self.rng = Random(seed)
        self.now = START_S
        self.is_calm = False
        self.trace: deque[str] = deque(maxlen=TRACE_KEPT)
        self.happenings = 0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._planned = 0
        self._say = say
        self._digest = hashlib.blake2b(digest_size=16)

    @property
    def digest(self) -> str:
        """Names everything that happened so far."""
        return self._digest.hexdigest()

    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        self._planned += 1
        heapq.heappush(self._heap, (self.now + delay_s, self._planned, action))

    def note(self, who: str, text: str) -> None:
        line = f"{self.now - START_S:9.4f} {who:8} {text}"
        self.trace.append(line)
        self._digest.update(line.encode())
        if self._say is not None:
            self._say(line)

    def run(self, duration_s: float) -> None:
        """Let `duration_s` pass."""
        end = self.now + duration_s
        while self._heap and self._heap[0][0] <= end:
            self.now, _, action = heapq.heappop(self._heap)
            self.happenings += 1
            action()
        self.now = end

    def chance(self, probability: float) -> bool:
        """True so often, as long as things go wrong at all."""
        return not self.is_calm and self.rng.random() < probability

    def delay(self, least_s: float, most_s: float) -> float:
        return self.rng.uniform(least_s, most_s)

    def require(self, truth: bool, rule: str) -> None:
        if not truth:
            raise Broken(rule)
