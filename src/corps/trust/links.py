"""TLS of a worker's own connections: to its master, to its peers, and from them.

On blocking sockets with a timeout. Who the other end is, is read from its certificate.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import time

from corps.errors import Denied
from corps.model.identity import Identity
from corps.trust.contexts import Purpose
from corps.trust.credentials import Credentials
from corps.trust.names import identity_of


def reach(sock: socket.socket, credentials: Credentials, purpose: Purpose) -> ssl.SSLSocket:
    """The client's part: with a peer for SWARM, else with the master. `sock` is spent; raise
    OSError, also for somebody else."""
    with contextlib.ExitStack() as failing:
        failing.enter_context(sock)
        context = credentials.client_context()
        tls = failing.enter_context(context.wrap_socket(sock, server_hostname=purpose))
        check_peer(tls.getpeercert(True), credentials, is_master=purpose is not Purpose.SWARM)
        failing.pop_all()
    return tls


def welcome(sock: socket.socket, credentials: Credentials) -> ssl.SSLSocket:
    """The server's part, for a worker of the same cluster. As `reach`."""
    with contextlib.ExitStack() as failing:
        failing.enter_context(sock)
        context = credentials.server_context()
        tls = failing.enter_context(context.wrap_socket(sock, server_side=True))
        identity = check_peer(tls.getpeercert(True), credentials, is_master=False)
        if identity.expires_at < time.time():
            raise ConnectionError(f"the certificate of {identity.worker} has expired")
        failing.pop_all()
    return tls


def check_peer(der: bytes | None, credentials: Credentials, *, is_master: bool) -> Identity:
    """Of the other end of a connection whose handshake is done. Raise ConnectionError for somebody
    else."""
    own = credentials.identity()
    try:
        other = identity_of(der)
    except Denied as error:
        raise ConnectionError(error.message) from error
    if other.cluster != own.cluster:
        raise ConnectionError(f"it belongs to cluster {other.cluster}, not to {own.cluster}")
    if is_master is not (other.worker is None):
        raise ConnectionError(f"it is {other.worker or 'a master'}, where we looked for another")
    return other
