"""Statuses that no keeper saw, asked of the kernel by the worker's own pidfd."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator

import msgspec
import pytest

from corps.wire.keeper import Ended, KeptAttempt, Listing
from corps.wire.worker import Totals
from corps.worker.usage import Processes
from corps.worker.verdicts import Verdicts
from tests.support.build import kept_dead
from tests.support.pids import stranger
from tests.support.waiting import until

LOST = "ended while no keeper was there"


@pytest.fixture
def verdicts() -> Iterator[Verdicts]:
    made = Verdicts(is_asked=True)
    yield made
    made.close()


def _hold(verdicts: Verdicts, key: str, pid: int) -> None:
    pidfd = os.pidfd_open(pid)
    verdicts.hold(key, pidfd)
    os.close(pidfd)


def _lost(key: str, pid: int) -> KeptAttempt:
    return kept_dead(key, status=None, pid=pid, lost=LOST)


def _told(verdicts: Verdicts, attempt: KeptAttempt) -> KeptAttempt:
    said = verdicts.complete(Ended(attempt=attempt))
    assert isinstance(said, Ended)
    return said.attempt


def test_the_status_is_exact_after_somebody_else_has_reaped_it(verdicts: Verdicts) -> None:
    ends = {"a.1#1": "exit 42", "a.2#1": "kill -TERM $$", "a.3#1": "exit 0"}
    lost = []
    for key, script in ends.items():
        with subprocess.Popen(["/bin/sh", "-c", f"read x; {script}"], stdin=-1) as process:
            _hold(verdicts, key, process.pid)
            lost.append(_lost(key, process.pid))
    listing = Listing(attempts=tuple(lost), totals=Totals(), keeper_pid=1, is_last=True)
    said = verdicts.complete(listing)
    assert isinstance(said, Listing)
    assert [one.status for one in said.attempts] == [42 << 8, signal.SIGTERM, 0]
    assert all(one.lost is None and one.executed for one in said.attempts)


def test_it_is_exact_before_anybody_reaps_it_too(verdicts: Verdicts) -> None:
    process = subprocess.Popen(["/bin/sh", "-c", "exit 7"])
    _hold(verdicts, "a.1#1", process.pid)
    until(lambda: os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG))
    assert _told(verdicts, _lost("a.1#1", process.pid)).status == 7 << 8
    process.wait()


def test_what_lives_has_no_status(verdicts: Verdicts) -> None:
    """A keeper with a damaged journal calls it lost all the same."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        _hold(verdicts, "a.1#1", process.pid)
        lost = _lost("a.1#1", process.pid)
        assert _told(verdicts, lost) == lost
        process.kill()


def test_a_stranger_with_its_pid_is_neither_asked_nor_watched(verdicts: Verdicts) -> None:
    processes = Processes()
    process = subprocess.Popen(["/bin/sh", "-c", "exit 42"])
    _hold(verdicts, "a.1#1", process.pid)
    late = os.pidfd_open(process.pid)
    process.wait()
    with stranger(process.pid) as other:
        processes.watch("a.1#1", process.pid, late)
        assert processes.pidfd("a.1#1") is None and processes.sample(None) == []
        assert _told(verdicts, _lost("a.1#1", process.pid)).status == 42 << 8
        assert other.poll() is None


def test_without_a_pidfd_or_a_kernel_that_tells_it_stays_lost() -> None:
    process = subprocess.Popen(["true"])
    unasked = Verdicts(is_asked=False)
    _hold(unasked, "a.1#1", process.pid)
    process.wait()
    for attempt in (_lost("a.1#1", process.pid), _lost("a.2#1", process.pid)):
        assert _told(unasked, attempt) == attempt
    unasked.close()


def test_what_a_keeper_saw_is_not_asked_again(verdicts: Verdicts) -> None:
    process = subprocess.Popen(["false"])
    _hold(verdicts, "a.1#1", process.pid)
    process.wait()
    seen = msgspec.structs.replace(_lost("a.1#1", process.pid), lost=None, status=9)
    assert _told(verdicts, seen) == seen


def test_no_descriptor_outlives_the_death_that_was_told() -> None:
    before = len(os.listdir("/proc/self/fd"))
    verdicts = Verdicts(is_asked=True)
    process = subprocess.Popen(["true"])
    for number in range(20):
        _hold(verdicts, f"a.{number}#1", process.pid)
    process.wait()
    for number in range(10):
        _told(verdicts, _lost(f"a.{number}#1", process.pid))
    assert len(os.listdir("/proc/self/fd")) == before + 10
    verdicts.close()
    assert len(os.listdir("/proc/self/fd")) == before
