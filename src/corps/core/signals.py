"""Signals on their way to the keeper: in order, and each answered once, whatever breaks.

The keeper answers in the order of asking. When its connection broke, its listing tells which ones
it had delivered; the others are sent again.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from corps.model.instance import Delivered
from corps.model.name import AttemptKey


class Signal(NamedTuple):
    """`command` None: of a stop or kill, for which nobody waits."""

    number: int
    command: str | None


class Signals:
    """What was asked of the keeper and not answered yet."""

    def __init__(self) -> None:
        self._pending: dict[AttemptKey, list[Signal]] = {}

    def add(self, key: AttemptKey, signal: Signal) -> None:
        self._pending.setdefault(key, []).append(signal)

    def answered(self, key: AttemptKey, number: int) -> Signal | None:
        """The oldest one asked for that this answers."""
        pending = self._pending.get(key, [])
        found = next((signal for signal in pending if signal.number == number), None)
        if found is not None:
            pending.remove(found)
            if not pending:
                del self._pending[key]
        return found

    def listed(
        self, key: AttemptKey, known: tuple[Delivered, ...], now: tuple[Delivered, ...]
    ) -> list[Signal]:
        """Those that were delivered though their answers were lost: more of `now` than `known`."""
        fresh = Counter(sent.signal for sent in now) - Counter(sent.signal for sent in known)
        return [
            signal
            for number, count in sorted(fresh.items())
            for _ in range(count)
            if (signal := self.answered(key, number)) is not None
        ]

    def all(self) -> list[tuple[AttemptKey, Signal]]:
        return [(key, signal) for key, pending in self._pending.items() for signal in pending]

    def drop(self, key: AttemptKey) -> list[Signal]:
        """Nothing can be delivered any more."""
        return self._pending.pop(key, [])
