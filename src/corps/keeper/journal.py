"""What the keeper knows of its attempts, in memory and in a journal that outlives it.

One pre-allocated file, one writer. A record is `length(4) crc32(4) flag(1) json` and sets fields of
one attempt: replayed in order they give the table back. In the first record of an attempt the flag
is the one-shot right to exec; the child itself marks it, so the checksum leaves it out.
"""

from __future__ import annotations

import binascii
import contextlib
import errno
import fcntl
import json
import os
import struct
import time
from collections.abc import Iterator
from resource import struct_rusage

from corps.keeper.kernel import Fd, log

VERSION = 1
GROW_BYTES = 4 << 20
COMPACT_MIN_BYTES = 1 << 20
RESERVE_BYTES = 4_096  # what a living attempt may still have to write: its exit and usage
HEAD = struct.Struct(">IIB")
FLAG_AT = HEAD.size - 1
FIRST = b'{"t":'  # how every record's JSON begins: the next one is found again behind damage
UNUSED, USED, FAILED, REVOKED = 0, 1, 2, 3  # the right to exec
TOLD = ["key", "pid", "note", "forked_at", "is_live", "executed", "status", "failed_stage"]
TOLD += ["failed_errno", "lost", "ended_at", "usage", "signals"]
KEPT = [*TOLD, "executed_at", "inode", "started"]

Json = dict[str, object]
Launch = tuple[bytes, list[bytes], dict[bytes, bytes], bytes, bytes, bytes]
encode = json.JSONEncoder(separators=(",", ":")).encode


class Attempt:
    """One attempt. The worker is told TOLD, the journal keeps KEPT."""

    pid, note, forked_at, is_live, executed = 0, "", 0.0, False, False
    status: int | None = None
    failed_stage: str | None = None
    failed_errno: int | None = None
    lost: str | None = None
    executed_at: float | None = None
    ended_at: float | None = None
    usage: dict[str, float] | None = None
    signals: tuple[Json, ...] = ()
    inode, started = 0, 0  # of its process: of the pidfd, or where there is none, in ticks
    place = 0  # of its flag in the journal
    pidfd: Fd | None = None
    launch: Launch
    gate: Fd | None = None
    status_pipe: Fd | None = None  # of a child that has not executed yet
    report = b""  # "stage errno" out of that pipe
    doom = "killed_before_exec"  # the failed stage of one that dies without a report
    deadline = float("inf")
    waiting: tuple[int, ...] = ()  # signals for when it has executed

    def __init__(self, key: str) -> None:
        self.key = key

    def fields(self, names: list[str]) -> Json:
        return {name: getattr(self, name) for name in names}


class Journal:
    """The table of attempts, the totals of everything reaped, and the file that keeps both."""

    def __init__(self, boot: str, is_durable: bool) -> None:
        self.table: dict[str, Attempt] = {}
        names = ("children_dead", "cpu_user_s", "cpu_system_s", "max_rss_bytes")
        self.totals: dict[str, float] = dict.fromkeys(names, 0)
        self.file = Fd(os.open("journal", os.O_RDWR | os.O_CREAT, 0o600))
        self._boot, self._is_durable, self._is_dirty = boot, is_durable, False
        self.living = self._end = self._size = self._compact_at = 0
        self._pending = bytearray()

    def load(self) -> bool:
        """Replay the file. False when it is not of this boot."""
        self._size = os.fstat(self.file.number).st_size
        data = os.pread(self.file.number, self._size, 0)
        records = _read(data)
        _, self._end, head = next(records, (0, 0, None))
        if head is None and not data.strip(b"\0"):  # new, or a power loss came before its fsync
            return False
        if head is None or head["t"] != "" or head["version"] != VERSION:
            raise OSError("the journal has no header that this version can read")
        damaged = []
        for start, self._end, record in records:
            if record is None:
                damaged.append(start)
            else:
                self._replay(record, start + FLAG_AT)
        if data[self._end : self._end + HEAD.size].strip(b"\0"):
            log(f"journal: torn last record at byte {self._end} dropped")
        if damaged:
            log(f"journal: damaged at byte {damaged}; the file is kept as journal.corrupt")
            with contextlib.suppress(FileNotFoundError):
                os.unlink("journal.corrupt")
            os.link("journal", "journal.corrupt")
        return head["boot"] == self._boot

    def put(self, attempt: Attempt, **changes: object) -> None:
        """Change an attempt; `write` makes it last."""
        place = self._add({"t": attempt.key} | changes)
        if attempt.key not in self.table:
            self.table[attempt.key] = attempt
            attempt.place = place
        attempt.__dict__.update(changes)

    def forget(self, keys: list[str]) -> None:
        for key in keys:
            del self.table[key]
        if self.has_room(sum(len(key) + 3 for key in keys) + RESERVE_BYTES):
            self._add({"t": "", "forget": keys})
        else:
            self._compact_at = 0

    def keep_totals(self) -> None:
        """After a child was counted whose usage no attempt keeps."""
        self._add({"t": "", "totals": self.totals})

    def has_room(self, size: int) -> bool:
        """`size` more bytes can be written, and all that the living may need, on a full disk."""
        wanted = self._end + len(self._pending) + size + self.living * RESERVE_BYTES
        if wanted > self._size:
            with contextlib.suppress(OSError):
                os.posix_fallocate(self.file.number, self._size, wanted + GROW_BYTES - self._size)
                self._size = wanted + GROW_BYTES
        return wanted <= self._size

    def write(self) -> bool:
        """Write what was put. False: it is in memory only, until a compaction succeeds."""
        data, self._pending = self._pending, bytearray()
        try:
            if data and os.pwrite(self.file.number, data, self._end) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            log(f"journal: {error}")
            self._compact_at = 0
            return False
        self._end += len(data)
        self._is_dirty |= bool(data)
        return True

    def sync(self) -> None:
        if self._is_durable and self._is_dirty:
            os.fdatasync(self.file.number)
        self._is_dirty = False

    def compact(self) -> bool:
        """Rewrite the file when it has grown. No child may be about to mark its flag."""
        if self._end < self._compact_at:
            return True
        data, places = bytearray(_pack({"t": "", "version": VERSION, "boot": self._boot})), []
        for attempt in self.table.values():
            places.append(len(data) + FLAG_AT)
            flag = USED if attempt.is_live else UNUSED
            data += _pack({"t": attempt.key} | attempt.fields(KEPT), flag)
        data += _pack({"t": "", "totals": self.totals})
        size = len(data) + GROW_BYTES
        try:
            new = Fd(os.open("journal.new", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600))
            os.posix_fallocate(new.number, 0, size)
            os.pwrite(new.number, data, 0)
            os.fsync(new.number)
            os.rename("journal.new", "journal")
        except OSError as error:
            log(f"journal: not compacted: {error}")
            self._compact_at = 2 * self._end
            return False
        self.file, self._size, self._end, self._pending = new, size, len(data), bytearray()
        self._compact_at = max(COMPACT_MIN_BYTES, 2 * self._end)
        for attempt, place in zip(self.table.values(), places, strict=True):
            attempt.place = place
        return True

    def flag(self, place: int) -> int:
        return os.pread(self.file.number, 1, place)[0]

    def revoke(self, place: int) -> int:
        """Take an unused right to exec from a child whose keeper died; return the final flag."""
        for _ in range(100):  # the child has a lock from before it looks until exec is over
            with contextlib.suppress(BlockingIOError):
                fcntl.lockf(self.file.number, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
                if self.flag(place) == UNUSED:
                    os.pwrite(self.file.number, bytes([REVOKED]), place)
                fcntl.lockf(self.file.number, fcntl.LOCK_UN, 1, place)
                break
            time.sleep(0.01)
        return self.flag(place)

    def count(self, used: struct_rusage) -> dict[str, float]:
        """Add a reaped child to the totals; return its usage."""
        usage = {"cpu_user_s": round(used.ru_utime, 6), "cpu_system_s": round(used.ru_stime, 6)}
        return self._sum(usage | {"max_rss_bytes": used.ru_maxrss * 1024})

    def _sum(self, usage: dict[str, float]) -> dict[str, float]:
        totals = self.totals
        totals["children_dead"] += 1
        for name in ("cpu_user_s", "cpu_system_s"):
            totals[name] = round(totals[name] + usage[name], 6)
        totals["max_rss_bytes"] = max(totals["max_rss_bytes"], usage["max_rss_bytes"])
        return usage

    def _add(self, record: Json) -> int:
        place = self._end + len(self._pending) + FLAG_AT
        self._pending += _pack(record)
        return place

    def _replay(self, record: Json, place: int) -> None:
        key, totals, forget = str(record.pop("t")), record.get("totals"), record.get("forget")
        if key and key not in self.table:
            self.table[key] = Attempt(key)
            self.table[key].place = place
        if key:
            self.table[key].__dict__.update(record)
        if isinstance(usage := record.get("usage"), dict):
            self._sum(usage)
        if isinstance(totals, dict):
            self.totals = totals
        if isinstance(forget, list):
            for gone in forget:
                self.table.pop(gone, None)


def _pack(record: Json, flag: int = UNUSED) -> bytes:
    body = encode(record).encode()
    return HEAD.pack(len(body), binascii.crc32(body), flag) + body


def _read(data: bytes) -> Iterator[tuple[int, int, Json | None]]:
    """(start, end, record) of each whole record; None for damage between two whole ones."""
    at = 0
    while True:
        body = _body(data, at)
        if body is not None:
            yield at, at + HEAD.size + len(body), json.loads(body)
            at += HEAD.size + len(body)
            continue
        found = at
        while _body(data, found) is None:
            found = data.find(FIRST, found + HEAD.size + 1) - HEAD.size
            if found < 0:
                return
        yield at, found, None
        at = found


def _body(data: bytes, at: int) -> bytes | None:
    if at + HEAD.size > len(data):
        return None
    length, crc, _ = HEAD.unpack_from(data, at)
    body = data[at + HEAD.size : at + HEAD.size + length]
    return body if body and len(body) == length and binascii.crc32(body) == crc else None
