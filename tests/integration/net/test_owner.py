"""Whose process is at the other end: the kernel's word, and none for what is closed."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from corps.net.owner import is_trusted, owner_of, read_table
from tests.support.waiting import until

NOBODY = 65_534
DIALS = """
import os, socket, sys
os.setuid(int(sys.argv[2]))
sock = socket.socket()
sock.connect(("127.0.0.1", int(sys.argv[1])))
sock.sendall(b"hello")
sys.stdin.read()
"""


@contextlib.contextmanager
def pair(host: str = "127.0.0.1") -> Iterator[tuple[socket.socket, socket.socket]]:
    """Ours, and the peer's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener:
        peer = socket.create_connection(listener.getsockname()[:2])
        ours, _ = listener.accept()
        with peer, ours:
            yield ours, peer


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_our_own_connection_is_ours(host: str) -> None:
    with pair(host) as (ours, _):
        assert owner_of(ours) == os.geteuid()
        found = read_table(ours.getpeername()[:2], ours.getsockname()[:2])
        assert found is not None and found.uid == os.geteuid()


def test_a_peer_that_came_by_way_of_ipv6_is_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(socket.AF_INET6) as peer:
        peer.connect((f"::ffff:{listener.getsockname()[0]}", listener.getsockname()[1]))
        ours, _ = listener.accept()
        with ours:
            assert owner_of(ours) == os.geteuid()
            found = read_table(ours.getpeername(), ours.getsockname())
            assert found is not None and found.uid == os.geteuid()


def test_another_users_process_is_that_users() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        words = [sys.executable, "-c", DIALS, str(listener.getsockname()[1]), str(NOBODY)]
        with subprocess.Popen(words, stdin=subprocess.PIPE) as process:
            ours, _ = listener.accept()
            with ours:
                assert owner_of(ours) == NOBODY
                assert not is_trusted(owner_of(ours))
            assert process.stdin is not None
            process.stdin.close()


def test_what_was_closed_is_nobodys_though_the_kernel_says_root() -> None:
    """A stranger that says all it wants and hangs up must not pass for root."""
    with pair() as (ours, peer):
        peer.sendall(b"hello")
        peer.close()
        until(lambda: owner_of(ours) is None)
        assert ours.recv(10) == b"hello", "what it said is here all the same"
        assert not is_trusted(None)


def test_another_one_on_the_same_port_is_not_the_one_that_was_reset() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # from an address that nobody else here takes a port of
        first = socket.create_connection(listener.getsockname(), 20, ("127.0.0.77", 0))
        source = first.getsockname()
        ours, _ = listener.accept()
        first.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        first.close()
        until(lambda: owner_of(ours) is None)
        with socket.socket() as second, ours:
            second.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            second.bind(source)
            second.connect(listener.getsockname())
            assert owner_of(ours) is None
            again, _ = listener.accept()
            with again:
                assert owner_of(again) == os.geteuid()


def test_root_and_ourselves_are_trusted() -> None:
    assert is_trusted(0)
    assert is_trusted(os.geteuid())
    assert not is_trusted(NOBODY)
