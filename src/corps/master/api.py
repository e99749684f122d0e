"""Where operators reach the master: a unix socket, and an HTTPS port when one is asked for."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from litestar.types import ASGIApp, HTTPScope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from corps.master.gate import Complaints, Gate
from corps.master.http import Master, make_app
from corps.master.peer import UID, PeerProtocol
from corps.master.people import local_caller
from corps.model.access import Caller

LOCAL_HOST = "localhost"  # what a client says on a unix socket


class Api:
    """The routes of one master, and who may come to them."""

    def __init__(self, master: Master) -> None:
        self._complaints = Complaints()
        self._app = make_app(master)
        gate = Gate(self._app, (LOCAL_HOST,), _local, self._complaints.refused)
        self._server = _Server(_config(gate, PeerProtocol))

    async def serve(self, listening: socket.socket) -> None:
        """On the unix socket, until `end`."""
        await self._server.serve([listening])

    def end(self) -> None:
        self._server.over.set()


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
