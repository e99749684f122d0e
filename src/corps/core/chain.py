"""Chain: the end of the audit trail. Its entries are in the store alone."""

from __future__ import annotations

from typing import assert_never

from corps.model.trail import (
    GENESIS,
    Deed,
    TrailEntry,
    TrailHead,
    TrailMark,
    TrailRecord,
    hash_line,
    line_of,
)

LEAF = 1_000  # entries between two marks, and dropped at once
LEAVES_KEPT = 100


class Chain:
    """Table of a Cluster: only that one changes it."""

    def __init__(self) -> None:
        self.head = TrailHead(seq=0, hash=GENESIS)
        self.marks: dict[int, TrailMark] = {}

    def put(self, record: TrailRecord) -> None:
        match record:
            case TrailEntry():
                if record.seq > self.head.seq:
                    self.head = TrailHead(seq=record.seq, hash=hash_line(line_of(record)))
            case TrailHead():
                if record.seq >= self.head.seq:
                    self.head = record
            case TrailMark():
                self.marks[record.seq] = record
            case _:
                assert_never(record)

    def drop(self, record: TrailRecord) -> None:
        """A mark goes with the entries up to it."""
        assert isinstance(record, TrailMark), "the trail is cut at its marks alone"
        del self.marks[record.seq]

    def surplus(self) -> TrailMark | None:
        """Where to cut, because the trail is longer than what is kept."""
        return self.marks[min(self.marks)] if len(self.marks) > LEAVES_KEPT else None

    def next(self, at: float, deed: Deed, cut: TrailMark | None = None) -> TrailEntry:
        return TrailEntry(seq=self.head.seq + 1, at=at, deed=deed, prev=self.head.hash, cut=cut)
