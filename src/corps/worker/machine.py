"""How the machine is now: load, memory, pressure. One reading serves all who ask within 100 ms."""

from __future__ import annotations

import os
from collections.abc import Callable

from corps.model.instance import Machine

READ_BYTES = 8_192
FRESH_S = 0.1


class Gauge:
    """Reads /proc when the last reading is not fresh any more."""

    def __init__(self, monotonic: Callable[[], float], proc: str = "/proc") -> None:
        self._monotonic, self._proc = monotonic, proc
        self._read_at = float("-inf")
        self._machine: Machine | None = None

    def machine(self) -> Machine | None:
        """None when /proc does not say."""
        now = self._monotonic()
        if now - self._read_at >= FRESH_S:
            self._read_at, self._machine = now, read_machine(self._proc)
        return self._machine


def read_machine(proc: str = "/proc") -> Machine | None:
    """/proc/loadavg and /proc/meminfo; pressure where the kernel measures it."""
    load, memory = _read(f"{proc}/loadavg"), _read(f"{proc}/meminfo")
    total, available = _kib(memory, b"MemTotal:"), _kib(memory, b"MemAvailable:")
    if not load or total is None or available is None:
        return None
    cpu, memory_pressure, io = (
        _some_avg10(_read(f"{proc}/pressure/{name}")) for name in ("cpu", "memory", "io")
    )
    return Machine(
        load_1m=float(load.split(None, 1)[0]),
        memory_total_bytes=total * 1024,
        memory_available_bytes=available * 1024,
        cpu_pressure_percent=cpu,
        memory_pressure_percent=memory_pressure,
        io_pressure_percent=io,
    )


def _some_avg10(text: bytes) -> float | None:
    """`some avg10=0.12 avg60=...`, Documentation/accounting/psi.rst."""
    _, found, rest = text.partition(b"some avg10=")
    return float(rest.split(None, 1)[0]) if found else None


def _kib(text: bytes, name: bytes) -> int | None:
    _, found, rest = text.partition(name)
    return int(rest.split(None, 1)[0]) if found else None


def _read(path: str) -> bytes:
    """Empty when there is no such file, or the kernel was started with psi=0."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, READ_BYTES)
    except OSError:
        return b""
    finally:
        os.close(fd)
