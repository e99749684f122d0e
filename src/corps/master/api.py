"""Where operators reach the master: a unix socket, and an HTTPS port when one is asked for."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Collection, Coroutine, Iterator

import uvicorn
from litestar.types import ASGIApp, HTTPScope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from corps.master.certificates import ALWAYS
from corps.master.gate import Gate, Refused
from corps.master.http import Master, make_app
from corps.master.https import HttpsPort, HttpsProtocol
from corps.master.peer import UID, PeerProtocol
from corps.master.people import local_caller
from corps.master.uploads import Uploads
from corps.model.access import Caller

LOCAL_HOST = "localhost"  # what a client says on a unix socket


class Api:
    """The routes of one master, and who may come to them. `listener`: of the HTTPS port; `hosts`:
    what a request may call it."""

    def __init__(
        self, master: Master, listener: socket.socket | None, hosts: Collection[str]
    ) -> None:
        self._people = master.people
        app = make_app(master)
        gate = Gate(app, (LOCAL_HOST,), _local)
        self._server = _Server(_config(gate, PeerProtocol))
        self._port: HttpsPort | None = None
        if listener is not None:
            context = master.certificates.people_context
            context()  # now: what is wrong with it should be heard at the start
            names = {*ALWAYS, *hosts}
            gate = Gate(app, names, self._by_token, self._people.still, self._refused)
            config = _config(gate, HttpsProtocol)
            self._port = HttpsPort(listener, config, self._server.server_state, context)
            self._uploads = Uploads(self._people, master.shelf.intake, context, self._port.refused)
            self._port.serve_bulk(self._uploads)

    def work(self, listening: socket.socket) -> list[Coroutine[None, None, None]]:
        """On the port, and last on the unix socket: that ends after `end`."""
        accepting = [] if self._port is None else [self._port.accept()]
        return [*accepting, self._serve(listening)]

    async def _serve(self, listening: socket.socket) -> None:
        try:
            await self._server.serve([listening])
        finally:
            if self._port is not None:
                self._port.close()
                await self._uploads.close()

    def end(self) -> None:
        self._server.over.set()

    def _by_token(self, scope: HTTPScope, authorization: str | None) -> Caller:
        return self._people.caller(authorization, _source(scope))

    def _refused(self, scope: HTTPScope, refused: Refused) -> None:
        assert self._port is not None
        self._port.refused(_source(scope), refused.message)
        what = f"{scope['method']} {scope['path']}"
        self._people.denied(refused.who, _source(scope), what, refused.message)


def _source(scope: HTTPScope) -> str:
    return "nowhere" if scope["client"] is None else scope["client"][0]  # gone already


def _local(scope: HTTPScope, _: str | None) -> Caller:
    """The operator, as the kernel knows the other end of the socket."""
    assert scope["client"] is not None
    uid, pid = scope["client"]
    return local_caller(int(uid.removeprefix(UID)), pid)


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers and its ten wake-ups a second: the daemon has its own."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.over = asyncio.Event()

    async def main_loop(self) -> None:
        await self.on_tick(0)
        await self.over.wait()
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _config(app: ASGIApp, protocol: type[HttpToolsProtocol]) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=1,
    )
