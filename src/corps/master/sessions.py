"""The workers' control connections: from the handshake to the last message, they feed the core."""

from __future__ import annotations

import asyncio
import errno
import functools
import itertools
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Any

from corps.core.events import Closed, Opened, Received
from corps.daemon import trim_memory
from corps.errors import Conflict, Denied
from corps.master.driver import MasterDriver
from corps.model.identity import Identity
from corps.net.address import format_address
from corps.net.connection import Connection, tune
from corps.net.front import Caller
from corps.wire.codec import CONTROL_PREFACE
from corps.wire.worker import (
    Answer,
    FromWorker,
    Refused,
    ToWorker,
)

BACKLOG = 1_024
SWEEP_S = 1.0
TRIM_EVERY = 10  # sweeps
HANDSHAKE_S = 5.0
GOODBYE_S = 1.0
_LISTEN_HINTS = {
    errno.EADDRINUSE: "; is another master there? See 'ss -ltnp'",
    errno.EADDRNOTAVAIL: "; this machine has no such address: see 'ip addr'",
    errno.EACCES: "; choose a port from 1024 on",
}

_log = logging.getLogger("corps.master")


class Sessions:
    """Every open control connection."""

    def __init__(self, driver: MasterDriver, silence_s: float) -> None:
        self._driver, self._silence_s = driver, silence_s
        self._loop = asyncio.get_running_loop()
        self._connections: dict[int, Connection[FromWorker]] = {}
        self._ids = itertools.count(1)
        self.on_refused: Callable[[Caller, str], None] = lambda caller, why: None
        driver.on_send = self._send
        driver.on_close = self._close

    async def sweep(self) -> None:
        """Cut connections that began a frame and never finished it, and give back memory."""
        for second in itertools.count(1):
            await asyncio.sleep(SWEEP_S)
            if second % TRIM_EVERY == 0:
                trim_memory()
            for id, connection in list(self._connections.items()):
                if connection.is_stuck():
                    self._close(id, "an unfinished frame")

    def close(self) -> None:
        for id in list(self._connections):
            self._close(id, "the master ends")

    async def open(self, caller: Caller, context: ssl.SSLContext | None) -> None:
        """Shake hands with `context`; without one the preface was read, and the peer is known to be
        of this machine. Raise OSError when nothing comes of it."""
        tune(caller.sock, self._silence_s)
        id = next(self._ids)
        connection: Connection[FromWorker] = Connection(
            FromWorker,
            functools.partial(self._received, id),
            lambda _: self._closed(id),
            lambda transport: self._made(id, connection, caller, transport),
            b"" if context is None else CONTROL_PREFACE,
        )
        times: dict[str, Any] = {}
        if context is not None:
            times = {"ssl_handshake_timeout": HANDSHAKE_S, "ssl_shutdown_timeout": GOODBYE_S}
        await self._loop.connect_accepted_socket(
            lambda: connection, caller.sock, ssl=context, **times
        )

    def _made(
        self,
        id: int,
        connection: Connection[FromWorker],
        caller: Caller,
        transport: asyncio.Transport,
    ) -> None:
        identity = None
        tls = transport.get_extra_info("ssl_object")
        if tls is not None:
            try:
                identity = identify(tls.getpeercert(True))
            except Denied as error:
                self.on_refused(caller, error.message)
                connection.send(Refused(code=error.code, message=error.message))
                connection.close(error.message)
                return
        self._connections[id] = connection
        connection.expect()
        self._driver.feed(Opened(id, caller.address, identity))

    def _received(self, id: int, messages: tuple[FromWorker, ...]) -> None:
        if id not in self._connections:
            return
        for message in messages:
            if isinstance(message, Answer):
                self._driver.answered(id, message)
        self._driver.feed(Received(id, messages))

    def _closed(self, id: int) -> None:
        if self._connections.pop(id, None) is not None:
            self._driver.feed(Closed(id))
            self._driver.hung_up(id)

    def _send(self, id: int, message: ToWorker) -> None:
        connection = self._connections.get(id)
        if connection is not None:
            connection.send(message)

    def _close(self, id: int, reason: str) -> None:
        connection = self._connections.get(id)
        if connection is not None:
            _log.info("connection %d closed: %s", id, reason)
            connection.close(reason)


def identify(der: bytes | None) -> Identity:
    """Whom the peer's certificate names. Raise Denied."""
    from corps.trust.names import identity_of  # noqa: PLC0415  # what reads one takes 8 MB

    return identity_of(der)


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket. Raise Conflict when the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        where = format_address((host, port))
        hint = _LISTEN_HINTS.get(error.errno or 0, "")
        raise Conflict(f"cannot listen on {where}: {error.strerror}{hint}") from error
    sock.setblocking(False)
    return sock
