"""Captured output: where it lies, and reading it in pieces, also while it grows."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

from corps.errors import CorpsError, Invalid
from corps.model.name import AttemptKey, split_attempt_key
from corps.wire.worker import LOG_CHUNK_MAX_BYTES, LogRead, ReadLog

POLL_S = 0.05
ATTEMPTS_KEPT = 10  # of one instance: their logs
STREAMS = ("stdout", "stderr")


class Layout:
    """Where the files of each instance lie below the worker's directory."""

    def __init__(self, directory: Path) -> None:
        self._root = f"{directory}/instances"
        os.makedirs(self._root, mode=0o700, exist_ok=True)

    def home(self, key: AttemptKey) -> str:
        """The directory of an instance; raise Invalid for what is no attempt."""
        return f"{self._root}/{split_attempt_key(key)[0]}"

    def work(self, key: AttemptKey) -> str:
        """Where it runs when no other directory is asked for."""
        return f"{self.home(key)}/work"

    def log(self, key: AttemptKey, stream: str) -> str:
        if stream not in STREAMS:
            raise Invalid(f"no stream {stream[:20]!r}: stdout or stderr", field="stream")
        instance, attempt = split_attempt_key(key)
        return f"{self._root}/{instance}/{attempt}.{stream}"

    def make(self, key: AttemptKey) -> str:
        """Make the directories of an instance; returns where it runs. Raise OSError."""
        work = self.work(key)
        for path in (self.home(key), work):
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, 0o700)
        self._drop_old(key)
        return work

    def _drop_old(self, key: AttemptKey) -> None:
        """A crash loop leaves the logs of its newest attempts only."""
        newest = split_attempt_key(key)[1]
        if newest <= ATTEMPTS_KEPT:
            return
        for name in os.listdir(self.home(key)):
            attempt = name.partition(".")[0]
            if attempt.isdecimal() and int(attempt) <= newest - ATTEMPTS_KEPT:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(f"{self.home(key)}/{name}")


async def read_log(layout: Layout, question: ReadLog, is_running: Callable[[], bool]) -> LogRead:
    """One piece. At the end of a log that still grows, wait up to `wait_s` for more."""
    loop = asyncio.get_running_loop()
    end = loop.time() + question.wait_s
    while True:
        # Asked before reading: what is written after the answer "over" is nobody's.
        running = is_running()
        answer = await asyncio.to_thread(_read, layout, question, running)
        if answer.data or answer.error or answer.is_final or loop.time() >= end:
            return answer
        await asyncio.sleep(POLL_S)


def _read(layout: Layout, question: ReadLog, running: bool) -> LogRead:
    try:
        path = layout.log(question.key, question.stream)
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return _empty(question, running, _missing(layout, question, running))
    except (OSError, CorpsError) as error:
        return _empty(question, running, f"cannot read the log of {question.key!r}: {error}")
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            return _empty(question, running, f"the log of {question.key!r} is no regular file")
        offset = question.offset
        if offset < 0:
            offset = max(0, status.st_size + offset)
        limit = min(max(question.limit_bytes, 0), LOG_CHUNK_MAX_BYTES)
        data = os.pread(fd, limit, offset)
        return LogRead(
            ask=question.ask,
            offset=offset,
            data=data,
            size_bytes=status.st_size,
            is_final=not running and offset + len(data) >= status.st_size,
        )
    finally:
        os.close(fd)


def _missing(layout: Layout, question: ReadLog, running: bool) -> str | None:
    """None for a log that is only not there yet, or never will be because nothing ran."""
    if running or os.path.isdir(layout.home(question.key)):
        return None
    return f"there is no log of {question.key!r} on this worker"


def _empty(question: ReadLog, running: bool, error: str | None) -> LogRead:
    return LogRead(
        ask=question.ask,
        offset=max(0, question.offset),
        data=b"",
        size_bytes=0,
        is_final=not running,
        error=error,
    )
