"""The journal: what must outlive the keeper. One pre-allocated file, one writer.

A record is `length(4) crc32(4) flag(1) floor(4) json` and sets fields of one attempt: replayed in
order they give the table back. In the first record of an attempt the flag is its one-shot right to
exec, and floor the resident set in KiB it had before: the child itself writes them, so the checksum
leaves them out.
"""

from __future__ import annotations

import binascii
import contextlib
import errno
import json
import os
import select
import struct
import time

from corps.keeper.limits import Json
from corps.keeper.process import MARK, UNUSED, USED, Child, Fd

VERSION = 2
GROW_BYTES, COMPACT_MIN_BYTES = 4 << 20, 1 << 20
SIGNALS_MAX = 20  # that are kept of an attempt
RESERVE_BYTES = 4_096  # what a living attempt may still have to write: its exit and usage
HEAD = struct.Struct(">IIBI")  # the last two: process.MARK
FIRST = b'{"t":'  # how every record's JSON begins: the next one is found again behind damage
HEADLESS = {"pid": 0, "note": "", "forked_at": 0.0, "is_live": False, "executed": True}
HEADLESS |= {"lost": "its record in the journal is damaged"}
ZERO = {"children_dead": 0, "cpu_user_s": 0.0, "cpu_system_s": 0.0, "max_rss_bytes": 0}

encode = json.JSONEncoder(separators=(",", ":")).encode


def log(text: str) -> None:
    """One line on stderr; dropped when it would block or nobody reads there."""
    with contextlib.suppress(OSError):
        if select.select([], [2], [], 0)[1]:
            os.write(2, f"corps keeper: {text}\n".encode(errors="backslashreplace"))


class Journal:
    """`table`: what is known of each attempt; `living`: what is held of those that live."""

    def __init__(self, boot: str, is_durable: bool) -> None:
        self.table: dict[str, Json] = {}
        self.living: dict[str, Child] = {}
        self.totals: Json = dict(ZERO)
        self.file = Fd(os.open("journal", os.O_RDWR | os.O_CREAT, 0o600))
        since_s = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        self._head: Json = {"t": "", "version": VERSION, "boot": boot, "since": since_s}
        self._is_durable, self._is_dirty, self._pending = is_durable, False, bytearray()
        self._size = os.fstat(self.file.number).st_size
        self._end = self._limit = 0
        self.is_of_this_boot = self._load()

    def now(self) -> float:
        """Unix seconds that no step of the clock reaches, for all keepers of one boot."""
        return round(float(self._head["since"]) + time.clock_gettime(time.CLOCK_BOOTTIME), 6)

    def put(self, key: str, **changes: object) -> None:
        """Change an attempt; `write` makes it last."""
        place = self.add({"t": key} | changes)
        self.table.setdefault(key, {"place": place}).update(changes)

    def note_signal(self, key: str, number: int, note: str) -> None:
        """Before it is sent: whoever takes over should know whose signal that may have been."""
        if self.has_room(2 * RESERVE_BYTES):
            sending = {"signal": number, "at": self.now()} | ({"note": note} if note else {})
            self.put(key, sending=sending)
            self.write()

    def note_sent(self, key: str) -> None:
        kept = self.table[key]
        if kept.get("sending"):
            signals = [*kept.get("signals", ()), kept["sending"]][-SIGNALS_MAX:]
            self.put(key, signals=signals, sending=None)

    def forget(self, keys: list[str]) -> None:
        for key in keys:
            del self.table[key]
        if self.has_room(sum(len(key) + 3 for key in keys) + RESERVE_BYTES):
            self.add({"t": "", "forget": keys})
        else:
            self._limit = 0

    def add(self, record: Json, flag: int = UNUSED) -> int:
        body = encode(record).encode()
        place = self._end + len(self._pending) + HEAD.size - MARK.size
        self._pending += HEAD.pack(len(body), binascii.crc32(body), flag, 0) + body
        return place

    def has_room(self, size: int) -> bool:
        """`size` bytes, and all that the living may need, can be written even on a full disk."""
        wanted = self._end + len(self._pending) + size + len(self.living) * RESERVE_BYTES
        if wanted > self._size:
            with contextlib.suppress(OSError):
                os.posix_fallocate(self.file.number, self._size, wanted + GROW_BYTES - self._size)
                self._size = wanted + GROW_BYTES
        return wanted <= self._size

    def write(self, is_batch: bool = False) -> bool:
        """Write what was put. False: it is in memory only, until a compaction succeeds."""
        data, self._pending = self._pending, bytearray()
        try:
            if data and os.pwrite(self.file.number, data, self._end) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._end, self._is_dirty = self._end + len(data), self._is_dirty or bool(data)
            if self._is_durable and self._is_dirty and is_batch:
                os.fdatasync(self.file.number)
                self._is_dirty = False
        except OSError as error:
            log(f"journal: {error}")
            self._limit = 0
            return False
        return True

    def compact(self) -> bool:
        """Rewrite the file if it has doubled. No child may be about to mark its flag."""
        if self._end < self._limit:
            return True
        before = self._end, self._pending
        self._end, self._pending = 0, bytearray()
        self.add(self._head)
        places = [
            self.add({"t": key} | kept, USED if kept["is_live"] else UNUSED)
            for key, kept in self.table.items()
        ]
        self.add({"t": "", "totals": self.totals})
        data = self._pending
        try:
            new = Fd(os.open("journal.new", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600))
            os.posix_fallocate(new.number, 0, len(data) + GROW_BYTES)
            if os.pwrite(new.number, data, 0) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(new.number)
            os.rename("journal.new", "journal")
        except OSError as error:
            log(f"journal: not compacted: {error}")
            (self._end, self._pending), self._limit = before, 2 * before[0]
            return False
        self.file, self._end, self._size = new, len(data), len(data) + GROW_BYTES
        self._pending = bytearray()
        self._limit = max(COMPACT_MIN_BYTES, 2 * self._end)
        for kept, place in zip(self.table.values(), places, strict=True):
            kept["place"] = place
        return True

    def _load(self) -> bool:
        """Replay the file. False unless it is of this boot."""
        data, at, head = os.pread(self.file.number, self._size, 0), HEAD.size, Json()
        while (at := data.find(FIRST, at)) >= 0:
            length, crc, _, _ = HEAD.unpack_from(data, at - HEAD.size)
            body = data[at : at + length]
            if not body or binascii.crc32(body) != crc:
                at += 1
                continue
            if self._end < at - HEAD.size:
                log(f"journal: damaged at byte {self._end}; the file is kept as journal.corrupt")
                with contextlib.suppress(FileNotFoundError):
                    os.unlink("journal.corrupt")
                os.link("journal", "journal.corrupt")
            record = json.loads(body)
            head = head or dict(record)
            self._replay(record, at - MARK.size)
            self._end = at + length
            at = self._end + HEAD.size
        if data[self._end : self._end + HEAD.size].strip(b"\0"):
            log(f"journal: torn last record at byte {self._end} dropped")
        if data.strip(b"\0") and head.get("version") != VERSION:
            raise OSError("the journal has no header that this version can read")
        if head.get("boot") != self._head["boot"]:
            return False
        self._head["since"] = head.get("since", self._head["since"])
        return True

    def _replay(self, record: Json, place: int) -> None:
        key, self.totals = record.pop("t"), record.get("totals", self.totals)
        for gone in record.get("forget", ()):
            self.table.pop(gone, None)
        if key and key not in self.table:
            self.table[key] = {"place": place} if "pid" in record else {"place": 0} | HEADLESS
        if key:
            self.table[key] |= record | {"place": self.table[key]["place"]}
