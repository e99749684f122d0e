"""What an attempt used over time, with all its descendants: one point, and what they come to.

Everything here is sampled. CPU time is a lower bound that never decreases; a resident set counts
pages that processes share once for each of them; null is what could not be read.
"""

from __future__ import annotations

import msgspec


class Point(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """`samples` samples over the `span_s` seconds that ended at `at`, merged.

    Counters, from the start of the attempt, are those of the last sample. I/O is what went through
    read(2), write(2) and their kin, proc_pid_io(5). Counts are the largest.
    """

    at: float
    span_s: float
    samples: int
    cpu_user_s: float
    cpu_system_s: float
    io_read_bytes: int | None
    io_write_bytes: int | None
    rss_mean_bytes: int
    rss_max_bytes: int
    processes: int
    threads: int
    fds: int | None


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt as it was last seen, at `at`, and over its whole life so far."""

    at: float
    samples: int
    cpu_user_s: float
    cpu_system_s: float
    rss_bytes: int
    rss_mean_bytes: int
    rss_peak_bytes: int
    processes: int
    processes_max: int
    threads: int
    threads_max: int
    fds: int | None
    fds_max: int | None
    io_read_bytes: int | None
    io_write_bytes: int | None
