"""The sampler: every `sample_s` seconds what each attempt uses, with all its descendants.

It works in slices, so that the event loop and its heartbeats never wait long for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator

from corps.clock import Clock
from corps.core.series import summed, thinned
from corps.errors import CorpsError
from corps.model.name import AttemptKey, split_attempt_key
from corps.model.series import Measured, Point
from corps.worker.census import TICKS_PER_S, Census, Counters, Tree
from corps.worker.layout import Layout
from corps.worker.series import RECORDS_MAX, Series, load
from corps.worker.usage import Processes

SLICE_S = 0.005
PAUSE_S = 0.005

_log = logging.getLogger("corps.worker")


class Sampler:
    """`sample_s` 0: nothing is ever sampled."""

    def __init__(self, layout: Layout, processes: Processes, clock: Clock, sample_s: float) -> None:
        self.keeper_pid: int | None = None
        self._layout, self._processes, self._clock = layout, processes, clock
        self._sample_s = sample_s
        self._census = Census()
        self._series: dict[AttemptKey, Series] = {}
        self._now: dict[AttemptKey, Point] = {}  # taken last, perhaps for a question only
        self._walk = asyncio.Lock()
        self._walked_at = float("-inf")
        self._has_complained = False

    async def run(self) -> None:
        """For ever, at a steady pace."""
        loop = asyncio.get_running_loop()
        next_at = loop.time()
        while self._sample_s > 0:
            next_at = max(next_at + self._sample_s, loop.time())
            await asyncio.sleep(next_at - loop.time())
            async with self._walk:
                await self._take(self.steps(is_kept=True))

    async def refresh(self, age_max_s: float) -> None:
        """Returns when what is known of every attempt is no older; the series gets nothing of it.

        One that began after the last walk was in none yet.
        """
        if self._sample_s > 0:
            async with self._walk:
                age_s = asyncio.get_running_loop().time() - self._walked_at
                if age_s > age_max_s or self._processes.leaders().keys() - self._now.keys():
                    await self._take(self.steps(is_kept=False))

    def measured(self, key: AttemptKey) -> Measured | None:
        series = self._series.get(key)
        return None if series is None else series.sum.measured(self._now.get(key))

    def ended(self, keys: Iterable[AttemptKey]) -> tuple[tuple[AttemptKey, Measured], ...]:
        """What attempts came to that are over, as far as they were ever sampled."""
        found = ((key, self._ended(key)) for key in keys)
        return tuple((key, measured) for key, measured in found if measured is not None)

    def _ended(self, key: AttemptKey) -> Measured | None:
        """From its file when it ended while no worker was there to see it."""
        now, series = self._now.pop(key, None), self._series.pop(key, None)
        known = summed(self.read(key, RECORDS_MAX)) if series is None else series.sum
        return known.measured(now)

    def read(self, key: AttemptKey, points_max: int) -> tuple[Point, ...]:
        """Its series, thinned; empty when nothing was ever sampled. Blocking."""
        try:
            points, _ = load(self._path(key))
        except (OSError, CorpsError) as error:
            _log.warning("cannot read the usage of %s: %s", key, error)
            return ()
        return tuple(thinned(points, points_max))

    def steps(self, *, is_kept: bool) -> Iterator[None]:
        """One sample of everything, pausing at each step."""
        trees: dict[AttemptKey, Tree] = {}
        yield from self._census.walk(self._processes.leaders(), self.keeper_pid, trees)
        at = self._clock()
        for key, tree in trees.items():
            yield
            if self._processes.pidfd(key) is not None and tree.processes:
                self._note(key, tree, at, is_kept=is_kept)

    async def _take(self, steps: Iterator[None]) -> None:
        loop = asyncio.get_running_loop()
        begin = loop.time()
        for _ in steps:
            if loop.time() - begin > SLICE_S:
                await asyncio.sleep(PAUSE_S)
                begin = loop.time()
        self._walked_at = loop.time()

    def _note(self, key: AttemptKey, tree: Tree, at: float, *, is_kept: bool) -> None:
        try:
            if key not in self._series:
                self._open(key, tree)
            series = self._series[key]
            last = series.sum.last
            point = _point(tree, at, at - last.at if last else self._sample_s)
            self._now[key] = point
            if is_kept:
                series.add(point)
        except OSError as error:
            if not self._has_complained:
                _log.error("cannot keep the usage of %s: %s; told once", key, error)
            self._has_complained = True

    def _open(self, key: AttemptKey, tree: Tree) -> None:
        series = self._series[key] = Series(self._path(key))
        if (last := series.sum.last) is not None:
            self._census.keep(key, tree, _counters(last))

    def _path(self, key: AttemptKey) -> str:
        return f"{self._layout.home(key)}/{split_attempt_key(key)[1]}.usage"


def _point(tree: Tree, at: float, span_s: float) -> Point:
    used = tree.used
    return Point(
        at=at,
        span_s=max(0.0, span_s),
        samples=1,
        cpu_user_s=used.user / TICKS_PER_S,
        cpu_system_s=used.system / TICKS_PER_S,
        io_read_bytes=used.read if tree.has_io else None,
        io_write_bytes=used.written if tree.has_io else None,
        rss_mean_bytes=tree.rss_bytes,
        rss_max_bytes=tree.rss_bytes,
        processes=tree.processes,
        threads=tree.threads,
        fds=tree.fds,
    )


def _counters(point: Point) -> Counters:
    return Counters(
        round(point.cpu_user_s * TICKS_PER_S),
        round(point.cpu_system_s * TICKS_PER_S),
        point.io_read_bytes or 0,
        point.io_write_bytes or 0,
    )
