"""The first bytes of a connection on the event loop, of sockets that do not block: what its hello
of TLS says, shaking hands, a preface.

For connections that threads serve afterwards, on a blocking socket; others are the loop's own.
"""

from __future__ import annotations

import asyncio
import functools
import socket
import ssl
import sys
from collections.abc import Callable
from typing import Any

HANDSHAKE = 0x16  # the type of a TLS record (RFC 8446, 5.1)
RECORD_HEADER_BYTES = 5
RECORD_MAX_BYTES = 1 << 14


async def peek_hello(sock: socket.socket) -> bytes:
    """The whole first record of TLS, or the first bytes of something else, left in the socket.

    Until the record is whole the kernel keeps quiet (SO_RCVLOWAT): half a hello costs nothing.
    """
    wanted = 1
    while True:
        await readable(sock)
        data = sock.recv(RECORD_HEADER_BYTES + RECORD_MAX_BYTES, socket.MSG_PEEK)
        if len(data) < wanted:
            raise ConnectionError("closed before it said what it is for")
        if data[0] != HANDSHAKE:
            return data
        length = int.from_bytes(data[3:RECORD_HEADER_BYTES], "big")
        wanted = RECORD_HEADER_BYTES + (length if len(data) >= RECORD_HEADER_BYTES else 0)
        if length > RECORD_MAX_BYTES:
            raise ConnectionError(f"a first record of {length} bytes")
        is_whole = len(data) >= max(wanted, RECORD_HEADER_BYTES)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1 if is_whole else wanted)
        if is_whole:
            return data


class ServerNames:
    """Reads hellos as OpenSSL does, by a handshake that is broken off as soon as the name is known:
    before anything is signed. For one thread."""

    def __init__(self) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_3
        self._context.sni_callback = self._note
        self._found: list[str] = []

    def of(self, hello: bytes) -> str:
        """ "" when it names none. Raise SSLError for what is no hello of TLS 1.3."""
        self._found.clear()
        incoming = ssl.MemoryBIO()
        incoming.write(hello)
        reading = self._context.wrap_bio(incoming, ssl.MemoryBIO(), server_side=True)
        before = sys.unraisablehook
        try:
            # A name of other bytes than ASCII fails before the callback: with a traceback of
            # several lines for each, which would be the end of a log with a limit.
            sys.unraisablehook = functools.partial(_unraised, before)
            reading.do_handshake()
        except ssl.SSLError:
            if not self._found:
                raise
        finally:
            sys.unraisablehook = before
        return self._found[0]

    def _note(self, _reading: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> int:
        self._found.append(name or "")
        return ssl.AlertDescription.ALERT_DESCRIPTION_INTERNAL_ERROR


def _unraised(tell: Callable[[Any], Any], what: Any) -> None:
    if not (isinstance(what.exc_value, UnicodeDecodeError) and isinstance(what.object, bytes)):
        tell(what)


async def shake_hands(sock: socket.socket, context: ssl.SSLContext) -> ssl.SSLSocket:
    """The server's part. `sock` is spent, whatever comes of it; OSError when nothing does."""
    tls = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
    is_done = False
    try:
        while not is_done:
            try:
                tls.do_handshake()
                is_done = True
            except ssl.SSLWantReadError:
                await readable(tls)
            except ssl.SSLWantWriteError:
                await _writable(tls)
    finally:
        if not is_done:
            tls.close()
    return tls


async def receive_exactly(sock: socket.socket, count: int) -> bytes:
    """So many bytes, and none after them."""
    data = b""
    while len(data) < count:
        try:
            piece = sock.recv(count - len(data))
        except (BlockingIOError, ssl.SSLWantReadError):
            await readable(sock)
            continue
        if not piece:
            raise ConnectionError("closed before it said what it is for")
        data += piece
    return data


async def readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    await _ready(sock, loop.add_reader, loop.remove_reader)


async def _writable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    await _ready(sock, loop.add_writer, loop.remove_writer)


async def _ready(
    sock: socket.socket, add: Callable[..., Any], remove: Callable[[int], Any]
) -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    fd = sock.fileno()  # of a TLS socket too: the loop knows nothing of those
    add(fd, lambda: None if future.done() else future.set_result(None))
    try:
        await future
    finally:
        remove(fd)
