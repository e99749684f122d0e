"""Proof of an audit trail: line by line, does each hold the hash of the one before?

start: entry 1, or the one after a cut that a later entry tells of
each:  its predecessor's number and hash
end:   the head
"""

from __future__ import annotations

import msgspec

from corps.model.trail import GENESIS, TrailHead, TrailMark, hash_line, parse_line


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """`seq` is the first entry that is not as it was written."""

    seq: int
    text: str


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """`fault` is the first one; the entries from `holds_from` to the last are as they were written,
    None: not even the last one is."""

    entries: int
    first: TrailMark | None
    last: TrailMark | None
    fault: Fault | None
    holds_from: int | None


class Proof:
    """Take every line in order, then finish. `noted`: a hash that somebody wrote down earlier."""

    def __init__(self, noted: TrailMark | None = None) -> None:
        self._noted = noted
        self._count = 0
        self._begin: tuple[int, str] | None = None  # number and `prev` of the first line
        self._first: TrailMark | None = None
        self._last: TrailMark | None = None
        self._cuts: dict[int, str] = {}
        self._fault: Fault | None = None
        self._holds_from: int | None = None
        self._is_noted = False

    def take(self, line: str) -> None:
        self._count += 1
        before, entry = self._last, parse_line(line)
        hashed = hash_line(line.encode())
        if entry is None:
            seq = 1 if before is None else before.seq + 1
            self._found(seq, f"entry {seq} is none: it cannot be read", None)
        else:
            seq = entry.seq
            if before is None:
                self._begin = entry.seq, entry.prev
            elif seq != before.seq + 1:
                self._found(before.seq + 1, _gap(before.seq, seq), seq)
            elif entry.prev != before.hash:
                text = f"entry {before.seq} is not what entry {seq} says: one of them was changed"
                self._found(before.seq, text, seq)
            if entry.cut is not None:
                self._cuts[entry.cut.seq] = entry.cut.hash
        self._last = TrailMark(seq=seq, hash=hashed)
        self._first = self._first or self._last
        if self._holds_from is None and entry is not None:
            self._holds_from = seq
        self._compare(self._last)

    def finish(self, head: TrailHead | None = None) -> Verdict:
        """`head` None: of an export, whose last entries may be missing."""
        if self._last is None:
            self._found(1, "there is not a single entry", None)
        else:
            if self._begin is not None:
                self._judge_begin(*self._begin)
            if head is not None:
                self._judge_end(self._last, head)
        if self._noted is not None and not self._is_noted:
            self._judge_noted(self._noted)
        return Verdict(
            entries=self._count,
            first=self._first,
            last=self._last,
            fault=self._fault,
            holds_from=self._holds_from,
        )

    def _judge_begin(self, seq: int, prev: str) -> None:
        is_whole = seq == 1 and prev == GENESIS
        if is_whole or self._cuts.get(seq - 1) == prev:
            return
        text = f"{_span(1, seq - 1)} missing, and no entry says that this was dropped"
        if seq <= 1:
            text = f"entry {seq} does not begin the trail: it was changed"
        self._found(1, text, self._holds_from)

    def _judge_end(self, last: TrailMark, head: TrailHead) -> None:
        if last.seq < head.seq:
            text = f"{_span(last.seq + 1, head.seq)} missing at the end"
            self._found(last.seq + 1, text, self._holds_from)
        elif last.seq > head.seq:
            text = f"{_span(head.seq + 1, last.seq)} not the master's: the trail ended before"
            self._found(head.seq + 1, text, None)
        elif last.hash != head.hash:
            text = f"entry {last.seq} is not what the head says: one of them was changed"
            self._found(last.seq, text, None)

    def _judge_noted(self, noted: TrailMark) -> None:
        """It was not met on the way."""
        seq = noted.seq
        if self._last is not None and seq > self._last.seq:
            self._found(self._last.seq + 1, f"entry {seq} that was noted is missing", None)
        else:
            self._found(seq, f"entry {seq} that was noted is kept no more", self._holds_from)

    def _compare(self, met: TrailMark) -> None:
        noted = self._noted
        if noted is None or noted.seq != met.seq:
            return
        self._is_noted = True
        if noted.hash != met.hash:
            text = f"entry {met.seq} is not the one that was noted: the trail was written anew"
            self._found(met.seq, text, None)

    def _found(self, seq: int, text: str, holds_from: int | None) -> None:
        """The first fault is told; the last one says from where on the rest holds."""
        if self._fault is None or seq < self._fault.seq:
            self._fault = Fault(seq=seq, text=text)
        self._holds_from = holds_from


def _gap(before: int, after: int) -> str:
    if after <= before:
        return f"entry {after} comes after entry {before}"
    return f"{_span(before + 1, after - 1)} missing"


def _span(first: int, last: int) -> str:
    return f"entry {first} is" if first == last else f"entries {first} to {last} are"
