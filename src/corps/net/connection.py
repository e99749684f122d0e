"""A framed control connection: messages in as they arrive, messages out with a bounded queue."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Generic, TypeVar, cast

from corps.errors import ProtocolError
from corps.wire.codec import FrameDecoder, encode_frame

Message = TypeVar("Message")

SEND_QUEUE_MAX_BYTES = 64 << 20
FRAME_DEADLINE_S = 10.0


class Connection(asyncio.BufferedProtocol, Generic[Message]):
    """One end of a control connection.

    `on_messages` gets all messages of one read; `on_closed` is called once, with the reason.
    `on_made` is called before the first message, with the transport; `preface` is what the peer
    must say before that.
    """

    def __init__(
        self,
        union: object,
        on_messages: Callable[[tuple[Message, ...]], None],
        on_closed: Callable[[str], None],
        on_made: Callable[[asyncio.Transport], None] = lambda transport: None,
        preface: bytes = b"",
    ) -> None:
        self._decoder: FrameDecoder[Message] = FrameDecoder(union)
        self._on_messages, self._on_closed, self._on_made = on_messages, on_closed, on_made
        self._preface, self._greeting = preface, bytearray(len(preface))
        self._greeted_bytes = 0
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._outgoing: list[bytes] = []
        self._owing_since: float | None = None
        self._reason = "the peer closed the connection"

    # ---- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self._on_made(self._transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._greeted_bytes < len(self._preface):
            return memoryview(self._greeting)[self._greeted_bytes :]
        return self._decoder.get_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        if self._greeted_bytes < len(self._preface):
            self._take_greeting(nbytes)
            return
        try:
            messages = self._decoder.advance(nbytes)
        except ProtocolError as error:
            self.close(error.message)
            return
        if not self._decoder.is_mid_frame:
            self._owing_since = None
        elif self._owing_since is None or messages:
            self._owing_since = self._loop.time()
        if messages:
            self._on_messages(tuple(messages))

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._on_closed(str(exc) if exc else self._reason)

    # ---- ours

    def send(self, message: object) -> None:
        """Queue one message; what is queued in one turn of the loop is written at once.

        A peer that does not read is cut when SEND_QUEUE_MAX_BYTES wait for it.
        """
        if self._transport is None:
            return
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing.append(encode_frame(message))

    def close(self, reason: str) -> None:
        """Send what is queued, then close."""
        if self._transport is not None:
            self._reason = reason
            self._flush()
            self._transport.close()

    def expect(self) -> None:
        """From now on the peer owes us a message, as if it had begun one."""
        self._owing_since = self._loop.time()

    def is_stuck(self) -> bool:
        """The peer began a frame, or owes us one, and did not finish it in time."""
        since = self._owing_since
        return since is not None and self._loop.time() - since > FRAME_DEADLINE_S

    def _take_greeting(self, count: int) -> None:
        self._greeted_bytes += count
        if self._greeted_bytes == len(self._preface) and self._greeting != self._preface:
            self.close(f"it said {bytes(self._greeting)!r}")

    def _flush(self) -> None:
        outgoing, self._outgoing = self._outgoing, []
        if self._transport is None or not outgoing:
            return
        self._transport.write(b"".join(outgoing))
        waiting_bytes = self._transport.get_write_buffer_size()
        if waiting_bytes > SEND_QUEUE_MAX_BYTES:
            self._reason = f"the peer does not read: {waiting_bytes} bytes wait for it"
            self._transport.abort()


def tune(sock: socket.socket, silence_s: float) -> None:
    """No Nagle delay; a peer that acknowledges nothing for `silence_s` is gone (tcp(7))."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(silence_s * 1000))
