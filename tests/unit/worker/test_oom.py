"""The kernel's log and counter: records as kernels write them, and this machine's own /dev/kmsg."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from corps.worker.oom import FRESH_S, KMSG, OomWatch, kills, parse_record

GLOBAL = (
    b"3,1205,5140900000,-;Out of memory: Killed process 4711 (eat) total-vm:9000kB, "
    b"anon-rss:8000kB, file-rss:0kB, shmem-rss:0kB, UID:0 pgtables:60kB oom_score_adj:0\n"
)
GROUP = (
    b"3,1206,5140900000,-;Memory cgroup out of memory: Killed process 4712 (a b) c) "
    b"total-vm:9000kB, anon-rss:8000kB\n SUBSYSTEM=x\n DEVICE=y\n"
)
CHOSEN = (
    b"6,1207,5140900000,c,caller=T1;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),"
    b"cpuset=/,mems_allowed=0,oom_memcg=/x,task_memcg=/x,task=eat,pid=4713,uid=0\n"
)


@pytest.mark.parametrize(("record", "pid"), [(GLOBAL, 4711), (GROUP, 4712), (CHOSEN, 4713)])
def test_the_kernel_names_its_victim(record: bytes, pid: int) -> None:
    victim = parse_record(record, 1_000.0)
    assert victim is not None
    assert (victim.pid, victim.at) == (pid, 1_000.0 + 5140.9)
    assert "\n" not in victim.text and "SUBSYSTEM" not in victim.text


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b";",
        b"6,1,2,-;usb 1-1: new device",
        b"x,1,2,-;Out of memory: Killed process 1 (x)",
        b"3,1,x,-;Out of memory: Killed process 1 (x)",
        b"3;Out of memory: Killed process 1 (x)",
        b"12,1,2,-;Out of memory: Killed process 1 (x)",  # written by a user, LOG_USER
        b"3,1,2,-;Killed process one (x)",
    ],
)
def test_what_is_not_the_kernels_or_names_nobody_is_nothing(record: bytes) -> None:
    assert parse_record(record, 0.0) is None


def test_what_somebody_writes_into_the_kernels_log_is_not_believed() -> None:
    watch = OomWatch(lambda: 0.0)
    pid = os.getpid()
    kmsg = os.open(KMSG, os.O_WRONLY)
    try:
        os.write(kmsg, b"<3>Out of memory: Killed process %d (x) by a test of corps" % pid)
        assert watch.victim(pid, 0.0) is None
    finally:
        os.close(kmsg)
        watch.close()
    watch.close()


def test_without_the_kernels_log_a_counter_makes_it_likely(tmp_path: Path) -> None:
    now = [100.0]
    vmstat = tmp_path / "vmstat"

    def set_kills(number: int) -> None:
        vmstat.write_text(f"nr_free_pages 5\noom_kill {number}\noom_kill_x 9\n")

    set_kills(3)
    watch = OomWatch(lambda: now[0], str(tmp_path / "no-kmsg"), str(tmp_path))
    assert watch.victim(4711, 0.0) is None and watch.suspicion() is None
    now[0] += 8.0
    set_kills(4)
    assert watch.suspicion() == (
        "the machine's OOM killer struck 1 time in the 8 s before: it may have been this one"
    )
    set_kills(6)
    assert "struck 1 time" in (watch.suspicion() or ""), "one reading serves a burst of deaths"
    now[0] += 2 * FRESH_S
    assert "struck 3 times" in (watch.suspicion() or "")
    for _ in range(4):  # it is long ago now
        now[0] += 6.0
        watch.count()
    assert watch.suspicion() is None
    vmstat.unlink()
    now[0] += 2 * FRESH_S
    assert kills(str(tmp_path)) is None and watch.suspicion() is None
    watch.count()


def test_this_machine_counts() -> None:
    assert kills() is not None
