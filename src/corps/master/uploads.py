"""Blobs from operators elsewhere: a bulk connection on the API's port, opened by a token.

accepted --TLS, preface, Authorize--> admitted, a thread: served as on bulk.sock
         '--not within OPENING_S: cut       '--token, role gone: cut within LOOK_S
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Callable

import msgspec

from corps.errors import CorpsError, Denied, Unavailable
from corps.master.people import People, Unauthenticated
from corps.model.access import Caller, check_may
from corps.model.trust import Permission
from corps.net import front
from corps.net.bulk import serve_bulk
from corps.net.handshake import readable, receive_exactly, shake_hands
from corps.net.intake import Intake
from corps.wire.bulk import Authorize, Trouble
from corps.wire.codec import (
    BULK_PREFACE,
    HEADER,
    decode_payload,
    encode_frame,
    frame_length,
)

OPENING_S = 10.0
GOODBYE_S, GOODBYE_BYTES = 1.0, 64 << 10
LOOK_S = 0.5
UPLOADS_MAX = 32
AUTHORIZE_MAX_BYTES = 1_000
_DECODER = msgspec.msgpack.Decoder(Authorize)


class Uploads:
    """Those of one master. For the loop's thread: nobody else asks the core who somebody is."""

    def __init__(
        self,
        people: People,
        intake: Intake,
        context: Callable[[], ssl.SSLContext],
        on_refused: Callable[[str, str], None],
    ) -> None:
        self._people, self._intake, self._context = people, intake, context
        self._on_refused = on_refused
        self._loop = asyncio.get_running_loop()
        self._under_way: dict[ssl.SSLSocket, tuple[Caller, threading.Thread]] = {}
        self._looking: asyncio.TimerHandle | None = None

    async def serve(self, stranger: front.Caller) -> None:
        """Take over a connection that has said nothing but its hello."""
        async with asyncio.timeout(OPENING_S):
            sock = await shake_hands(stranger.sock, self._context())
            try:
                await self._open(sock, sock.getpeername()[0])
            except (OSError, asyncio.CancelledError):
                sock.close()
                raise

    async def close(self) -> None:
        """Cut all, and wait for their threads."""
        if self._looking is not None:
            self._looking.cancel()
        under_way = dict(self._under_way)
        for sock in under_way:
            _cut(sock)
        for _, thread in under_way.values():
            await asyncio.to_thread(thread.join)

    async def _open(self, sock: ssl.SSLSocket, source: str) -> None:
        if await receive_exactly(sock, len(BULK_PREFACE)) != BULK_PREFACE:
            raise ConnectionError("no bulk connection")
        try:
            caller = self._people.bearer(await _receive_token(sock), source)
            self._admit(caller)
        except CorpsError as error:
            self._on_refused(source, error.message)
            if isinstance(error, Denied):
                who = error.who if isinstance(error, Unauthenticated) else caller.name
                self._people.denied(who, source, "upload", error.message)
            await _turn_away(sock, Trouble(code=error.code, message=error.message))
            return
        sock.setblocking(True)
        thread = threading.Thread(target=self._run, args=(sock,), name="upload", daemon=True)
        self._under_way[sock] = (caller, thread)
        thread.start()
        if self._looking is None:
            self._looking = self._loop.call_later(LOOK_S, self._look)

    def _admit(self, caller: Caller) -> None:
        check_may(caller, Permission.DEPLOY, "copy")
        if len(self._under_way) >= UPLOADS_MAX:
            raise Unavailable(f"{UPLOADS_MAX} uploads are under way: repeat in a moment")

    def _look(self) -> None:
        """Who may not copy any more is cut, in the middle of a blob too."""
        for sock, (caller, _) in self._under_way.items():
            try:
                check_may(self._people.still(caller), Permission.DEPLOY, "copy")
            except Denied as error:
                self._on_refused(caller.source, f"cut an upload: {error.message}")
                _cut(sock)
        self._looking = self._loop.call_later(LOOK_S, self._look) if self._under_way else None

    def _run(self, sock: ssl.SSLSocket) -> None:
        """In a thread of its own."""
        view = self._intake.begin()
        try:
            serve_bulk(sock, view, may_put=True)
        finally:
            view.close()
            with contextlib.suppress(RuntimeError):  # the loop has ended before us
                self._loop.call_soon_threadsafe(self._under_way.pop, sock, None)


async def _receive_token(sock: ssl.SSLSocket) -> str:
    """Not a byte more of it: what follows is for who serves. Raise ProtocolError."""
    header = bytearray(await receive_exactly(sock, HEADER.size))
    length = frame_length(header, 0, AUTHORIZE_MAX_BYTES)
    return decode_payload(_DECODER, memoryview(await receive_exactly(sock, length))).token


async def _turn_away(sock: ssl.SSLSocket, trouble: Trouble) -> None:
    """As Channel.hang_up, but in no thread: whoever has no token would hold it as long as it goes
    on to say something."""
    with contextlib.suppress(OSError), sock:
        sock.send(encode_frame(trouble))
        sock.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(GOODBYE_S):
            while True:
                await readable(sock)
                if not sock.recv(GOODBYE_BYTES):
                    return


def _cut(sock: ssl.SSLSocket) -> None:
    """Its thread sees the end. SSLSocket's own shutdown would take the TLS from under it."""
    with contextlib.suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
