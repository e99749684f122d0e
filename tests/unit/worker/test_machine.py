"""The state of the machine, from this machine and from files as other kernels write them."""

from __future__ import annotations

import os
from pathlib import Path

from corps.worker.machine import FRESH_S, Gauge, read_machine

MEMINFO = "MemTotal:       16000 kB\nMemFree:  1 kB\nMemAvailable:    4000 kB\n"
PRESSURE = (
    "some avg10={} avg60=0.55 avg300=3.01 total=1\nfull avg10=9.00 avg60=0 avg300=0 total=0\n"
)


def a_proc(path: Path, **pressures: str) -> str:
    (path / "pressure").mkdir(parents=True)
    (path / "loadavg").write_text("0.52 0.58 0.59 1/597 1234\n")
    (path / "meminfo").write_text(MEMINFO)
    for name, value in pressures.items():
        (path / "pressure" / name).write_text(PRESSURE.format(value))
    return str(path)


def test_this_machine_has_a_state() -> None:
    machine = read_machine()
    assert machine is not None and machine.load_1m >= 0
    assert 0 < machine.memory_available_bytes < machine.memory_total_bytes
    assert machine.memory_total_bytes == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_load_memory_and_pressure_are_read(tmp_path: Path) -> None:
    machine = read_machine(a_proc(tmp_path, cpu="1.25", memory="0.00", io="7.5"))
    assert machine is not None
    assert (machine.load_1m, machine.memory_total_bytes) == (0.52, 16_000 << 10)
    assert machine.memory_available_bytes == 4_000 << 10
    assert machine.cpu_pressure_percent == 1.25
    assert (machine.memory_pressure_percent, machine.io_pressure_percent) == (0.0, 7.5)


def test_a_kernel_that_measures_no_pressure_says_none(tmp_path: Path) -> None:
    machine = read_machine(a_proc(tmp_path, cpu="1.25"))
    assert machine is not None and machine.cpu_pressure_percent == 1.25
    assert (machine.memory_pressure_percent, machine.io_pressure_percent) == (None, None)
    assert read_machine(str(tmp_path / "nowhere")) is None


def test_one_reading_serves_all_deaths_of_a_moment(tmp_path: Path) -> None:
    now = [1.0]
    gauge = Gauge(lambda: now[0], a_proc(tmp_path, cpu="1.00"))
    first = gauge.machine()
    (tmp_path / "loadavg").write_text("9.00 1 1 1/1 1\n")
    now[0] += FRESH_S / 2
    assert gauge.machine() is first
    now[0] += FRESH_S
    second = gauge.machine()
    assert second is not None and second.load_1m == 9.0
