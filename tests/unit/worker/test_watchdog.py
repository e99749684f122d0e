"""What a watchdog adds up, on real processes, and what it does about it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from corps.wire import keeper
from corps.wire.worker import Totals
from corps.worker.watchdog import EVERY_S, Watchdog, Watched, exceeding
from tests.support.waiting import until

KEY = "app.1#1"
SCRIPT = "setsid sleep 1000 & sleep 1000 & sleep 1000 & wait"


@pytest.fixture
def leader() -> Iterator[int]:
    """A session of four processes, one of which has left it."""
    process = subprocess.Popen(["sh", "-c", SCRIPT], start_new_session=True)
    until(lambda: len(_sleepers(process.pid)) == 3)
    yield process.pid
    for pid in _sleepers(process.pid):
        os.kill(pid, signal.SIGKILL)
    process.wait()


def test_a_whole_tree_is_added_up(leader: int) -> None:
    def look(**limits: int) -> dict[str, str]:
        return exceeding({KEY: Watched(leader, limits)}, 0)

    assert look(pids=4) == {}
    assert look(pids=3) == {KEY: "pids 4, at most 3 (watchdog)"}
    assert look(memory=1 << 40) == {}
    assert look(memory=1 << 20)[KEY].endswith(", at most 1.0 MiB (watchdog)")
    assert look(memory=1 << 20)[KEY].startswith("memory ")
    assert exceeding({KEY: Watched(0x7FFFFFFF, {"pids": 0})}, 0) == {}, "it is gone"


def test_what_exceeds_its_limit_is_killed_with_the_reason(leader: int) -> None:
    sent: list[keeper.SendSignal] = []
    dog = Watchdog(sent.append)
    assert not dog.is_due(0.0), "nobody to watch"
    spawned = keeper.Spawned(key=KEY, pid=leader, forked_at=0.0, executed_at=0.0)
    dog.keeper_said(spawned)
    assert not dog.is_due(0.0), "it has no such limit"
    kept = keeper.KeptAttempt(
        key=KEY,
        pid=leader,
        note="",
        forked_at=0.0,
        is_live=True,
        executed=True,
        watched={"pids": 3},
    )
    totals = Totals()
    dog.keeper_said(
        keeper.Listing(attempts=(kept,), totals=totals, keeper_pid=os.getpid(), is_last=True)
    )
    assert dog.is_due(100.0)
    assert not dog.is_due(100.0 + EVERY_S / 2)
    asyncio.run(dog.look())
    (one,) = sent
    assert (one.key, one.signal, one.note) == (KEY, 9, "pids 4, at most 3 (watchdog)")
    dog.keeper_said(keeper.Ended(attempt=kept))
    assert not dog.is_due(200.0)


def _sleepers(leader: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(leader)], capture_output=True, text=True).stdout
    return [int(pid) for pid in found.split()]
