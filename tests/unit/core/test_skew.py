"""Times of a peer whose clock is far from ours."""

from __future__ import annotations

import pytest

from corps.core import events as ev
from corps.core.skew import SKEW_S, ahead_s
from corps.model.instance import Exited
from corps.wire import keeper as kw
from corps.wire import worker as wire
from tests.support.build import (
    NOW,
    AMaster,
    a_death_report,
    a_ready_worker,
    a_report,
    delivered,
    kept,
)

TEN_YEARS_S = 315_576_000.0


@pytest.mark.parametrize("theirs", [None, NOW, NOW + SKEW_S, NOW - SKEW_S, float("nan"), -1.0])
def test_a_little_and_what_is_no_time_is_left_as_it_is(theirs: float | None) -> None:
    assert ahead_s(theirs, NOW) == 0.0


@pytest.mark.parametrize("ahead", [TEN_YEARS_S, -TEN_YEARS_S, 6.0, -6.0])
def test_the_times_of_a_far_worker_are_shown_on_the_masters_clock(ahead: float) -> None:
    master = AMaster()
    session = master.join(now=NOW + ahead)
    (instance,) = master.launch()
    began = a_report(instance.key, started_at=NOW + ahead + 1, forked_at=NOW + ahead + 1)
    master.hear(session, wire.Changed(reports=(began,)))
    signals = delivered(2, at=NOW + ahead + 2)
    ended = a_death_report(
        instance.key, Exited(code=0), ended_at=NOW + ahead + 3, delivered=signals
    )
    master.hear(session, wire.Changed(reports=(ended,)))
    dead = master.instance(instance.id)
    assert (dead.started_at, dead.ended_at) == (NOW + 1, NOW + 3)
    assert dead.delivered == delivered(2, at=NOW + 2)
    assert master.events("w1").count("clock") == 1
    master.close(session)
    master.join(now=NOW + ahead)
    assert master.events("w1").count("clock") == 1, "said once"
    master.join(now=NOW)
    assert master.events("w1").count("clock") == 2, "and when it is right again"


def test_the_times_of_a_keeper_that_began_before_a_step_are_on_its_workers_clock() -> None:
    worker = a_ready_worker()
    worker.start("web.1#1")
    worker.step(ev.KeeperGone())
    there = NOW + TEN_YEARS_S
    live = kept("web.1#1", forked_at=there - 5)
    dead = kept("web.2#1", is_live=False, status=0, forked_at=there - 9, ended_at=there - 1)
    totals = wire.Totals()
    listing = kw.Listing(
        attempts=(live, dead), totals=totals, keeper_pid=7, is_last=True, now=there
    )
    worker.keeper_says(listing)
    first, second = worker.core.report("web.1#1"), worker.core.report("web.2#1")
    assert first is not None and second is not None
    assert first.started_at == NOW - 5
    assert (second.started_at, second.ended_at) == (NOW - 9, NOW - 1)
    worker.start("web.3#1")
    worker.keeper_says(kw.Spawned(key="web.3#1", pid=3, forked_at=there + 1, executed_at=there + 2))
    third = worker.core.report("web.3#1")
    assert third is not None and (third.forked_at, third.started_at) == (NOW + 1, NOW + 2)
