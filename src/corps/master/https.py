"""The HTTPS port: TLS 1.3 by the master's own certificate, for people with a token.

What its front door lets in is HTTP, but for a hello that names `bulk.corps`: an upload.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import Counter
from collections.abc import Callable

import uvicorn
from uvicorn.server import ServerState

from corps.master.protocol import LimitedProtocol, Limits
from corps.master.uploads import Uploads
from corps.net.address import format_address
from corps.net.connection import tune
from corps.net.front import Caller, Front, source_of
from corps.trust.contexts import Purpose

CONNECTIONS_MAX = 1_000
CONNECTIONS_OF_ONE_MAX = 100
SILENCE_S = 30.0
HANDSHAKE_S = 10.0
GOODBYE_S = 2.0
OF_WORKERS = frozenset((Purpose.CONTROL, Purpose.SWARM, Purpose.JOIN))


class HttpsProtocol(LimitedProtocol):
    """HTTP of somebody elsewhere."""

    limits = Limits(idle_s=300.0, url_bytes=64 << 10)
    source = ""
    since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn does
        super().connection_made(transport)
        self.since = self.loop.time()
        if self.client is not None:
            self.source = source_of(self.client[0])


class HttpsPort:
    """One listening socket. `config` has the application, `state` those who are connected."""

    def __init__(
        self,
        listener: socket.socket,
        config: uvicorn.Config,
        state: ServerState,
        context: Callable[[], ssl.SSLContext],
    ) -> None:
        self.address = format_address(listener.getsockname()[:2])
        self._listener, self._config, self._state = listener, config, state
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._front = Front(listener, {}, self._serve, OF_WORKERS)

    def serve_bulk(self, uploads: Uploads) -> None:
        self._front.serves[Purpose.BULK] = uploads.serve

    async def accept(self) -> None:
        await self._front.accept()

    def refused(self, address: str, why: str) -> None:
        """One line a minute for each source."""
        self._front.complain(address, f"refused {address}: {why}")

    def close(self) -> None:
        self._front.close()
        self._listener.close()

    async def _serve(self, caller: Caller) -> None:
        tune(caller.sock, SILENCE_S)
        self._make_place(source_of(caller.sock.getpeername()[0]))
        await self._loop.connect_accepted_socket(
            lambda: HttpsProtocol(self._config, self._state, {}),
            caller.sock,
            ssl=self._context(),
            ssl_handshake_timeout=HANDSHAKE_S,
            ssl_shutdown_timeout=GOODBYE_S,
        )

    def _make_place(self, source: str) -> None:
        """As at the front door: who has the most loses the oldest, of those for which nothing is
        under way. Raise ConnectionRefusedError when there is none."""
        theirs = [one for one in self._state.connections if isinstance(one, HttpsProtocol)]
        counts = Counter(one.source for one in theirs)
        if counts[source] >= CONNECTIONS_OF_ONE_MAX:
            theirs = [one for one in theirs if one.source == source]
        elif len(theirs) < CONNECTIONS_MAX:
            return
        self.refused(source, f"{counts[source]} connections, of {counts.total()} in all")
        idle = [one for one in theirs if one.is_idle]
        if not idle:
            raise ConnectionRefusedError("too many connections")
        loser = min(idle, key=lambda one: (-counts[one.source], one.since))
        self._state.connections.discard(loser)  # now: it ends in a turn of its own
        loser.transport.abort()
