"""The output of one attempt: two files that the app appends to, one order, offsets for ever.

An offset counts all that was ever written to a stream: it stays what it is when the head of the
file is punched out, and when the app truncates the file. One object for all threads: a piece is
read, and the head is freed, under one lock, so nobody reads a hole.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
import threading
from array import array
from typing import NamedTuple

from corps.store.punch import punch
from corps.wire.output import Note
from corps.worker.marks import Mark, Marks, Page, Place, Times, Why

STREAMS = ("stdout", "stderr")
LINE_MAX_BYTES = 64 << 10
SLACK = 1.25  # of the limit, before the head is freed: not a block at a time
READ_FLAGS = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
MICROSECONDS = 1_000_000
UNWRITTEN_MAX = 1_000
NOTE_EVERY_S = 60.0  # an app may truncate its log ten times a second

_log = logging.getLogger("corps.worker")


class Piece(NamedTuple):
    """Bytes of a stream. `first` is the first byte that can still be read, `why` why not all."""

    offset: int
    data: bytes
    size_bytes: int
    first: int
    why: Why


class _Stream:
    """One file. `size_bytes` is its end, as an offset, when it was last looked at."""

    def __init__(self, path: str, place: Place, size_bytes: int) -> None:
        self.path, self.place, self.size_bytes = path, place, size_bytes
        self.fd: int | None = None
        self.error: OSError | None = None

    def __del__(self) -> None:
        if self.fd is not None:
            os.close(self.fd)

    def open(self) -> bool:
        """False while there is no file; `error` says what stands in its place."""
        if self.fd is not None:
            return True
        try:
            fd = _open(self.path)
        except OSError as error:
            self.error = None if isinstance(error, FileNotFoundError) else error
            return False
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            self.error = OSError(0, "it is no regular file")
            return False
        self.fd, self.error = fd, None
        return True

    def read(self, offset: int, limit_bytes: int) -> bytes:
        if self.fd is None or offset >= self.size_bytes:
            return b""
        limit_bytes = min(limit_bytes, self.size_bytes - offset)
        return os.pread(self.fd, limit_bytes, offset - self.place.base)

    def disk_bytes(self) -> int:
        return 0 if self.fd is None else os.fstat(self.fd).st_blocks * 512


class AttemptLog:
    """`is_live`: the app may still write, and its marks are written down."""

    def __init__(self, stem: str, instance: str, limit_bytes: int) -> None:
        self.instance, self.is_live = instance, False
        self._lock = threading.RLock()
        self._times = Times(f"{stem}.times")
        page = self._times.load()
        self._page = page or Page(limit_bytes)
        self._last = self._times.last()
        self._unwritten = array("q")
        self._looked_at = self._last.at
        self._has_complained = False
        self._note_at = 0.0
        self._streams = [
            _Stream(f"{stem}.{name}", place, size)
            for name, place, size in zip(STREAMS, self._page[1:], self._last[1:], strict=True)
        ]
        for stream in self._streams:
            if stream.open():
                self._settle(stream, is_known=page is not None)

    def go_live(self, limit_bytes: int) -> None:
        """The app is there. The limit holds unless an earlier life wrote another one down."""
        with self._lock:
            self.is_live = True
            if not self._times.is_there:
                self._page = self._page._replace(limit_bytes=limit_bytes)

    @property
    def exists(self) -> bool:
        return any(stream.fd is not None for stream in self._streams)

    def error(self) -> OSError | None:
        """What is in the place of a file, if anything is."""
        return next((stream.error for stream in self._streams if stream.error), None)

    def peek(self) -> tuple[int, ...]:
        """Cheap, and takes no lock: another value means that there is something new."""
        with contextlib.suppress(OSError):  # then the next look tells
            return tuple(
                -1 if stream.fd is None else os.fstat(stream.fd).st_size for stream in self._streams
            )
        return ()

    def look(self, now: float) -> tuple[bool, list[Note]]:
        """See how far the streams have come. Whether they grew, and what else happened. OSError."""
        with self._lock:
            at = int(now * MICROSECONDS)
            notes: list[Note] = []
            grown: list[tuple[int, int]] = []
            for index, stream in enumerate(self._streams):
                if not stream.open():
                    continue
                assert stream.fd is not None
                status = os.fstat(stream.fd)
                size = stream.place.base + status.st_size
                if size < stream.size_bytes:
                    notes += self._truncated(index, status.st_size, now)
                    size = stream.place.base + status.st_size
                if size > stream.size_bytes:
                    grown.append((status.st_mtime_ns // 1_000, index))
                    stream.size_bytes = size
            # The one that was written to earlier comes first: finer than the time of this look.
            for written_at, index in sorted(grown):
                self._mark(min(max(written_at, self._looked_at), at), index)
            self._looked_at = max(self._looked_at, at)
            return bool(grown), notes

    def enforce(self) -> list[Note]:
        """Free the head of what exceeds its limit."""
        limit = self._page.limit_bytes
        with self._lock:
            return [
                note
                for stream in self._streams
                if stream.size_bytes - stream.place.first > limit * SLACK
                for note in self._trim(stream, limit, Why.LIMIT)
            ]

    def shrink(self, keep_bytes: int) -> int:
        """Free all but the last bytes of each stream for others' sake; how much that was."""
        with self._lock:
            before = self.disk_bytes()
            for stream in self._streams:
                if stream.size_bytes - stream.place.first > keep_bytes:
                    self._trim(stream, keep_bytes, Why.RESERVE)
            return before - self.disk_bytes()

    def disk_bytes(self) -> int:
        return sum(stream.disk_bytes() for stream in self._streams)

    def remember_limit(self) -> None:
        """Before the first byte, where the limit is not what it is for everyone."""
        with self._lock:
            self._save()

    def read(self, name: str, offset: int, limit_bytes: int) -> Piece:
        """From `offset` on; where that is gone, from the first line that is whole.

        Negative offsets count from the end.
        """
        stream = self._streams[STREAMS.index(name)]
        with self._lock:
            first, size = stream.place.first, stream.size_bytes
            if offset < 0:
                offset = max(0, size + offset)
            if offset < first:
                offset = first = self._line_after(stream, first)
            data = stream.read(offset, limit_bytes)
            return Piece(offset, data, size, first, stream.place.why)

    def line_start(self, name: str, offset: int) -> int:
        """Where the line of this byte begins, if that is near."""
        stream = self._streams[STREAMS.index(name)]
        with self._lock:
            begin = max(stream.place.first, offset - LINE_MAX_BYTES)
            if offset <= begin:
                return offset
            data = stream.read(begin, offset - begin)
            at = data.rfind(b"\n")
            return begin + at + 1 if at >= 0 or begin == stream.place.first else offset

    def line_after(self, name: str, offset: int) -> int:
        """Where the first line begins that begins at or after this byte, if that is near."""
        stream = self._streams[STREAMS.index(name)]
        with self._lock:
            if offset <= stream.place.first:
                return offset
            at = stream.read(offset - 1, LINE_MAX_BYTES).find(b"\n")
            return offset + at if at >= 0 else offset

    def marks(self) -> Marks:
        with self._lock:
            return Marks(self._times.read() + self._unwritten)

    # ---- inside the lock

    def _mark(self, at: int, index: int) -> None:
        """One stream came so far. The dead are not written about any more."""
        sizes = [self._last.stdout, self._last.stderr]
        sizes[index] = self._streams[index].size_bytes
        self._last = mark = Mark(max(at, self._last.at), *sizes)
        if self.is_live:
            try:
                if not self._times.is_there:
                    self._times.save(self._page)
                self._flush()
                self._times.append(mark)
            except OSError as error:
                self._complain("no times", error)
            else:
                return
        self._unwritten = self._unwritten[-3 * UNWRITTEN_MAX :] + array("q", mark)

    def _flush(self) -> None:
        while self._unwritten:
            self._times.append(Mark(*self._unwritten[:3]))
            del self._unwritten[:3]

    def _truncated(self, index: int, left_bytes: int, now: float) -> list[Note]:
        """The file is shorter than it was: what is in it now counts as new, all before is gone."""
        stream = self._streams[index]
        gone = stream.size_bytes - stream.place.first
        place = Place(stream.size_bytes, stream.size_bytes, Why.APP)
        stream.place = place
        with contextlib.suppress(OSError):  # then who opens it anew finds the same once more
            self._save()
        text = f"it truncated its {STREAMS[index]} to {left_bytes} bytes: {gone} bytes are gone"
        if now < self._note_at:
            return []
        self._note_at = now + NOTE_EVERY_S
        return [Note(kind="log-truncated", subject=self.instance, message=text)]

    def _trim(self, stream: _Stream, keep_bytes: int, why: Why) -> list[Note]:
        """Whole blocks before the last `keep_bytes`. First it is written that they are gone."""
        if stream.fd is None:
            return []
        old, block = stream.place, os.fstat(stream.fd).st_blksize
        end = (stream.size_bytes - keep_bytes - old.base) // block * block
        begin = (old.first - old.base) // block * block
        if old.base + end <= old.first:
            return []
        stream.place = old._replace(first=old.base + end, why=why)
        try:
            self._save()
        except OSError as error:
            if self._times.is_there or old.base:
                stream.place = old
                self._complain("not trimmed", error)
                return []
            # A full disk has no room even for the page: then the hole itself says what is gone.
        try:
            if punch(stream.fd, begin, end - begin):
                return []
            return self._cut(stream)
        except OSError as error:
            self._complain("not trimmed", error)
            return []

    def _cut(self, stream: _Stream) -> list[Note]:
        """No holes here: all of it goes, and what is written while it goes."""
        assert stream.fd is not None
        gone, end = stream.size_bytes - stream.place.base, stream.size_bytes
        stream.place = Place(end, end, Why.CUT, is_cutting=True)
        self._save()
        os.ftruncate(stream.fd, 0)
        stream.place = Place(end, end, Why.CUT)
        self._save()
        text = f"its filesystem cannot punch holes: all {gone} bytes of a stream had to go"
        return [Note(kind="log-cut", subject=self.instance, message=text)]

    def _settle(self, stream: _Stream, *, is_known: bool) -> None:
        """Just opened: finish what a crash broke off; without a page the hole says where it is."""
        assert stream.fd is not None
        size = os.fstat(stream.fd).st_size
        if stream.place.is_cutting:
            with contextlib.suppress(OSError):  # then it is still there, and counts as new
                os.ftruncate(stream.fd, 0)
            stream.place = stream.place._replace(is_cutting=False)
        elif not is_known and size:
            try:
                first = os.lseek(stream.fd, 0, os.SEEK_DATA)
            except OSError:  # ENXIO: nothing but a hole
                first = size
            stream.place = Place(0, first, Why.RESERVE if first else Why.NOTHING)

    def _line_after(self, stream: _Stream, first: int) -> int:
        if stream.place.why in (Why.NOTHING, Why.APP):
            return first
        at = stream.read(first, LINE_MAX_BYTES).find(b"\n")
        return first + at + 1

    def _save(self) -> None:
        stdout, stderr = (stream.place for stream in self._streams)
        self._page = self._page._replace(stdout=stdout, stderr=stderr)
        self._times.save(self._page)

    def _complain(self, what: str, error: OSError) -> None:
        if not self._has_complained:
            self._has_complained = True
            _log.warning("log of %s: %s: %s", self.instance, what, error)


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDWR | READ_FLAGS)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
    return os.open(path, os.O_RDONLY | READ_FLAGS)  # to be read all the same
