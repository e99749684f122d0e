"""The worker's connection: frames of a 4-byte length and JSON, both ways, and pidfds from us."""

from __future__ import annotations

import errno
import json
import socket
import struct
from collections import deque
from collections.abc import Iterator

from corps.keeper.journal import Json, encode
from corps.keeper.kernel import Fd

FRAME_MAX_BYTES = 4 << 20
QUEUE_MAX_BYTES = 32 << 20
READ_BYTES = 256 << 10
LENGTH = struct.Struct(">I")


class Link:
    """Never blocks. A queued pidfd leaves with the first byte of its own message."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.socket = connection
        self.listings: deque[Iterator[tuple[Json, list[Fd]]]] = deque()
        self.queued_bytes = 0
        self._inbox = bytearray()
        self._outbox: deque[tuple[bytearray, list[Fd]]] = deque()

    def read(self) -> bool:
        """Take in what has come; False when the peer is gone."""
        try:
            data = self.socket.recv(READ_BYTES)
        except OSError as error:
            return error.errno == errno.EAGAIN
        self._inbox += data
        return bool(data)

    def next(self) -> Json | None:
        """The next message, None while it is not whole; ValueError when it is none."""
        if len(self._inbox) < LENGTH.size:
            return None
        (length,) = LENGTH.unpack_from(self._inbox)
        if length > FRAME_MAX_BYTES:
            raise ValueError(f"frame of {length} bytes")
        end = LENGTH.size + length
        if len(self._inbox) < end:
            return None
        body = self._inbox[LENGTH.size : end].decode("utf-8", "surrogateescape")
        del self._inbox[:end]
        try:
            message = json.loads(body)
        except RecursionError:
            raise ValueError("nested too deeply") from None
        if not isinstance(message, dict):
            raise ValueError("not an object")
        return message

    def send(self, message: Json, pidfds: list[Fd]) -> None:
        """Queue a message; `flush` sends it."""
        body = encode(message).encode()
        frame = LENGTH.pack(len(body)) + body
        self.queued_bytes += len(frame)
        if pidfds or not self._outbox:
            self._outbox.append((bytearray(frame), pidfds))
        else:
            self._outbox[-1][0].extend(frame)

    def flush(self) -> bool:
        """Send what the peer takes now; False when it is gone, or reads too slowly."""
        while self._outbox or self._refill():
            data, pidfds = self._outbox[0]
            rights = struct.pack(f"={len(pidfds)}i", *(pidfd.number for pidfd in pidfds))
            control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if pidfds else []
            try:
                sent = self.socket.sendmsg([data], control, socket.MSG_NOSIGNAL)
            except OSError as error:
                full = error.errno in (errno.EAGAIN, errno.ETOOMANYREFS)
                return full and self.queued_bytes <= QUEUE_MAX_BYTES
            self.queued_bytes -= sent
            pidfds.clear()
            del data[:sent]
            if not data:
                self._outbox.popleft()
        return True

    def _refill(self) -> bool:
        while self.listings and not self._outbox:
            for part in self.listings[0]:
                self.send(*part)
                return True
            self.listings.popleft()
        return False
