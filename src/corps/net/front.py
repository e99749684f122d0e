"""The front door of a port: nobody costs more than a place among strangers before it is known what
it is for.

    accepted --first bytes--> plain text --> serves[None]
                         +--> a hello of TLS --server name--> serves[name], which shakes hands

The first bytes are looked at and left where they are, so that whoever serves sees them all. Beyond
STRANGERS_MAX who has the most of them loses its oldest: a crowd from one place shuts out itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import ipaddress
import logging
import os
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Collection
from typing import NamedTuple, TypeAlias

from corps.net.address import format_address
from corps.net.handshake import HANDSHAKE, ServerNames, peek_hello

HELLO_S = 5.0
STRANGER_S = 30.0  # for all of it: who serves has its own deadlines
STRANGERS_MAX = 1_000
FULL_S = 0.1
COMPLAINT_EVERY_S = 60.0
VERSION_ALERT = bytes.fromhex("15030300020246")  # fatal, protocol_version: TLS 1.3 is spoken here
NAME_ALERT = bytes.fromhex("15030300020270")  # fatal, unrecognized_name

_log = logging.getLogger("corps.net")


class Caller(NamedTuple):
    """A connection that was accepted, of which nothing was read; its socket does not block.

    `name`: the server name of its TLS hello, "" without one, None for plain text; `source`: for
    whom it counts where there are limits.
    """

    sock: socket.socket
    address: str
    source: str
    name: str | None


Serve: TypeAlias = Callable[[Caller], Awaitable[None]]


class Front:
    """The strangers of one listening socket. `serves` says by name who takes them, `otherwise` who
    takes TLS of any other name but the `foreign` ones, which another port serves; a coroutine of
    these returns when its caller is no stranger any more, and owns the socket from then on. What
    it raises as OSError closes it.
    """

    def __init__(
        self,
        listener: socket.socket,
        serves: dict[str | None, Serve],
        otherwise: Serve | None = None,
        foreign: Collection[str] = (),
    ) -> None:
        self.serves = serves
        self._listener, self._otherwise, self._foreign = listener, otherwise, foreign
        self._loop = asyncio.get_running_loop()
        self._names = ServerNames()
        self._strangers: dict[str, dict[asyncio.Task[None], None]] = {}  # by source, oldest first
        self._count = 0
        self._turn = asyncio.Lock()
        self._complained_at: dict[str, float] = {}
        self._reserve: int | None = _reserve()

    async def accept(self) -> None:
        """Accept for ever. Out of descriptors it turns away who comes: the connected stay."""
        while True:
            try:
                sock, address = await self._loop.sock_accept(self._listener)
            except OSError as error:
                self.complain("accept", f"cannot accept a connection: {error}")
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    self._turn_away()
                await asyncio.sleep(FULL_S)
                continue
            if self._count >= STRANGERS_MAX:
                self._evict()
            self._take_in(sock, address[:2])
            await asyncio.sleep(0)  # a flood of them holds up nobody who is connected

    def close(self) -> None:
        for tasks in list(self._strangers.values()):
            for task in list(tasks):
                task.cancel()
        if self._reserve is not None:
            os.close(self._reserve)
            self._reserve = None

    def complain(self, source: str, text: str) -> None:
        """One line a minute for each source, however often it knocks."""
        now = time.monotonic()
        if now - self._complained_at.get(source, -COMPLAINT_EVERY_S) >= COMPLAINT_EVERY_S:
            if len(self._complained_at) > STRANGERS_MAX:
                self._complained_at.clear()
            self._complained_at[source] = now
            _log.warning("%s", text)

    # ---- strangers

    def _take_in(self, sock: socket.socket, address: tuple[str, int]) -> None:
        source = source_of(address[0])
        task = self._loop.create_task(self._greet(sock, format_address(address), source))
        self._strangers.setdefault(source, {})[task] = None
        self._count += 1
        task.add_done_callback(functools.partial(self._ended, source))

    def _ended(self, source: str, task: asyncio.Task[None]) -> None:
        self._let_go(source, task)
        if not task.cancelled() and (bug := task.exception()) is not None:
            self._loop.call_exception_handler({"message": "at the front door", "exception": bug})

    def _let_go(self, source: str, task: asyncio.Task[None]) -> None:
        tasks = self._strangers.get(source, {})
        if task in tasks:
            del tasks[task]
            self._count -= 1
            if not tasks:
                del self._strangers[source]

    def _evict(self) -> None:
        source, tasks = max(self._strangers.items(), key=lambda item: len(item[1]))
        oldest = next(iter(tasks))
        oldest.cancel()
        self._let_go(source, oldest)  # now: it ends in a turn of its own
        self.complain("strangers", f"{STRANGERS_MAX} connections say nothing, most of {source}")

    async def _greet(self, sock: socket.socket, address: str, source: str) -> None:
        is_taken = False
        try:
            sock.setblocking(False)
            async with asyncio.timeout(STRANGER_S):
                is_taken = await self._hand_over(sock, address, source)
        except ssl.SSLError as error:
            self.complain(source, f"{address} is turned away: {error.reason or error}")
        except (OSError, TimeoutError):
            pass  # gone, or too slow: nobody is left to tell
        finally:
            if not is_taken:
                sock.close()

    async def _hand_over(self, sock: socket.socket, address: str, source: str) -> bool:
        async with asyncio.timeout(HELLO_S):
            hello = await peek_hello(sock)
        name = None
        if hello[0] == HANDSHAKE:
            try:
                name = self._names.of(hello)
            except ssl.SSLError:
                _answer(sock, hello, VERSION_ALERT)
                raise
        is_ours = name is not None and name not in self._foreign
        serve = self.serves.get(name, self._otherwise if is_ours else None)
        if serve is None:
            what = "plain text" if name is None else f"nobody here is called {name[:80]!r}"
            self.complain(source, f"{address} is turned away: {what}")
            _answer(sock, hello, VERSION_ALERT if name is None else NAME_ALERT)
            return False
        async with self._turn:
            await asyncio.sleep(0)  # one handshake in a turn of the loop, not all at once
        await serve(Caller(sock, address, source, name))
        return True

    def _turn_away(self) -> None:
        """All who wait, with the one descriptor kept for that: they try again, and not for long."""
        if self._reserve is not None:
            os.close(self._reserve)
            with contextlib.suppress(OSError):
                while True:
                    self._listener.accept()[0].close()
        self._reserve = _reserve()


def source_of(host: str) -> str:
    """Whom it counts for: one address, or of IPv6 the network of a customer (RFC 6177)."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv4Address):
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((address, 64), strict=False))


def _answer(sock: socket.socket, said: bytes, alert: bytes) -> None:
    """Read what it said first: unread bytes at a close would be a reset, and overtake this."""
    sock.recv(len(said))
    sock.send(alert)


def _reserve() -> int | None:
    """A descriptor to give up when there is no other; None when there is none even for that."""
    try:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
