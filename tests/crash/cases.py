"""What is under way when a daemon is killed, and what must be true afterwards.

An operation begins with a command, a signal or the start of a worker, and is over when an operator
has the answer and the keeper may forget a death. The witness keeps a ledger of its own, outside of
corps: what corps says is held against it.
"""

from __future__ import annotations

import itertools
from collections import Counter
from enum import StrEnum
from pathlib import Path

import msgspec


class Victim(StrEnum):
    KEEPER = "keeper"
    WORKER = "worker"
    MASTER = "master"


class Operation(StrEnum):
    """exit: the app ends by itself, is reaped and reported. report: it did so while its worker
    was away, which now starts, lists it, and is told to forget."""

    LAUNCH = "launch"
    STOP = "stop"
    KILL = "kill"
    EXIT = "exit"
    REPORT = "report"


class Promise(StrEnum):
    """What must never be. Each is counted beside how often it was looked for."""

    DOUBLED = "attempts run twice"
    APP_LOST = "apps lost"
    STATUS_LOST = "exit statuses lost"
    COMMAND_LOST = "acknowledged commands lost"
    CAUSE_WRONG = "causes of death wrong"
    STRAY = "signals to another than the target"
    REMAINS = "deaths that the keeper was never told to forget"


class Case(msgspec.Struct, frozen=True):
    """`victims`: the first is stopped at its system calls, all are killed at once."""

    operation: Operation
    victims: tuple[Victim, ...]

    @property
    def name(self) -> str:
        return f"{self.operation} x {'+'.join(self.victims)}"

    @property
    def may_be_unknown(self) -> bool:
        """An app that ends while neither its keeper nor its worker is there is seen by nobody."""
        ends = self.operation in (Operation.STOP, Operation.KILL, Operation.EXIT)
        return ends and {Victim.KEEPER, Victim.WORKER} <= set(self.victims)


SINGLES = tuple((victim,) for victim in Victim)
PAIRS = tuple(itertools.permutations(Victim, 2))
CASES = tuple(Case(operation, victims) for operation in Operation for victims in SINGLES + PAIRS)


class Tally(msgspec.Struct):
    """Counts over many kills. `unknown` deaths are no fault where nobody could see them."""

    kills: int = 0
    looked: dict[str, int] = msgspec.field(default_factory=lambda: dict.fromkeys(Promise, 0))
    broken: dict[str, int] = msgspec.field(default_factory=lambda: dict.fromkeys(Promise, 0))
    unknown: int = 0
    refused: int = 0
    stories: list[str] = []

    def hold(self, promise: Promise, is_kept: bool, story: object) -> None:
        """One look at one promise."""
        self.looked[promise] += 1
        if not is_kept:
            self.broken[promise] += 1
            self.stories.append(f"{promise}: {story}")

    def add(self, other: Tally) -> None:
        self.kills += other.kills
        for promise in Promise:
            self.looked[promise] += other.looked[promise]
            self.broken[promise] += other.broken[promise]
        self.unknown += other.unknown
        self.refused += other.refused
        self.stories += other.stories

    @property
    def is_clean(self) -> bool:
        return not any(self.broken.values())


class Ledger:
    """What the witnesses wrote: which attempt ran as which pid."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def pids(self, key: str) -> list[int]:
        return [int(pid) for written, pid in self._lines() if written == key]

    def runs(self) -> Counter[str]:
        """How often each attempt ran."""
        return Counter(word for word, _ in self._lines() if not word.startswith("signal:"))

    def strays(self) -> list[str]:
        """The signals that somebody got whom nobody meant."""
        return [word for word, _ in self._lines() if word.startswith("signal:")]

    def _lines(self) -> list[tuple[str, str]]:
        if not self.path.exists():
            return []
        lines = [line.partition(" ") for line in self.path.read_text().splitlines()]
        return [(word, pid) for word, _, pid in lines]
