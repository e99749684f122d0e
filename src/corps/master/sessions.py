"""The workers' connections: accept, tell what they carry by the preface, feed the core."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import logging
import os
import socket
import time
from collections.abc import Callable

from corps.core.events import Closed, Opened, Received
from corps.errors import Conflict
from corps.master.driver import MasterDriver
from corps.net.address import format_address
from corps.net.connection import Connection, tune
from corps.wire.codec import BULK_PREFACE, CONTROL_PREFACE, PREFACE_BYTES, SWARM_PREFACE
from corps.wire.worker import (
    Answer,
    FromWorker,
    ToWorker,
)

PREFACE_DEADLINE_S = 5.0
STRANGERS_MAX = 1_000
BACKLOG = 1_024
SWEEP_S = 1.0
FULL_S = 0.1
COMPLAINT_EVERY_S = 60.0

_log = logging.getLogger("corps.master")


class Sessions:
    """Every connection on the worker port."""

    def __init__(
        self, driver: MasterDriver, serve_bulk: Callable[[socket.socket], None], silence_s: float
    ) -> None:
        self._driver, self._serve_bulk, self._silence_s = driver, serve_bulk, silence_s
        self._loop = asyncio.get_running_loop()
        self._connections: dict[int, Connection[FromWorker]] = {}
        self._strangers: set[asyncio.Task[None]] = set()
        self._complained_at: dict[str, float] = {}
        self._ids = itertools.count(1)
        self._reserve: int | None = _reserve()
        self.serve_swarm: Callable[[socket.socket], None] = socket.socket.close
        driver.on_send = self._send
        driver.on_close = self._close

    async def accept(self, listener: socket.socket) -> None:
        """Accept for ever. Out of descriptors it turns away who comes: the connected stay."""
        while True:
            try:
                sock, address = await self._loop.sock_accept(listener)
            except OSError as error:
                self._complain("accept", f"cannot accept a connection: {error}")
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    self._turn_away(listener)
                await asyncio.sleep(FULL_S)
                continue
            if len(self._strangers) >= STRANGERS_MAX:
                sock.close()
                continue
            task = self._loop.create_task(self._greet(sock, format_address(address[:2])))
            self._strangers.add(task)
            task.add_done_callback(self._strangers.discard)

    def _turn_away(self, listener: socket.socket) -> None:
        """All who wait, with the one descriptor kept for that: they try again, and not for long."""
        if self._reserve is not None:
            os.close(self._reserve)
            with contextlib.suppress(OSError):
                while True:
                    listener.accept()[0].close()
        self._reserve = _reserve()

    async def sweep(self) -> None:
        """Cut connections that began a frame and never finished it."""
        while True:
            await asyncio.sleep(SWEEP_S)
            for id, connection in list(self._connections.items()):
                if connection.is_stuck():
                    self._close(id, "an unfinished frame")

    def close(self) -> None:
        for id in list(self._connections):
            self._close(id, "the master ends")
        if self._reserve is not None:
            os.close(self._reserve)
            self._reserve = None

    async def _greet(self, sock: socket.socket, address: str) -> None:
        sock.setblocking(False)
        try:
            tune(sock, self._silence_s)
            preface = await asyncio.wait_for(self._preface(sock), PREFACE_DEADLINE_S)
        except (OSError, TimeoutError):
            sock.close()
            return
        except asyncio.CancelledError:
            sock.close()
            raise
        if preface == CONTROL_PREFACE:
            await self._open(sock, address)
        elif preface == BULK_PREFACE:
            self._serve_bulk(sock)
        elif preface == SWARM_PREFACE:
            self.serve_swarm(sock)
        else:
            host = address.rpartition(":")[0]
            self._complain(host, f"{address} is no worker of ours: it said {preface!r}")
            sock.close()

    async def _preface(self, sock: socket.socket) -> bytes:
        data = b""
        while len(data) < PREFACE_BYTES:
            piece = await self._loop.sock_recv(sock, PREFACE_BYTES - len(data))
            if not piece:
                raise ConnectionError("closed before it said anything")
            data += piece
        return data

    async def _open(self, sock: socket.socket, address: str) -> None:
        id = next(self._ids)
        self._driver.feed(Opened(id, address))
        connection: Connection[FromWorker] = Connection(
            FromWorker, lambda messages: self._received(id, messages), lambda _: self._closed(id)
        )
        self._connections[id] = connection
        connection.expect()
        try:
            await self._loop.connect_accepted_socket(lambda: connection, sock)
        except OSError:
            self._closed(id)

    def _received(self, id: int, messages: tuple[FromWorker, ...]) -> None:
        for message in messages:
            if isinstance(message, Answer):
                self._driver.answered(message)
        if id in self._connections:
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

    def _complain(self, source: str, text: str) -> None:
        """One line a minute for each source, however often it knocks."""
        now = time.monotonic()
        if now - self._complained_at.get(source, -COMPLAINT_EVERY_S) >= COMPLAINT_EVERY_S:
            if len(self._complained_at) > STRANGERS_MAX:
                self._complained_at.clear()
            self._complained_at[source] = now
            _log.warning("%s", text)


def _reserve() -> int | None:
    """A descriptor to give up when there is no other; None when there is none even for that."""
    try:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None


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
        raise Conflict(
            f"cannot listen on {where}: {error.strerror}; is another master there? See 'ss -ltnp'"
        ) from error
    sock.setblocking(False)
    return sock
