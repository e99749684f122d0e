"""The join port of a real master core and store, in a thread: for who wants to break in there."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

from cryptography.hazmat.primitives.asymmetric import ec

from corps.clock import Clock
from corps.core.cluster import Cluster
from corps.core.events import Commanded, Save
from corps.core.master import MasterCore
from corps.core.records import Meta
from corps.core.roll import Roll
from corps.master.certificates import Certificates
from corps.master.driver import MasterDriver
from corps.master.join import Joins
from corps.model.command import AnyCommand, AnyResult
from corps.model.token import ID_BYTES, SECRET_BYTES, Token, TokenKind, base32, hash_secret
from corps.model.trust import CreateToken
from corps.store.sqlite import SqliteStore

CLUSTER = "c0ffee"


class JoinPort:
    """Accepts on `address` until closed. `now`: moves the master's clock."""

    def __init__(self, directory: Path, cluster: str = CLUSTER) -> None:
        self._directory, self._cluster = directory, cluster
        self._ready = threading.Event()
        self._clock = Clock()
        self.ahead_s = 0.0
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        assert self._ready.wait(30), "the join port did not open"

    @property
    def roll(self) -> Roll:
        return self._core.cluster.roll

    @property
    def pin(self) -> str:
        return self.certificates.authority.pin

    def order(self, command: AnyCommand) -> AnyResult:
        event = Commanded(os.urandom(8).hex(), repr(command), command, "ann")
        work = self._driver.submit(event, 20.0)
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def make_token(self, **facts: object) -> Token:
        secret = os.urandom(SECRET_BYTES)
        id = base32(os.urandom(ID_BYTES))
        self.order(CreateToken(id=id, secret_hash=hash_secret(secret), **facts))  # type: ignore[arg-type]  # fields of CreateToken
        return Token(kind=TokenKind.JOIN, id=id, secret=secret, pin=self.pin)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    async def _run(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        self._directory.mkdir(mode=0o700)
        store = SqliteStore(self._directory / "state.db")
        meta = Meta(cluster=self._cluster, epoch=0)
        store.commit([Save(meta)])

        def now() -> float:
            return self._clock() + self.ahead_s

        self._core = MasterCore(Cluster(meta, [meta]), 1.0, now(), Random(1), life="life-1")
        clock = Clock()
        self._driver = MasterDriver(self._core, store, clock, self._directory)
        self._driver.clock = now  # type: ignore[assignment]  # a clock is a call
        self.certificates = Certificates(self._directory / "trust", self._cluster, now)
        joins = Joins(self._driver, self.certificates)
        with socket.create_server(("127.0.0.1", 0)) as listening:
            listening.setblocking(False)
            self.address: tuple[str, int] = listening.getsockname()
            accepting = self._loop.create_task(self._accept(listening, joins))
            self.pin  # noqa: B018 - the CA is made before anybody comes
            self._ready.set()
            await self._over.wait()
            accepting.cancel()
            await asyncio.gather(accepting, return_exceptions=True)
        await self._driver.close()

    async def _accept(self, listening: socket.socket, joins: Joins) -> None:
        async with asyncio.TaskGroup() as tasks:
            while True:
                sock, address = await self._loop.sock_accept(listening)
                tasks.create_task(joins.serve(sock, f"{address[0]}:{address[1]}"))


@contextmanager
def join_port(directory: Path, cluster: str = CLUSTER) -> Iterator[JoinPort]:
    port = JoinPort(directory, cluster)
    try:
        yield port
    finally:
        port.close()


def a_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())
