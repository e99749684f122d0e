"""Series of points: merging, thinning, and what a whole series comes to. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from corps.model.series import Measured, Point


def merged(first: Point, second: Point) -> Point:
    """Two neighbours as one: counters of the later, gauges as mean and largest."""
    samples = first.samples + second.samples
    rss = first.rss_mean_bytes * first.samples + second.rss_mean_bytes * second.samples
    return Point(
        at=second.at,
        span_s=first.span_s + second.span_s,
        samples=samples,
        cpu_user_s=second.cpu_user_s,
        cpu_system_s=second.cpu_system_s,
        io_read_bytes=_last(first.io_read_bytes, second.io_read_bytes),
        io_write_bytes=_last(first.io_write_bytes, second.io_write_bytes),
        rss_mean_bytes=round(rss / samples),
        rss_max_bytes=max(first.rss_max_bytes, second.rss_max_bytes),
        processes=max(first.processes, second.processes),
        threads=max(first.threads, second.threads),
        fds=largest(first.fds, second.fds),
    )


def halved(points: Sequence[Point]) -> list[Point]:
    """Each pair merged; a last one without a partner stays."""
    pairs = itertools.zip_longest(points[::2], points[1::2])
    return [first if second is None else merged(first, second) for first, second in pairs]


def thinned(points: Sequence[Point], most: int) -> Sequence[Point]:
    """At most `most` points (at least 1), neighbours merged evenly."""
    while len(points) > max(most, 1):
        points = halved(points)
    return points


def cpu_percents(points: Sequence[Point], started_at: float | None) -> list[float | None]:
    """Of one processor, over the time since the point before; of the first, since the start."""
    before_s, before_at = 0.0, started_at
    found: list[float | None] = []
    for point in points:
        cpu_s = point.cpu_user_s + point.cpu_system_s
        passed_s = None if before_at is None else point.at - before_at
        known = passed_s is not None and passed_s > 0
        found.append(100 * max(0.0, cpu_s - before_s) / passed_s if known and passed_s else None)
        before_s, before_at = cpu_s, point.at
    return found


def largest(first: int | None, second: int | None) -> int | None:
    """Of what is known."""
    if first is None or second is None:
        return second if first is None else first
    return max(first, second)


def _last(first: int | None, second: int | None) -> int | None:
    return first if second is None else second


@dataclass
class Sum:
    """Everything of a series that does not need its points: grows by one sample at a time."""

    last: Point | None = None
    samples: int = 0
    rss_total_bytes: int = 0
    rss_peak_bytes: int = 0
    processes_max: int = 0
    threads_max: int = 0
    fds_max: int | None = None

    def add(self, point: Point) -> None:
        self.last = point
        self.samples += point.samples
        self.rss_total_bytes += point.rss_mean_bytes * point.samples
        self.rss_peak_bytes = max(self.rss_peak_bytes, point.rss_max_bytes)
        self.processes_max = max(self.processes_max, point.processes)
        self.threads_max = max(self.threads_max, point.threads)
        self.fds_max = largest(self.fds_max, point.fds)

    def measured(self, now: Point | None = None) -> Measured | None:
        """None before the first sample. `now` is one that was taken and is not in the series."""
        last = now or self.last
        if last is None:
            return None
        mean = self.rss_total_bytes / self.samples if self.samples else last.rss_mean_bytes
        return Measured(
            at=last.at,
            samples=self.samples,
            cpu_user_s=last.cpu_user_s,
            cpu_system_s=last.cpu_system_s,
            rss_bytes=last.rss_mean_bytes,
            rss_mean_bytes=round(mean),
            rss_peak_bytes=max(self.rss_peak_bytes, last.rss_max_bytes),
            processes=last.processes,
            processes_max=max(self.processes_max, last.processes),
            threads=last.threads,
            threads_max=max(self.threads_max, last.threads),
            fds=last.fds,
            fds_max=largest(self.fds_max, last.fds),
            io_read_bytes=last.io_read_bytes,
            io_write_bytes=last.io_write_bytes,
        )


def summed(points: Iterable[Point]) -> Sum:
    made = Sum()
    for point in points:
        made.add(point)
    return made
