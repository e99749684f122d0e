"""A trail that somebody touched is found out, wherever and however."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from corps.core.chain import Chain
from corps.core.proof import Proof, Verdict
from corps.model.trail import Deed, Outcome, TrailHead, TrailMark, hash_line, line_of
from tests.support.build import NOW

LENGTH = 6


def a_trail(length: int = LENGTH) -> tuple[list[str], TrailHead]:
    chain, lines = Chain(), []
    for number in range(length):
        deed = Deed(
            who="änn\n",
            act="kill",
            outcome=Outcome.DONE,
            subject=f"web.{number}",
            source="10.0.0.7",
        )
        entry = chain.next(NOW + number, deed)
        chain.put(entry)
        lines.append(line_of(entry).decode())
    return lines, chain.head


def prove(
    lines: Sequence[str], head: TrailHead | None = None, noted: TrailMark | None = None
) -> Verdict:
    proof = Proof(noted)
    for line in lines:
        proof.take(line)
    return proof.finish(head)


def test_what_nobody_touched_holds() -> None:
    lines, head = a_trail()
    verdict = prove(lines, head)
    assert verdict.fault is None
    assert verdict.last == TrailMark(seq=LENGTH, hash=head.hash)
    assert verdict.holds_from == 1


def test_every_bit_counts() -> None:
    lines, head = a_trail()
    for number, line in enumerate(lines, 1):
        data = line.encode()
        for position in range(len(data)):
            for bit in (0x01, 0x20, 0x80):
                flipped = bytearray(data)
                flipped[position] ^= bit
                changed = flipped.decode(errors="backslashreplace")
                verdict = prove([*lines[: number - 1], changed, *lines[number:]], head)
                assert verdict.fault is not None, (number, position, bit)
                # What it says of its predecessor may be what was changed.
                assert verdict.fault.seq in (number, number - 1, 1), (number, position, bit)


@pytest.mark.parametrize("seq", range(1, LENGTH + 1))
def test_no_entry_can_be_taken_out(seq: int) -> None:
    lines, head = a_trail()
    verdict = prove([*lines[: seq - 1], *lines[seq:]], head)
    assert verdict.fault is not None
    assert verdict.fault.seq == seq
    assert "missing" in verdict.fault.text


@pytest.mark.parametrize("seq", range(1, LENGTH))
def test_no_two_entries_can_change_places(seq: int) -> None:
    lines, head = a_trail()
    lines[seq - 1], lines[seq] = lines[seq], lines[seq - 1]
    verdict = prove(lines, head)
    assert verdict.fault is not None
    assert verdict.fault.seq in (1, seq)


@pytest.mark.parametrize("kept", range(LENGTH))
def test_the_last_entries_cannot_be_taken_away(kept: int) -> None:
    lines, head = a_trail()
    verdict = prove(lines[:kept], head)
    assert verdict.fault is not None
    assert verdict.fault.seq == kept + 1


def test_no_entry_can_be_added_or_repeated() -> None:
    lines, head = a_trail()
    longer, _ = a_trail(LENGTH + 1)
    added = prove(longer, head).fault
    assert added is not None
    assert added.text == "entry 7 is not the master's: the trail ended before"
    for seq in range(1, LENGTH + 1):
        assert prove([*lines[:seq], lines[seq - 1], *lines[seq:]], head).fault is not None


def test_the_rest_is_said_to_hold() -> None:
    lines, head = a_trail()
    lines[2] = lines[2].replace("web.2", "web.9")
    verdict = prove(lines, head)
    assert verdict.fault is not None
    assert "entry 3 is not what entry 4 says" in verdict.fault.text
    assert verdict.holds_from == 4
    lines[2] = "{}"
    verdict = prove(lines, head)
    assert verdict.fault is not None
    assert "entry 3 is none" in verdict.fault.text
    assert verdict.holds_from == 4
    lines[-1] = lines[-1].replace("web.5", "web.9")
    assert prove(lines, head).holds_from is None


def test_an_export_needs_no_head() -> None:
    lines, _ = a_trail()
    assert prove(lines).fault is None
    assert prove([]).fault is not None
    assert prove(lines[2:]).fault is not None


def test_a_trail_that_was_written_anew_is_not_the_one_that_was_noted() -> None:
    lines, head = a_trail()
    noted = TrailMark(seq=3, hash=hash_line(lines[2].encode()))
    assert prove(lines, head, noted).fault is None
    chain, forged = Chain(), []
    for number in range(LENGTH):
        entry = chain.next(
            NOW, Deed(who="ann", act="ps", outcome=Outcome.DONE, subject=f"{number}")
        )
        chain.put(entry)
        forged.append(line_of(entry).decode())
    assert prove(forged, chain.head).fault is None  # nothing in itself is wrong with it
    written_anew = prove(forged, chain.head, noted).fault
    assert written_anew is not None
    assert "written anew" in written_anew.text
    ended = prove(lines, head, TrailMark(seq=9, hash=head.hash)).fault
    assert ended is not None
    assert (ended.seq, ended.text) == (7, "entry 9 that was noted is missing")


def test_a_cut_is_told_by_a_later_entry_and_by_nothing_else() -> None:
    chain = Chain()
    lines: list[str] = []
    for number in range(LENGTH):
        cut = TrailMark(seq=2, hash=hash_line(lines[1].encode())) if number == 4 else None
        entry = chain.next(NOW, Deed(who="ann", act="ps", outcome=Outcome.DONE), cut)
        chain.put(entry)
        lines.append(line_of(entry).decode())
    assert prove(lines[2:], chain.head).fault is None
    for missing in (1, 3, 5):
        assert prove(lines[missing:], chain.head).fault is not None
