"""Frames and raw bytes on one blocking socket, for threads. The kernel keeps the deadline.

SO_RCVTIMEO and SO_SNDTIMEO end a wait without progress (socket(7)), so that a transfer needs no
poll beside each read and sendfile works as on any blocking socket.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import msgspec

from corps.wire.codec import FRAME_MAX_BYTES, HEADER, decode_payload, encode_frame, frame_length

STALL_S = 30.0
BUFFER_BYTES = FRAME_MAX_BYTES + HEADER.size
HANG_UP_S = 1.0
HANG_UP_BYTES = 16 << 20
SENDFILE_BYTES = 4 << 20
TLS_SEND_BYTES = 256 << 10
_TIMEVAL = struct.Struct("ll")

Message = TypeVar("Message")


class Channel(Generic[Message]):
    """Owns the socket. Every method may raise OSError: the peer is gone, or stalled (TimeoutError).

    `union` is what the peer may say; `receive` raises ProtocolError for anything else.
    """

    def __init__(self, sock: socket.socket, union: object, stall_s: float = STALL_S) -> None:
        self._sock = sock
        self._decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(union)
        self._buffer = bytearray(BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self._held: list[bytes] = []
        self._set_deadline(stall_s)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @property
    def has_received(self) -> bool:
        """Bytes of the next frame are here already."""
        return self._end > self._start

    def can_receive(self, wait_s: float = 0.0) -> bool:
        """`receive` would find something to read, now or within so long."""
        if self.has_received:
            return True
        if isinstance(self._sock, ssl.SSLSocket):
            return self._has_decrypted(self._sock, wait_s)
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return bool(poll.poll(wait_s * 1000))

    def hold(self, data: bytes) -> None:
        """Send these bytes with the next ones, or before the next wait for the peer."""
        self._held.append(data)
        if sum(map(len, self._held)) >= TLS_SEND_BYTES:
            self.flush()

    def flush(self) -> None:
        data, self._held = b"".join(self._held), []
        if data:
            self._send_all(data)

    def send(self, message: object) -> None:
        self._held.append(encode_frame(message))
        self.flush()

    def send_file(
        self, fd: int, offset: int, count: int, on_sent: Callable[[int], None] = lambda _: None
    ) -> int:
        """Send `count` bytes of a file; fewer are sent when the file ends before."""
        self.flush()
        left = count
        while left:
            sent = self._send_some_file(fd, offset, left)
            if not sent:
                break
            offset += sent
            left -= sent
            on_sent(sent)
        return count - left

    def receive(self) -> Message | None:
        """The next message; None when the peer closed instead."""
        if not self._fill(HEADER.size):
            return None
        length = frame_length(self._buffer, self._start)
        self._fill(HEADER.size + length)
        start = self._start + HEADER.size
        self._start = start + length
        return decode_payload(self._decoder, self._view[start : start + length])

    def receive_raw(self, count: int) -> Iterator[memoryview]:
        """The next `count` bytes in pieces; each is valid until the next one is asked for.

        Whatever is there is taken: waiting for whole pages or buffers was 15 % slower.
        """
        while count:
            if not self.has_received:
                self._start, self._end = 0, self._receive_into(self._view)
                if not self.has_received:
                    raise ConnectionError(f"closed by the peer, {count} bytes too early")
            start = self._start
            taken = min(count, self._end - start)
            self._start += taken
            count -= taken
            yield self._view[start : start + taken]

    def hang_up(self, reason: object) -> None:
        """Say why, and close so that it arrives: unread bytes at a close would be a reset."""
        with contextlib.suppress(OSError):
            self.send(reason)
            self._sock.shutdown(socket.SHUT_WR)
            self._set_deadline(HANG_UP_S)
            left = HANG_UP_BYTES
            while left > 0 and (count := self._receive_into(self._view)):
                left -= count
        self.close()

    def close(self) -> None:
        self._sock.close()

    def _set_deadline(self, stall_s: float) -> None:
        self._stall_s = stall_s
        if self._sock.family in (socket.AF_INET, socket.AF_INET6):
            # a peer whose disk is slow opens no window for a while: that is no dead peer
            stall_ms = max(1, int(stall_s * 1000))
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, stall_ms)
        if isinstance(self._sock, ssl.SSLSocket):  # it would retry what the kernel gave up
            self._sock.settimeout(stall_s)
            return
        self._sock.settimeout(None)
        stall = _TIMEVAL.pack(int(stall_s), int(stall_s % 1 * 1_000_000))
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, stall)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, stall)

    def _has_decrypted(self, sock: ssl.SSLSocket, wait_s: float) -> bool:
        """What makes it readable may be no data of the peer's but a record of TLS itself."""
        sock.settimeout(wait_s)
        try:
            self._start, self._end = 0, sock.recv_into(self._view)
        except (ssl.SSLWantReadError, TimeoutError):
            return False
        finally:
            sock.settimeout(self._stall_s)
        return True

    def _fill(self, count: int) -> bool:
        """Have `count` bytes in the buffer. False when the peer closed and none was there."""
        if self._start + count > len(self._buffer) or not self.has_received:
            rest = self._end - self._start
            self._buffer[:rest] = self._buffer[self._start : self._end]
            self._start, self._end = 0, rest
        while self._end - self._start < count:
            received = self._receive_into(self._view[self._end :])
            if not received and not self.has_received:
                return False
            if not received:
                raise ConnectionError("closed by the peer in the middle of a message")
            self._end += received
        return True

    def _receive_into(self, view: memoryview) -> int:
        self.flush()
        try:
            return self._sock.recv_into(view)
        except BlockingIOError:
            raise TimeoutError("nothing came from the peer") from None

    def _send_all(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[self._sock.send(view) :]
        except BlockingIOError:
            raise TimeoutError("the peer takes nothing") from None

    def _send_some_file(self, fd: int, offset: int, count: int) -> int:
        if isinstance(self._sock, ssl.SSLSocket):  # sendfile would go round the encryption
            data = os.pread(fd, min(count, TLS_SEND_BYTES), offset)
            self._send_all(data)
            return len(data)
        try:
            return os.sendfile(self._sock.fileno(), fd, offset, min(count, SENDFILE_BYTES))
        except BlockingIOError:
            raise TimeoutError("the peer takes nothing") from None
