"""logs -f: several logs at once, as they grow, through restarts of everything between.

Where a log was read to is known here alone: whoever answers next is asked from there.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import msgspec

from corps.cli import render
from corps.cli.operator import AGAIN_S, persist
from corps.cli.output import Display, Lines, Source, after, last_lines, lines_of, tail, tell_gone
from corps.client import Client, OutputSlice
from corps.errors import CorpsError, Invalid, NotFound, Unavailable
from corps.model.instance import InstanceState
from corps.model.output_view import GoneView
from corps.model.view import InstanceView

T = TypeVar("T")
FOLLOWED_MAX = 64
WAIT_S = 20.0
AWAY_MAX_S = 60.0
QUEUE_MAX = 256
GATHER_S = 0.1  # so that what is written at the same time on two machines comes in order
NOT_YET = (InstanceState.PENDING, InstanceState.FETCHING, InstanceState.STARTING)


class _Ended(msgspec.Struct, frozen=True):
    """Nothing more comes of a log; `error` says why if it is not its end."""

    instance: str
    error: CorpsError | None = None


class _Gone(msgspec.Struct, frozen=True):
    instance: str
    gone: tuple[GoneView, ...]


class _Begin(msgspec.Struct, frozen=True):
    """Where to go on; `lines`: from the last so many, which nobody could be asked for yet."""

    slice: OutputSlice
    lines: int | None = None


Arrivals = queue.Queue[Lines | _Gone | _Ended]


def follow(
    client: Client,
    sources: Sequence[Source],
    lines: int | None,
    show: Display,
    *,
    goes_on: bool,
) -> None:
    """Show the last `lines` (None: all) and what comes. `goes_on`: later attempts too."""
    if len(sources) > FOLLOWED_MAX:
        raise Invalid(f"{len(sources)} logs to follow: at most {FOLLOWED_MAX}", field="targets")
    arrivals: Arrivals = queue.Queue(QUEUE_MAX)
    begins = [_Begin(source.slice(partial=show.may_tear(source)), lines) for source in sources]
    if lines is not None:
        begins = _show_last(client, sources, begins, show)
    for begin in begins:
        pump = _Pump(Client(client.endpoint), begin, arrivals, goes_on=goes_on)
        threading.Thread(target=pump.run, daemon=True).start()
    failed = sum(_show(arrivals, show, len(sources)))
    show.end()
    if failed:
        raise Unavailable(f"{failed} of {len(sources)} logs could not be followed to the end")


def _show(arrivals: Arrivals, show: Display, followed: int) -> Iterator[bool]:
    """What comes, until the last of the followed has ended; for each whether it failed."""
    is_alone = followed == 1
    while followed:
        for arrival in _next(arrivals, is_alone=is_alone):
            match arrival:
                case Lines():
                    show.feed(arrival)
                case _Gone():
                    tell_gone(arrival.instance, arrival.gone)
                case _Ended():
                    followed -= 1
                    if arrival.error is not None:
                        render.error(f"{arrival.instance}: {arrival.error.message}")
                    yield arrival.error is not None


def _show_last(
    client: Client, sources: Sequence[Source], begins: Sequence[_Begin], show: Display
) -> list[_Begin]:
    """The last lines of all together; where to go on after them."""
    found: list[Lines] = []
    after_them: list[_Begin] = []
    count = begins[0].lines if begins else None
    assert count is not None
    for source, begin in zip(sources, begins, strict=True):
        try:
            last, slice = tail(client, source, count)
        except (NotFound, Unavailable):
            after_them.append(begin)
            continue
        found += last
        slice = msgspec.structs.replace(slice, partial=begin.slice.partial)
        after_them.append(_Begin(slice))
    found.sort(key=lambda lines: lines.at)
    for lines in last_lines(found, count):
        show.feed(lines)
    return after_them


def _next(arrivals: Arrivals, *, is_alone: bool) -> list[Lines | _Gone | _Ended]:
    """What comes next; of several logs in the order of time."""
    batch = [arrivals.get()]
    if is_alone:
        return batch
    time.sleep(GATHER_S)
    while len(batch) < QUEUE_MAX:
        try:
            batch.append(arrivals.get_nowait())
        except queue.Empty:
            break
    lines = sorted((a for a in batch if isinstance(a, Lines)), key=lambda lines: lines.at)
    return [*lines, *(arrival for arrival in batch if not isinstance(arrival, Lines))]


class _Pump:
    """One log into the queue, until nobody writes it any more. Runs in a thread."""

    def __init__(self, client: Client, begin: _Begin, arrivals: Arrivals, *, goes_on: bool) -> None:
        self._client, self._arrivals, self._goes_on = client, arrivals, goes_on
        self._begin = begin
        self._slice = begin.slice
        self._at = 0.0

    def run(self) -> None:
        error: CorpsError | None = None
        try:
            if self._begin.lines is not None:
                self._start_late(self._begin.lines)
            while self._step():
                pass
        except CorpsError as reason:
            error = reason
        finally:
            self._client.close()
            self._arrivals.put(_Ended(self._slice.instance, error))

    def _start_late(self, count: int) -> None:
        slice = self._slice
        assert slice.attempt is not None
        source = Source(slice.instance, slice.attempt, slice.stream, slice.since)
        last, begin = self._persist(partial(tail, self._client, source, count))
        self._put(last)
        self._slice = msgspec.structs.replace(begin, partial=slice.partial)

    def _step(self) -> bool:
        """One answer. False: it was the last one."""
        try:
            view = self._persist(partial(self._client.output, self._slice, WAIT_S))
        except NotFound:
            if self._row().state not in NOT_YET:
                raise
            time.sleep(AGAIN_S)  # it was not even told to its worker
            return True
        if view.gone:
            self._arrivals.put(_Gone(self._slice.instance, view.gone))
        self._put(lines_of(self._slice.instance, view))
        self._slice = after(self._slice, view)
        return not view.is_final or self._is_next()

    def _is_next(self) -> bool:
        """This attempt is over. True when there is, or may be, more to come."""
        if not self._goes_on:
            return False
        try:
            row = self._row()
        except NotFound:
            return False  # removed since
        assert self._slice.attempt is not None
        if row.attempt > self._slice.attempt:
            self._slice = OutputSlice(
                instance=self._slice.instance,
                attempt=self._slice.attempt + 1,
                stream=self._slice.stream,
                partial=self._slice.partial,
            )
            return True
        if row.state == InstanceState.DEAD:
            return False
        time.sleep(AGAIN_S)  # the master has not heard of its end yet
        return True

    def _put(self, found: Sequence[Lines]) -> None:
        for lines in found:
            self._at = max(self._at, lines.at)  # two lives of a worker may disagree a little
            self._arrivals.put(lines._replace(at=self._at))

    def _row(self) -> InstanceView:
        ids = (self._slice.instance,)
        (row,) = self._persist(partial(self._client.instances, ids, with_dead=True))
        return row

    def _persist(self, read: Callable[[], T]) -> T:
        return persist(read, AWAY_MAX_S)
