"""In which units an artifact travels, who asks whom for which, and how long that takes on paper."""

from __future__ import annotations

from random import Random

import pytest

from corps.core.supply import ACTIVE_S, MEMBER_S, TOLD_MAX, Member, Supply, Tracker
from corps.core.swarm import (
    LATE_FIRST_S,
    MASTER,
    Part,
    Swarm,
    as_set,
    members,
    plan,
    unit_bytes,
)
from corps.model.artifact import FileEntry, FileKind, Manifest
from corps.model.pieces import PIECE_BYTES
from tests.support.swarm import Paper

UNITS = 64
SMALL, LARGE = 1_000, PIECE_BYTES * 2 + 1


def a_manifest(*sizes: int) -> Manifest:
    files = tuple(
        FileEntry(path=f"f{at:05}", size_bytes=size, digest=f"{at:064x}", kind=FileKind.DATA)
        for at, size in enumerate(sizes)
    )
    return Manifest(entry="f00000", files=files)


def a_swarm(count: int = 4) -> Swarm:
    return Swarm(count, 0, Random(1))


# ---- units


def test_a_large_file_is_cut_and_small_ones_go_together() -> None:
    units = plan(a_manifest(SMALL, LARGE, SMALL, 0, PIECE_BYTES))
    assert [[part.size_bytes for part in unit] for unit in units] == [
        [PIECE_BYTES],
        [PIECE_BYTES],
        [1],
        [SMALL, SMALL, 0],
        [PIECE_BYTES],
    ]
    assert [part.offset for unit in units[:3] for part in unit] == [0, PIECE_BYTES, 2 * PIECE_BYTES]
    assert [part.is_whole for unit in units for part in unit] == [False] * 3 + [True] * 4


def test_every_byte_is_in_one_unit_and_no_unit_is_larger_than_a_piece() -> None:
    rng = Random(3)
    sizes = [rng.choice((0, 1, 700, 40_000, 900_000, 3_000_000)) for _ in range(400)]
    units = plan(a_manifest(*sizes))
    assert sum(map(unit_bytes, units)) == sum(sizes)
    assert max(map(unit_bytes, units)) <= PIECE_BYTES
    assert all(units)


def test_the_same_content_twice_travels_once() -> None:
    twice = FileEntry(path="a", size_bytes=5, digest="ab" * 32, kind=FileKind.DATA)
    again = FileEntry(path="b", size_bytes=5, digest="ab" * 32, kind=FileKind.DATA)
    assert plan(Manifest(entry="a", files=(twice, again))) == ((Part("ab" * 32, 0, 5, 5),),)


def test_sets_of_units() -> None:
    assert list(members(as_set((5, 0, 9_000)))) == [0, 5, 9_000]


# ---- who is asked for what


def test_a_unit_is_asked_of_one_at_a_time() -> None:
    swarm = a_swarm(2)
    swarm.holds("a", 0b11)
    swarm.holds("b", 0b11)
    first, second = swarm.next_of("a", 0.0), swarm.next_of("b", 0.0)
    assert {first, second} == {0, 1}
    assert swarm.next_of("a", 0.0) is None
    assert swarm.wanted(0.0) == 0


def test_the_rarest_is_asked_for_first() -> None:
    swarm = a_swarm(4)
    swarm.holds("a", 0b1111)
    for peer in ("b", "c"):
        swarm.holds(peer, 0b1011)
    assert swarm.next_of("a", 0.0) == 2


def test_what_a_peer_claims_beyond_the_artifact_is_not_asked_for() -> None:
    swarm = a_swarm(2)
    swarm.holds("a", 1 << 70)
    assert swarm.next_of("a", 0.0) is None


def test_what_a_peer_that_left_was_asked_for_is_asked_of_others_at_once() -> None:
    swarm = a_swarm(1)
    swarm.holds("a", 1)
    swarm.holds("b", 1)
    assert swarm.next_of("a", 0.0) == 0
    assert swarm.next_of("b", 0.0) is None
    swarm.left("a")
    assert swarm.next_of("b", 0.0) == 0
    assert swarm.next_of("a", 0.0) is None


def test_what_failed_at_one_is_asked_of_others_at_once() -> None:
    swarm = a_swarm(1)
    swarm.asked(MASTER, 0, 0.0)
    assert swarm.wanted(0.1) == 0
    swarm.failed(MASTER, 0)
    assert swarm.wanted(0.1) == 1


def test_only_what_is_late_is_asked_of_a_second() -> None:
    swarm = a_swarm(1)
    for peer in ("slow", "b", "c"):
        swarm.holds(peer, 1)
    assert swarm.next_of("slow", 0.0) == 0
    assert swarm.next_of("b", LATE_FIRST_S) is None
    late = LATE_FIRST_S + 0.1
    assert swarm.next_of("slow", late) is None, "it is asked already"
    assert swarm.next_of("b", late) == 0
    assert swarm.next_of("c", late) is None, "of a second, not of all"
    swarm.arrived("b", 0, late + 0.1)
    swarm.arrived("slow", 0, late + 9)
    assert swarm.is_done


def test_late_is_measured_by_what_units_take_here() -> None:
    swarm = a_swarm(3)
    swarm.asked("a", 0, 0.0)
    swarm.arrived("a", 0, 10.0)
    swarm.asked("a", 1, 10.0)
    swarm.asked("a", 2, 10.0)
    assert swarm.wanted(10.0 + 29) == 0
    assert swarm.wanted(10.0 + 31) != 0


# ---- who sends what


def test_each_unit_leaves_the_master_once_before_any_leaves_twice() -> None:
    supply, everything = Supply(), (1 << 5) - 1
    assert sorted(unit for _ in range(5) if (unit := supply.choose(everything)) is not None) == [
        *range(5)
    ]
    assert supply.choose(0b10) == 1
    assert supply.choose(0b11) == 0
    assert supply.choose(0) is None


def test_the_tracker_tells_of_those_heard_of_just_now_first() -> None:
    tracker = Tracker(Random(1))
    members_ = [Member(f"10.0.0.{at}:7", f"key {at}") for at in range(40)]
    for member in members_[:20]:
        tracker.seek(0.0, "d", member)
    for member in members_[20:30]:
        tracker.seek(ACTIVE_S + 1, "d", member)
    told = tracker.seek(ACTIVE_S + 2, "d", members_[39])
    assert len(told) == TOLD_MAX
    assert sorted(told[:10]) == sorted(members_[20:30])
    assert members_[39] not in told
    assert tracker.seek(ACTIVE_S + 2, "other", members_[0]) == ()


def test_the_tracker_forgets_an_earlier_life_and_who_was_not_heard_of_for_long() -> None:
    tracker = Tracker(Random(1))
    old, new = Member("10.0.0.1:7", "old"), Member("10.0.0.1:7", "new")
    tracker.seek(0.0, "d", old)
    tracker.seek(1.0, "d", new)
    other = Member("10.0.0.2:7", "x")
    assert tracker.seek(2.0, "d", other) == (new,)
    assert tracker.seek(MEMBER_S + 1.5, "d", other) == ()


# ---- on paper


@pytest.mark.parametrize("seed", range(2))
def test_sixteen_workers_take_little_longer_than_one(seed: int) -> None:
    one = Paper(1, UNITS, seed).run(200)
    assert one == pytest.approx(UNITS, rel=0.01)
    many = Paper(16, UNITS, seed)
    assert many.run(200) <= 1.6 * one
    assert many.sent_by_master < 2 * UNITS, "the rest came from peers"
    assert all(len(units) <= UNITS + 2 for units in many.arrived.values()), "nearly nothing twice"


def test_a_slow_peer_costs_the_others_little() -> None:
    made = Paper(16, UNITS)
    made.rates["w3"] = 0.02
    while len(made.done_at) < 15:
        assert made.now < 200
        made.step()
    assert "w3" not in made.done_at
    assert made.now <= 1.7 * UNITS
    made.rates["w3"] = 1.0
    made.run(400)


def test_peers_that_leave_harm_nobody() -> None:
    made = Paper(16, UNITS)
    for name in ("w2", "w5", "w11"):
        while made.now < 20 + 5 * int(name[1:]) / 2:
            made.step()
        made.leave(name)
    assert made.run(200) <= 1.7 * UNITS
    assert len(made.done_at) == 13
