"""Swarm: in which units an artifact travels, and which unit a worker asks of whom.

A unit is a piece of a large file, or some small files together. The master is asked for any one of
those that are lacking, and sends what it has sent least; a peer is asked for a unit that it has
and few others have. Sets of units are integers, a bit for each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from random import Random
from typing import NamedTuple, TypeAlias

from corps.model.artifact import Manifest
from corps.model.name import Digest
from corps.model.pieces import PIECE_BYTES, piece_count, piece_span

Units: TypeAlias = int
PeerAddress: TypeAlias = str

UNIT_FILES_MAX = 1_000
PEERS_MAX = 12
SAMPLE_MAX = 64
LATE_TIMES = 3.0
LATE_MIN_S = 1.0
LATE_FIRST_S = 10.0  # as long as none has come
WEIGHT = 0.2  # of the newest of the times that units took
MASTER = "master"


class Part(NamedTuple):
    """Bytes of one blob."""

    digest: Digest
    offset: int
    size_bytes: int
    blob_bytes: int

    @property
    def is_whole(self) -> bool:
        """The digest proves it; else the list of the blob's pieces does."""
        return self.size_bytes == self.blob_bytes


Unit: TypeAlias = tuple[Part, ...]


def plan(manifest: Manifest) -> tuple[Unit, ...]:
    """The units of an artifact: the same wherever its manifest is the same."""
    sizes = {entry.digest: entry.size_bytes for entry in manifest.files}
    units: list[Unit] = []
    small: list[Part] = []
    for digest, size_bytes in sizes.items():
        if size_bytes > PIECE_BYTES:
            units.extend(_pieces(digest, size_bytes))
            continue
        filled_bytes = sum(part.size_bytes for part in small)
        if filled_bytes + size_bytes > PIECE_BYTES or len(small) == UNIT_FILES_MAX:
            units.append(tuple(small))
            small = []
        small.append(Part(digest, 0, size_bytes, size_bytes))
    if small:
        units.append(tuple(small))
    return tuple(units)


def unit_bytes(unit: Unit) -> int:
    return sum(part.size_bytes for part in unit)


def as_set(units: Iterable[int]) -> Units:
    found = 0
    for unit in units:
        found |= 1 << unit
    return found


def members(units: Units) -> Iterator[int]:
    """The units of a set, from the first on."""
    while units:
        lowest = units & -units
        yield lowest.bit_length() - 1
        units ^= lowest


class Swarm:
    """What one worker asks, until it has all `count` units.

    A unit is asked of one at a time; only one that is late is asked of a second, and by whoever
    has nothing else to be asked for. So one that is slow or silent costs a unit, no more.
    """

    def __init__(self, count: int, have: Units, rng: Random) -> None:
        self.all: Units = (1 << count) - 1
        self.have = have & self.all
        self._rng = rng
        self._held: dict[PeerAddress, Units] = {}
        self._asked: dict[int, dict[PeerAddress, float]] = {}  # unit -> of whom, and when
        self._flying: Units = 0
        self._typical_s: float | None = None

    @property
    def is_done(self) -> bool:
        return self.have == self.all

    @property
    def lacking(self) -> Units:
        return self.all & ~self.have

    def holds(self, peer: PeerAddress, units: Units) -> None:
        """What `peer` has, as it says."""
        self._held[peer] = units & self.all

    def known(self, peer: PeerAddress) -> Units:
        return self._held.get(peer, 0)

    def next_of(self, peer: PeerAddress, now: float) -> int | None:
        """The unit to ask of a peer now; None when it has nothing that is needed."""
        held = self._held.get(peer, 0) & self.lacking
        unit = self._rarest(held & ~self._flying)
        if unit is None:
            unit = self._late(held, peer, now)
        if unit is not None:
            self.asked(peer, unit, now)
        return unit

    def wanted(self, now: float) -> Units:
        """The units of which the master may send any."""
        free = self.lacking & ~self._flying
        if free:
            return free
        late = self._late(self.lacking, MASTER, now)
        return 0 if late is None else 1 << late

    def asked(self, source: PeerAddress, unit: int, now: float) -> None:
        """`source` was asked for this unit, or says that it comes."""
        self._asked.setdefault(unit, {})[source] = now
        self._flying |= 1 << unit

    def arrived(self, source: PeerAddress, unit: int, now: float) -> None:
        """It is here, verified."""
        asked_at = self._asked.get(unit, {}).get(source)
        if asked_at is not None:
            took_s = now - asked_at
            before_s = took_s if self._typical_s is None else self._typical_s
            self._typical_s = before_s + WEIGHT * (took_s - before_s)
        self._asked.pop(unit, None)
        self._flying &= ~(1 << unit)
        self.have |= 1 << unit

    def failed(self, source: PeerAddress, unit: int) -> None:
        """It does not come from there: others may be asked at once."""
        asked = self._asked.get(unit, {})
        asked.pop(source, None)
        if not asked:
            self._asked.pop(unit, None)
            self._flying &= ~(1 << unit)

    def left(self, source: PeerAddress) -> None:
        """It is gone, or is not to be asked any more."""
        self._held.pop(source, None)
        for unit in [unit for unit, asked in self._asked.items() if source in asked]:
            self.failed(source, unit)

    def _rarest(self, units: Units) -> int | None:
        """Of a sample, with chance between equals: else all workers would want the same one."""
        held = tuple(self._held.values())
        best: tuple[int, float, int] | None = None
        for unit in self._sample(units):
            rarity = (sum(units >> unit & 1 for units in held), self._rng.random(), unit)
            if best is None or rarity < best:
                best = rarity
        return None if best is None else best[2]

    def _sample(self, units: Units) -> Iterator[int]:
        if units.bit_count() > SAMPLE_MAX:
            start = self._rng.randrange(units.bit_length())
            units = units >> start << start or units
        for _, unit in zip(range(SAMPLE_MAX), members(units), strict=False):
            yield unit

    def _late(self, units: Units, source: PeerAddress, now: float) -> int | None:
        """A unit that was asked of one other and takes far longer than units do."""
        typical_s = self._typical_s
        late_s = LATE_FIRST_S if typical_s is None else max(LATE_MIN_S, LATE_TIMES * typical_s)
        for unit in members(units & self._flying):
            asked = self._asked[unit]
            if len(asked) == 1 and source not in asked and now - max(asked.values()) > late_s:
                return unit
        return None


def _pieces(digest: Digest, size_bytes: int) -> Iterator[Unit]:
    for index in range(piece_count(size_bytes)):
        offset, count = piece_span(index, size_bytes)
        yield (Part(digest, offset, count, size_bytes),)
