"""The watch over the output of a worker's apps: times, limits, the disk's reserve, and readers.

A look costs one fstat a file and reads nothing. It happens in a thread of its own, so that freeing
a gigabyte keeps no heartbeat back.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import assert_never
from weakref import WeakValueDictionary

from corps.clock import Clock
from corps.errors import CorpsError, NotFound
from corps.model.name import AttemptKey, split_attempt_key
from corps.model.terms import LOG_DEFAULT_BYTES
from corps.wire.keeper import (
    Cleared,
    Ended,
    FromKeeper,
    Listing,
    Refused,
    Signaled,
    Spawned,
    Stuck,
    TotalsNow,
)
from corps.wire.output import LOG_CHUNK_MAX_BYTES, Note
from corps.wire.worker import LogRead, OutputRead, ReadLog, ReadOutput
from corps.worker.attempt_log import AttemptLog
from corps.worker.layout import Layout
from corps.worker.output import REASONS, merge
from corps.worker.reserve import FLOOR_BYTES, Reserve, Shrink

LOOK_EVERY_S = 0.1
QUIET_EVERY_S = 0.5
IDLE_EVERY_S = 2.0
LOOK_SHARE = 20  # a look that takes long is taken that much less often
PAUSE_MAX_S = 1.0
POLL_S = 0.05
OPEN_MAX = 64  # logs of the dead that stay open for the next question
NOTES_MAX = 100
FOLLOWERS_MAX = 256
FOLLOWERS_OF_ONE_MAX = 64

Question = ReadLog | ReadOutput
_log = logging.getLogger("corps.worker")


class Watch:
    """`is_running` knows which attempts may write."""

    def __init__(
        self,
        layout: Layout,
        clock: Clock,
        is_running: Callable[[AttemptKey], bool],
        reserve_bytes: int | None,
    ) -> None:
        self._layout, self._clock, self._is_running = layout, clock, is_running
        self._lock = threading.Lock()
        self._limits: dict[AttemptKey, int] = {}
        self._live: dict[AttemptKey, AttemptLog] = {}
        self._dead: OrderedDict[AttemptKey, AttemptLog] = OrderedDict()
        self._known: WeakValueDictionary[AttemptKey, AttemptLog] = WeakValueDictionary()
        self._reserve = Reserve(layout.root, reserve_bytes, self._shrinkable)
        self._followers: Counter[AttemptKey] = Counter()
        self._notes: deque[Note] = deque(maxlen=NOTES_MAX)  # what readers saw first
        self._complained: dict[AttemptKey, None] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="logs")
        self._look_at = 0.0
        self._is_looking = False

    @property
    def refusal(self) -> str | None:
        """Why nothing new may start now."""
        return self._reserve.refusal

    def expect(self, key: AttemptKey, limit_bytes: int) -> None:
        """It is about to be spawned. An unusual limit is remembered for the next life. OSError."""
        instance = key.rpartition("#")[0]
        with self._lock:
            self._limits[key] = limit_bytes
            # Of earlier attempts the oldest are deleted now: held open they would keep their room.
            for dead in [dead for dead in self._dead if dead.rpartition("#")[0] == instance]:
                del self._dead[dead]
        if limit_bytes != LOG_DEFAULT_BYTES:
            self._open(key, limit_bytes).remember_limit()

    def keeper_said(self, message: FromKeeper) -> None:
        """Look at the output of what runs. Whoever asks for another later opens it again."""
        match message:
            case Listing():
                for kept in message.attempts:
                    self._set(kept.key, is_live=kept.is_live)
            case Spawned():
                self._set(message.key, is_live=True)
            case Ended():
                self._set(message.attempt.key, is_live=False)
            case Refused(key=str(key)):
                self._set(key, is_live=False)
            case Refused() | Signaled() | TotalsNow() | Stuck() | Cleared():
                pass
            case _:
                assert_never(message)

    def _set(self, key: AttemptKey, *, is_live: bool) -> None:
        with self._lock:
            if is_live:
                self._limits.setdefault(key, LOG_DEFAULT_BYTES)
                return
            self._limits.pop(key, None)
            log = self._live.pop(key, None)
        if log is not None:
            log.is_live = False

    def forget(self, key: AttemptKey) -> None:
        """The files of its instance are about to be deleted, those of earlier attempts too."""
        self._set(key, is_live=False)
        instance, _ = split_attempt_key(key)
        with self._lock:
            for known in [known for known in self._known if known.rpartition("#")[0] == instance]:
                self._dead.pop(known, None)
                self._known.pop(known, None)

    def is_due(self) -> bool:
        return not self._is_looking and asyncio.get_running_loop().time() >= self._look_at

    async def look(self) -> list[Note]:
        """At every log, and at the disk; what operators should hear of it."""
        loop = asyncio.get_running_loop()
        self._is_looking = True
        begin = loop.time()
        try:
            has_grown, notes = await loop.run_in_executor(self._thread, self._look)
        finally:
            self._is_looking = False
        every_s = LOOK_EVERY_S if has_grown or self.refusal else QUIET_EVERY_S
        if not self._limits:
            every_s = IDLE_EVERY_S
        pause_s = min(LOOK_SHARE * (loop.time() - begin), PAUSE_MAX_S)
        self._look_at = begin + max(every_s, pause_s)
        return notes

    async def read(self, question: Question) -> LogRead | OutputRead:
        """One piece. At the end of a log that still grows, wait up to `wait_s` for more."""
        busy = self._busy(question.key)
        if busy is not None:
            return _refuse(question, busy, "unavailable")
        self._followers[question.key] += 1
        try:
            return await self._read(question)
        finally:
            self._followers[question.key] -= 1
            if not self._followers[question.key]:
                del self._followers[question.key]

    def close(self) -> None:
        self._thread.shutdown()

    # ---- readers

    def _busy(self, key: AttemptKey) -> str | None:
        if self._followers[key] >= FOLLOWERS_OF_ONE_MAX:
            return f"{FOLLOWERS_OF_ONE_MAX} others read the log of {key!r} now: try again"
        if self._followers.total() >= FOLLOWERS_MAX:
            return f"{FOLLOWERS_MAX} others read logs of this worker now: try again"
        return None

    async def _read(self, question: Question) -> LogRead | OutputRead:
        loop = asyncio.get_running_loop()
        end = loop.time() + question.wait_s
        while True:
            # Asked before reading: what is written after the answer "over" is nobody's.
            running = self._is_running(question.key)
            answer, log, seen = await asyncio.to_thread(self._answer, question, running)
            if log is None or _says_something(answer) or loop.time() >= end:
                return answer
            await asyncio.sleep(POLL_S)
            while log.peek() == seen and loop.time() < end:
                if self._is_running(question.key) != running:
                    break
                await asyncio.sleep(POLL_S)

    def _answer(
        self, question: Question, running: bool
    ) -> tuple[LogRead | OutputRead, AttemptLog | None, tuple[int, ...]]:
        try:
            log = self._find(question.key)
            seen = log.peek()
            _, notes = log.look(self._clock())
            self._notes.extend(notes)
            if (obstacle := log.error()) is not None:
                raise obstacle
            self._check_there(log, question.key, running=running)
            if isinstance(question, ReadOutput):
                return merge(log, question, is_over=not running), log, seen
            return _read_stream(log, question, is_over=not running), log, seen
        except CorpsError as error:
            return _refuse(question, error.message, error.code), None, ()
        except OSError as error:
            text = f"cannot read the log of {question.key!r}: {error}"
            return _refuse(question, text, "not_found"), None, ()

    def _check_there(self, log: AttemptLog, key: AttemptKey, *, running: bool) -> None:
        """Raise NotFound unless it is there, or only not there yet, or nothing ever ran."""
        if not log.exists and not running and not os.path.isdir(self._layout.home(key)):
            raise NotFound(f"there is no log of {key!r} on this worker")

    def _find(self, key: AttemptKey) -> AttemptLog:
        """The one object of an attempt, as long as anybody holds it."""
        with self._lock:
            log = self._known.get(key)
            if log is None:
                limit_bytes = self._limits.get(key, LOG_DEFAULT_BYTES)
                log = self._known[key] = self._open(key, limit_bytes)
            if key in self._limits:
                if key not in self._live:
                    log.go_live(self._limits[key])
                self._live[key] = log
            else:
                self._dead[key] = log
                self._dead.move_to_end(key)
                if len(self._dead) > OPEN_MAX:
                    self._dead.popitem(last=False)
        return log

    def _open(self, key: AttemptKey, limit_bytes: int) -> AttemptLog:
        instance, _ = split_attempt_key(key)
        return AttemptLog(self._layout.stem(key), instance, limit_bytes)

    # ---- the look, in its thread

    def _look(self) -> tuple[bool, list[Note]]:
        has_grown, notes = False, []
        with self._lock:
            keys = list(self._limits)
        for key in keys:
            try:
                log = self._find(key)
                grown, said = log.look(self._clock())
                notes += said
                notes += log.enforce()  # a reader may have seen the growth first
            except OSError as error:  # of a failing disk: the next look may do better
                self._complain(key, error)
            else:
                has_grown = has_grown or grown
        while self._notes:
            notes.append(self._notes.popleft())
        return has_grown, notes + self._reserve.check(self._clock())

    def _shrinkable(self) -> Iterator[tuple[int, Shrink]]:
        """Every log on this worker that is worth it, of the dead too."""
        for key in self._layout.attempts():
            size_bytes = self._layout.disk_bytes(key)
            if size_bytes > 2 * FLOOR_BYTES:
                yield size_bytes, partial(self._shrink, key)

    def _shrink(self, key: AttemptKey) -> int:
        try:
            log = self._find(key)
            _, notes = log.look(self._clock())
            self._notes.extend(notes)
            return log.shrink(FLOOR_BYTES)
        except OSError as error:
            self._complain(key, error)
            return 0

    def _complain(self, key: AttemptKey, error: OSError) -> None:
        """Once a log: it would be said ten times a second."""
        if key not in self._complained:
            self._complained[key] = None
            _log.warning("the log of %s: %s", key, error)
            if len(self._complained) > NOTES_MAX:
                self._complained.clear()


def _read_stream(log: AttemptLog, question: ReadLog, *, is_over: bool) -> LogRead:
    limit_bytes = min(max(question.limit_bytes, 0), LOG_CHUNK_MAX_BYTES)
    piece = log.read(question.stream, question.offset, limit_bytes)
    return LogRead(
        ask=question.ask,
        offset=piece.offset,
        data=piece.data,
        size_bytes=piece.size_bytes,
        is_final=is_over and piece.offset + len(piece.data) >= piece.size_bytes,
        first=piece.first,
        why=REASONS[piece.why] or None,
    )


def _refuse(question: Question, text: str, code: str) -> LogRead | OutputRead:
    if isinstance(question, ReadOutput):
        return OutputRead(ask=question.ask, error=text, code=code)
    return LogRead(
        ask=question.ask,
        offset=max(0, question.offset),
        data=b"",
        size_bytes=0,
        is_final=False,
        error=text,
        code=code,
    )


def _says_something(answer: LogRead | OutputRead) -> bool:
    has_bytes = answer.data if isinstance(answer, LogRead) else answer.pieces or answer.gone
    return bool(has_bytes or answer.error or answer.is_final)
