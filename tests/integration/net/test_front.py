"""The front door: who comes with what, who says nothing, and who crowds."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop

from corps.net import front as front_module
from corps.net.front import NAME_ALERT, STRANGERS_MAX, VERSION_ALERT, Caller, Front, source_of
from corps.net.handshake import receive_exactly, shake_hands
from corps.trust.contexts import Purpose
from tests.support.tls import TestCa
from tests.support.waiting import until

DEADLINE_S = 20.0
uvloop.new_event_loop().close()  # libuv keeps a pipe of its own from its first loop on


class Port:
    """A front door on a loop of its own, in a thread; whoever is let in hears what it came for."""

    def __init__(self, ca: TestCa, *, takes_plain: bool = True) -> None:
        self.callers: list[Caller] = []
        self._context = ca.server_context()
        self._takes_plain = takes_plain
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1_024)
        self._listener.setblocking(False)
        self.address = self._listener.getsockname()
        self._over: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        until(lambda: self._over is not None)

    def close(self) -> None:
        assert self._over is not None
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()
        self._listener.close()

    def connect(self, source: str = "") -> socket.socket:
        whence = (source, 0) if source else None
        return socket.create_connection(self.address, DEADLINE_S, whence)

    def speak(self, context: ssl.SSLContext, name: str | None) -> bytes:
        """All that somebody gets who shakes hands."""
        with self.connect() as sock, context.wrap_socket(sock, server_hostname=name) as tls:
            tls.sendall(b"8 bytes!")
            return b"".join(iter(lambda: tls.recv(100), b""))

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        serves: dict[str | None, front_module.Serve] = {Purpose.BULK: self._tls}
        if self._takes_plain:
            serves[None] = self._plain
        front = Front(self._listener, serves)
        accepting = asyncio.create_task(front.accept())
        self._over = asyncio.Event()
        await self._over.wait()
        front.close()
        accepting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await accepting

    async def _tls(self, caller: Caller) -> None:
        self.callers.append(caller)
        with await shake_hands(caller.sock, self._context) as tls:
            assert await receive_exactly(tls, 8) == b"8 bytes!"
            tls.setblocking(True)
            tls.sendall(f"tls {caller.name}".encode())

    async def _plain(self, caller: Caller) -> None:
        self.callers.append(caller)
        said = await receive_exactly(caller.sock, 8)
        caller.sock.sendall(b"plain " + said)
        caller.sock.close()


@pytest.fixture
def ca(tmp_path: Path) -> TestCa:
    return TestCa(tmp_path / "trust")


@pytest.fixture
def port(ca: TestCa) -> Iterator[Port]:
    made = Port(ca)
    yield made
    made.close()


def everything(sock: socket.socket) -> bytes:
    """Until it is cut: by a reset, if it had said what nobody read."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := sock.recv(1_000):
            data += piece
    return data


def hello_of(context: ssl.SSLContext, name: str | None) -> bytes:
    outgoing = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def test_plain_text_and_tls_come_through_one_port(port: Port, ca: TestCa) -> None:
    assert port.speak(ca.stranger_context(), Purpose.BULK) == b"tls bulk.corps"
    with port.connect() as sock:
        sock.sendall(b"CORPS 12")
        assert everything(sock) == b"plain CORPS 12"


def test_a_hello_that_comes_in_two_halves_is_read_whole(port: Port, ca: TestCa) -> None:
    """The second half wakes the door, and no half of one does."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ca.stranger_context()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=Purpose.BULK)
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    hello = outgoing.read()
    with port.connect() as sock:
        for piece in (hello[:1], hello[1:4], hello[4:7], hello[7:100]):
            sock.sendall(piece)
            with port.connect() as other:  # a whole turn of the loop goes by
                other.sendall(b"12345678")
                assert everything(other) == b"plain 12345678"
        assert len(port.callers) == 4
        sock.sendall(hello[100:])
        until(lambda: len(port.callers) == 5)
        assert port.callers[-1].name == Purpose.BULK


def test_a_name_that_nobody_has_and_old_tls_get_an_alert(port: Port, ca: TestCa) -> None:
    for name in ("evil.example", None):
        with pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):
            port.speak(ca.stranger_context(), name)
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
        port.speak(old, Purpose.BULK)
    assert port.callers == []


def test_plain_text_gets_an_alert_where_only_tls_is_spoken(ca: TestCa) -> None:
    port = Port(ca, takes_plain=False)
    try:
        with port.connect() as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert sock.recv(100) == VERSION_ALERT
        assert port.callers == []
    finally:
        port.close()


@pytest.mark.parametrize(
    "said",
    [
        b"\x16",
        b"\x16\x03\x01\xff\xff" + bytes(100),
        b"\x16\x03\x01\x00\x04\x01\x00\x00\x00",
        b"\x16\x03\x01\x00\x00",
    ],
    ids=["one byte", "a huge record", "an empty hello", "an empty record"],
)
def test_rubbish_that_begins_like_tls_is_cut(port: Port, said: bytes) -> None:
    with port.connect() as sock:
        sock.sendall(said)
        with contextlib.suppress(OSError):  # it was cut before
            sock.shutdown(socket.SHUT_WR)
        assert everything(sock) in (b"", VERSION_ALERT, NAME_ALERT)
    assert port.callers == []


def test_who_says_nothing_is_cut(port: Port) -> None:
    with port.connect() as silent, port.connect() as slow:
        slow.sendall(b"\x16\x03\x01\x01\x00half of a hello")
        assert everything(silent) == b""
        assert everything(slow) == b""


def test_a_crowd_from_one_place_keeps_nobody_else_out(port: Port, ca: TestCa) -> None:
    hello = hello_of(ca.stranger_context(), Purpose.BULK)[:50]
    with contextlib.ExitStack() as stack:
        patient = stack.enter_context(port.connect("127.0.0.2"))
        patient.sendall(hello)
        crowd = [stack.enter_context(port.connect()) for _ in range(STRANGERS_MAX + 10)]
        for sock in crowd:
            with contextlib.suppress(OSError):  # cut already
                sock.sendall(hello)
        assert port.speak(ca.stranger_context(), Purpose.BULK) == b"tls bulk.corps"
        assert everything(crowd[0]) == b"", "the oldest of the crowd goes first"
        patient.setblocking(False)
        with pytest.raises(BlockingIOError):
            patient.recv(1)


def test_whom_a_connection_counts_for() -> None:
    assert source_of("10.0.0.5") == "10.0.0.5"
    assert source_of("::ffff:10.0.0.5") == "10.0.0.5"
    assert source_of("2001:db8::1") == source_of("2001:db8::ffff") == "2001:db8::/64"
    assert source_of("fe80::1%eth0") == "fe80::/64"
