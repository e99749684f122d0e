"""Each part of an exchange has its deadline; an answer that takes the master long has none."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvicorn
from uvicorn.server import ServerState

from corps.master.protocol import LimitedProtocol, Limits

DEADLINE_S = 20.0
BRIEF_S = 0.05
LONG_S = 3_600.0
PIECE = b"x" * (256 << 10)
PIECES = 128  # more than any buffer between us holds
HEAD = b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n"


async def app(scope: Any, receive: Any, send: Any) -> None:
    pieces = 1
    if scope["path"] == "/body":
        while (message := await receive())["type"] == "http.request" and message["more_body"]:
            pass
    elif scope["path"] == "/slow":
        await asyncio.sleep(20 * BRIEF_S)
    elif scope["path"] == "/large":
        pieces = PIECES
    head = [(b"content-length", str(pieces * len(PIECE)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    for number in range(pieces):
        is_last = number == pieces - 1
        await send({"type": "http.response.body", "body": PIECE, "more_body": not is_last})


class Peer:
    """A connection to a master's protocol that has these limits."""

    def __init__(self, sock: socket.socket, lost: asyncio.Event) -> None:
        self._sock, self._lost = sock, lost
        self._loop = asyncio.get_running_loop()

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self._sock, data)

    async def answer(self) -> bytes:
        return await asyncio.wait_for(self._loop.sock_recv(self._sock, 65536), DEADLINE_S)

    async def answers(self, count: int) -> None:
        """So many whole ones, each of one piece, and nothing between them."""
        data = b""
        while data.count(PIECE) < count:
            more = await self.answer()
            assert more, data[:200]
            data += more
        head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(PIECE)
        assert data == (head + PIECE) * count

    async def drip(self, data: bytes) -> None:
        """Until it is cut, some bytes at a time: whoever says something is not silent."""
        with contextlib.suppress(OSError):
            while True:
                await self.send(data)
                with contextlib.suppress(TimeoutError):
                    if not await asyncio.wait_for(self._loop.sock_recv(self._sock, 1), BRIEF_S / 5):
                        return

    async def gone(self) -> None:
        """Until the other end has let go of it, whatever there is to read."""
        await asyncio.wait_for(self._lost.wait(), DEADLINE_S)


@contextlib.asynccontextmanager
async def connected(path: Path, limits: Limits) -> AsyncIterator[Peer]:
    lost = asyncio.Event()

    class Protocol(LimitedProtocol):
        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            lost.set()

    Protocol.limits = limits
    config = uvicorn.Config(app, ws="none", lifespan="off", log_config=None)
    config.load()
    loop, state = asyncio.get_running_loop(), ServerState()
    server = await loop.create_unix_server(lambda: Protocol(config, state, {}), path)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.setblocking(False)
        await loop.sock_connect(sock, str(path))
        yield Peer(sock, lost)
    server.close()
    await server.wait_closed()


LIMITS = Limits(idle_s=LONG_S, head_s=LONG_S, body_s=LONG_S, stall_s=LONG_S)


def but(**brief: float) -> Limits:
    return msgspec.structs.replace(LIMITS, **brief)


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 3 * DEADLINE_S))


@pytest.mark.parametrize("said", [b"", b"GET /v1", b"GET / HTTP/1.1\r\nHost: x\r\n"])
def test_a_head_that_does_not_end_is_cut(tmp_path: Path, said: bytes) -> None:
    async def test() -> None:
        async with connected(tmp_path / "s", but(head_s=BRIEF_S)) as peer:
            await peer.send(said)
            assert await peer.answer() == b""

    run(test())


def test_a_head_that_comes_drop_by_drop_is_cut(tmp_path: Path) -> None:
    async def test() -> None:
        async with connected(tmp_path / "s", but(head_s=BRIEF_S)) as peer:
            await peer.send(b"GET / HTTP/1.1\r\n")
            await peer.drip(b"X: y\r\n")
            await peer.gone()

    run(test())


def test_a_body_that_comes_drop_by_drop_is_cut(tmp_path: Path) -> None:
    async def test() -> None:
        async with connected(tmp_path / "s", but(body_s=BRIEF_S)) as peer:
            await peer.send(HEAD.replace(b"99", b"99999999"))
            await peer.drip(b"x")
            await peer.gone()

    run(test())


def test_between_requests_only_a_request_counts(tmp_path: Path) -> None:
    async def test() -> None:
        async with connected(tmp_path / "s", but(idle_s=BRIEF_S)) as peer:
            await peer.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await peer.answers(1)
            await peer.drip(b"\r\n")  # which a parser may skip before a request, RFC 9112
            await peer.gone()

    run(test())


def test_who_reads_nothing_of_an_answer_is_cut(tmp_path: Path) -> None:
    async def test() -> None:
        async with connected(tmp_path / "s", but(stall_s=BRIEF_S)) as peer:
            await peer.send(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
            await peer.gone()

    run(test())


def test_what_the_master_works_on_is_waited_for(tmp_path: Path) -> None:
    async def test() -> None:
        brief = Limits(idle_s=BRIEF_S, head_s=LONG_S, body_s=BRIEF_S, stall_s=BRIEF_S)
        async with connected(tmp_path / "s", brief) as peer:
            await peer.send(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
            await peer.answers(1)
            assert await peer.answer() == b""  # idle since

    run(test())


def test_requests_that_come_together_are_answered_in_order(tmp_path: Path) -> None:
    async def test() -> None:
        async with connected(tmp_path / "s", LIMITS) as peer:
            await peer.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 3 + HEAD + b"x" * 99)
            await peer.answers(4)

    run(test())


def test_a_bad_request_behind_an_answer_under_way_ends_it(tmp_path: Path) -> None:
    """Nothing may be written into the middle of it."""

    async def test() -> None:
        async with connected(tmp_path / "s", LIMITS) as peer:
            await peer.send(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = await peer.answer()
            await peer.send(b"nonsense\r\n\r\n")
            while piece := await peer.answer():
                answer += piece
            assert answer.count(b"HTTP/1.1") == 1

    run(test())
