"""K.times: when each byte of an attempt's output was there, to the granularity of a look.

One page says where the streams begin; marks follow: at this time stdout had so many bytes, and
stderr so many. Only whoever watches a living log writes it. Times are microseconds.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import struct
import zlib
from array import array
from bisect import bisect_left
from enum import IntEnum
from typing import NamedTuple

PAGE_BYTES = 4_096  # written whole at the start: it can be rewritten on a full disk
MARK = struct.Struct("=qqq")  # native: the file never leaves the machine
MARKS_MAX = ((256 << 10) - PAGE_BYTES) // MARK.size
_MAGIC = b"corpslg1"
_PAGE = struct.Struct("=8sIq8q")
_CRC_AT = struct.Struct("=8sI").size
OPEN_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


class Why(IntEnum):
    """What took the bytes before the first one kept."""

    NOTHING = 0
    LIMIT = 1
    RESERVE = 2
    APP = 3
    CUT = 4  # for the limit, on a filesystem that cannot punch holes


class Place(NamedTuple):
    """Where a stream's file stands in all that was ever written to it.

    base: the offset of the file's first byte. first: the first offset that can still be read.
    is_cutting: the file was about to be emptied.
    """

    base: int = 0
    first: int = 0
    why: Why = Why.NOTHING
    is_cutting: bool = False


class Mark(NamedTuple):
    """At `at` the streams ended here."""

    at: int
    stdout: int
    stderr: int


class Page(NamedTuple):
    limit_bytes: int
    stdout: Place = Place()
    stderr: Place = Place()


class Marks:
    """Marks in order; no time and no size ever falls."""

    def __init__(self, flat: array[int]) -> None:
        self._at, self._ends = flat[0::3], (flat[1::3], flat[2::3])

    def __len__(self) -> int:
        return len(self._at)

    def __getitem__(self, index: int) -> Mark:
        return Mark(self._at[index], self._ends[0][index], self._ends[1][index])

    def before(self, at: int) -> Mark:
        """The last mark before a time: what was written later came after it."""
        index = bisect_left(self._at, at)
        return self[index - 1] if index else Mark(0, 0, 0)

    def next_after(self, stdout: int, stderr: int) -> int:
        """The first mark that has bytes beyond these offsets."""
        pairs = zip(self._ends, (stdout, stderr), strict=True)
        return min(bisect_left(ends, end + 1) for ends, end in pairs)

    def back(self, size_bytes: int) -> tuple[int, int]:
        """The offsets, in the order of time, so many bytes before the end."""
        low, high = 0, len(self)
        if not high:
            return 0, 0
        last = self[high - 1]
        wanted = last.stdout + last.stderr - max(0, size_bytes)
        if wanted <= 0:
            return 0, 0
        while low < high:  # the first mark that has `wanted` bytes
            middle = (low + high) // 2
            if self._ends[0][middle] + self._ends[1][middle] >= wanted:
                high = middle
            else:
                low = middle + 1
        before = self[low - 1] if low else Mark(0, 0, 0)
        after = self[low]
        stdout = min(after.stdout, wanted - before.stderr)  # stdout comes first within a mark
        return stdout, wanted - stdout


def thinned(flat: array[int]) -> array[int]:
    """Three quarters of the marks: those go that tell least for their age, no two neighbours.

    So the time between two marks comes to be a share of their age, the same share everywhere.
    """
    at = flat[0::3]
    count, now = len(at), at[-1] + 1
    worth = [(at[n + 1] - at[n - 1]) / (now - at[n]) for n in range(1, count - 1)]
    is_kept = bytearray(b"\1" * count)
    to_go = count // 4
    for number in sorted(range(1, count - 1), key=lambda number: worth[number - 1]):
        if is_kept[number - 1] and is_kept[number + 1]:
            is_kept[number] = 0
            to_go -= 1
            if not to_go:
                break
    kept = array("q")
    for number in range(count):
        if is_kept[number]:
            kept += flat[3 * number : 3 * number + 3]
    return kept


class Times:
    """The file. What cannot be written is lost without harm: marks get coarser."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd: int | None = None
        self._count = 0
        with contextlib.suppress(OSError):  # what is in its place, if anything, is left alone
            self._open(os.open(path, OPEN_FLAGS))

    def __del__(self) -> None:
        if self._fd is not None:
            os.close(self._fd)

    @property
    def is_there(self) -> bool:
        return self._fd is not None

    def load(self) -> Page | None:
        """None: no such file, or nothing that we wrote whole."""
        if self._fd is None:
            return None
        data = os.pread(self._fd, _PAGE.size, 0)
        if len(data) < _PAGE.size:
            return None
        magic, crc, limit_bytes, *numbers = _PAGE.unpack(data)
        if magic != _MAGIC or crc != zlib.crc32(data[_CRC_AT:]):
            return None
        base, first, why, is_cutting = numbers[:4]
        stdout = Place(base, first, Why(why), bool(is_cutting))
        base, first, why, is_cutting = numbers[4:]
        return Page(limit_bytes, stdout, Place(base, first, Why(why), bool(is_cutting)))

    def save(self, page: Page) -> None:
        """Raise OSError: then nothing may be done that rests on it."""
        body = _PAGE.pack(_MAGIC, 0, page.limit_bytes, *page.stdout, *page.stderr)[_CRC_AT:]
        data = _MAGIC + struct.pack("=I", zlib.crc32(body)) + body
        if self._fd is None:
            self._make(data.ljust(PAGE_BYTES, b"\0"))
        else:
            os.pwrite(self._fd, data, 0)

    def read(self) -> array[int]:
        """All marks, flat: time, stdout, stderr, and so on."""
        flat = array("q")
        if self._fd is not None:
            data = os.pread(self._fd, self._count * MARK.size, PAGE_BYTES)
            flat.frombytes(data[: len(data) // MARK.size * MARK.size])
        return flat

    def last(self) -> Mark:
        if self._fd is None or not self._count:
            return Mark(0, 0, 0)
        at = PAGE_BYTES + (self._count - 1) * MARK.size
        return Mark(*MARK.unpack(os.pread(self._fd, MARK.size, at)))

    def append(self, mark: Mark) -> None:
        """Raise OSError when there is no room for it."""
        assert self._fd is not None
        if self._count >= MARKS_MAX:
            self._thin()
        at = PAGE_BYTES + self._count * MARK.size
        if os.pwrite(self._fd, MARK.pack(*mark), at) == MARK.size:
            self._count += 1

    def _open(self, fd: int) -> None:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            os.close(fd)
            return
        self._fd = fd
        self._count = min(max(0, status.st_size - PAGE_BYTES) // MARK.size, MARKS_MAX)
        if self.load() is None:  # broken off while it was made
            os.close(fd)
            self._fd, self._count = None, 0
            os.unlink(self._path)

    def _make(self, page: bytes) -> None:
        fd = os.open(self._path, OPEN_FLAGS | os.O_CREAT | os.O_EXCL, 0o600)
        if os.pwrite(fd, page, 0) != len(page):
            os.close(fd)
            os.unlink(self._path)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._fd, self._count = fd, 0

    def _thin(self) -> None:
        """A quarter goes. A crash leaves the old file or the new one."""
        assert self._fd is not None
        kept = thinned(self.read())
        data = os.pread(self._fd, PAGE_BYTES, 0) + kept.tobytes()
        new = f"{self._path}.new"
        fd = os.open(new, OPEN_FLAGS | os.O_CREAT | os.O_TRUNC, 0o600)
        if os.pwrite(fd, data, 0) != len(data):
            os.close(fd)
            os.unlink(new)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.rename(new, self._path)
        os.close(self._fd)
        self._fd, self._count = fd, len(kept) // 3
