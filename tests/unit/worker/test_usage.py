"""Live usage, against real processes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from corps.worker.usage import Processes
from tests.support.waiting import until


@pytest.fixture
def processes() -> Iterator[Processes]:
    made = Processes()
    yield made
    made.close()


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "1000"]) as made:
        yield made
        made.kill()


def test_a_sleeping_process_sleeps_and_has_a_peak(
    processes: Processes, sleeper: subprocess.Popen[bytes]
) -> None:
    processes.watch("a.1#1", sleeper.pid, os.pidfd_open(sleeper.pid))
    until(lambda: processes.sample(None)[0].os_state == "sleeping")
    (live,) = processes.sample(("a.1#1", "unknown.1#1"))
    assert live.usage.rss_bytes and live.usage.max_rss_bytes
    assert live.usage.max_rss_bytes >= live.usage.rss_bytes > 100_000


def test_each_peak_is_taken_once_early_and_then_only_with_the_whole(
    processes: Processes, sleeper: subprocess.Popen[bytes]
) -> None:
    processes.watch("a.1#1", sleeper.pid, os.pidfd_open(sleeper.pid))
    assert [key for key, _ in processes.peaks(whole=False)] == ["a.1#1"]
    assert processes.peaks(whole=False) == ()
    assert len(processes.peaks(whole=True)) == 1


def test_a_dead_process_has_no_usage_even_if_its_pid_is_taken(
    processes: Processes, sleeper: subprocess.Popen[bytes]
) -> None:
    processes.watch("a.1#1", sleeper.pid, os.pidfd_open(sleeper.pid))
    sleeper.kill()
    sleeper.wait()
    assert processes.sample(None) == []
    assert processes.peaks(whole=True) == ()


def test_a_process_that_ended_before_it_was_watched_is_not_watched(
    processes: Processes, sleeper: subprocess.Popen[bytes]
) -> None:
    pidfd = os.pidfd_open(sleeper.pid)
    sleeper.kill()
    until(lambda: os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT))
    processes.watch("a.1#1", sleeper.pid, pidfd)
    assert processes.pidfd("a.1#1") is None


def test_no_descriptor_is_left(sleeper: subprocess.Popen[bytes]) -> None:
    before = len(os.listdir("/proc/self/fd"))
    made = Processes()
    for number in range(50):
        made.watch(f"a.{number}#1", sleeper.pid, os.pidfd_open(sleeper.pid))
    made.close()
    assert len(os.listdir("/proc/self/fd")) == before
