"""What the sampler of a worker costs: one sweep over 500 apps, as a share of a core.

The floor beside it is the least that any sampler of /proc pays on this machine: open, read and
close of one file for each process. `python -m bench.usage` runs it alone.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

from corps.clock import Clock
from corps.worker.layout import Layout
from corps.worker.sampler import SLICE_S, Sampler
from corps.worker.usage import Processes

APPS = 500
SAMPLE_S = 5.0
SWEEPS = 20


class Cost(NamedTuple):
    """`sweep_cpu_s` counts peaks too; `step_s` is the longest work between two places where it
    may pause, in CPU seconds as well."""

    sweep_cpu_s: float
    floor_cpu_s: float
    step_s: float
    others: int

    @property
    def percent(self) -> float:
        return 100 * self.sweep_cpu_s / SAMPLE_S


def measure(apps: int = APPS) -> Cost:
    """Medians over SWEEPS sweeps, each written to its series."""
    with tempfile.TemporaryDirectory(prefix="corps-bench-") as directory, _sleepers(apps) as pids:
        layout, processes = Layout(Path(directory)), Processes()
        for number, pid in enumerate(pids, 1):
            layout.make(f"sleep.{number}#1")
            processes.watch(f"sleep.{number}#1", pid, os.pidfd_open(pid))
        sampler = Sampler(layout, processes, Clock(), SAMPLE_S)
        costs, floors, longest = [], [], []
        for _ in range(SWEEPS):
            cpu_s, step_s = _sweep(sampler, processes)
            costs.append(cpu_s)
            longest.append(step_s)
            floors.append(_floor(pids))
        processes.close()
        others = sum(name.isdigit() for name in os.listdir("/proc")) - apps
    return Cost(median(costs), median(floors), median(longest), others)


def _sweep(sampler: Sampler, processes: Processes) -> tuple[float, float]:
    begin = time.process_time()
    longest, step = 0.0, begin
    for _ in sampler.steps(is_kept=True):
        now = time.process_time()
        longest, step = max(longest, now - step), now
    processes.peaks(whole=True)
    return time.process_time() - begin, longest


def _floor(pids: list[int]) -> float:
    begin = time.process_time()
    for pid in pids:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
        os.read(fd, 4_096)
        os.close(fd)
    return time.process_time() - begin


@contextmanager
def _sleepers(count: int) -> Iterator[list[int]]:
    children = [subprocess.Popen(["sleep", "1000"]) for _ in range(count)]
    try:
        yield [child.pid for child in children]
    finally:
        for child in children:
            child.kill()
            child.wait()


def limit(cost: Cost) -> str:
    floor_ms, sweep_ms = cost.floor_cpu_s * 1e3, cost.sweep_cpu_s * 1e3
    return (
        f"sweep {sweep_ms:.1f} ms, open+read+close of stat alone {floor_ms:.1f} ms; "
        f"{cost.others} other processes; longest step {cost.step_s * 1e3:.1f} ms"
    )


if __name__ == "__main__":
    found = measure()
    print(f"{APPS} apps every {SAMPLE_S:g} s: {found.percent:.2f} % of a core (budget 1 %)")
    print(f"{limit(found)}, in slices of {SLICE_S * 1e3:g} ms")
