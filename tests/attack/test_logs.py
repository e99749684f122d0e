"""The log of a daemon has lines of the daemon only, whatever strangers say to it."""

from __future__ import annotations

import socket

from corps.net.address import parse_address
from corps.trust.contexts import Purpose, stranger_context
from corps.wire.codec import encode_frame
from tests.support.cluster import Cluster
from tests.support.waiting import until

FORGED = "x\n2026-11-25 00:00:00,000 INFO FORGED \x1b[2J"


def test_a_stranger_writes_no_line_of_its_own(attacked: Cluster) -> None:
    """Who comes to join needs nothing; what a decoder cannot take it repeats."""
    with (
        socket.create_connection(parse_address(attacked.address), 20) as plain,
        stranger_context().wrap_socket(plain, server_hostname=Purpose.JOIN) as sock,
    ):
        sock.sendall(encode_frame({"type": FORGED}))
        while sock.recv(4_096):
            pass
    until(lambda: "FORGED" in attacked.log("master"))
    log = attacked.log("master")
    assert not [line for line in log.splitlines() if line.startswith(FORGED[2:20])]
    assert "\x1b" not in log
