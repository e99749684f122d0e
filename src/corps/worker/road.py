"""The way to the master: by TLS where this worker has a certificate, in plain text on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from corps.errors import Unavailable
from corps.net.address import format_address
from corps.net.connection import Connection, tune
from corps.trust.contexts import Purpose, why_unverified

if TYPE_CHECKING:  # and else only where there is a certificate: what reads one takes 8 MB
    from corps.trust.credentials import Credentials

CONNECT_S = 5.0
HANDSHAKE_S = 5.0
GOODBYE_S = 1.0
SILENCE_S = 4.0


class Road(NamedTuple):
    """Where the master is, and whom we are to it. Credentials are read again for each connection:
    they are renewed meanwhile."""

    address: tuple[str, int]
    credentials: Credentials | None = None

    def __str__(self) -> str:
        return format_address(self.address)

    def dial(self) -> socket.socket:
        """A blocking connection for blobs. Raise OSError, also for another master."""
        sock = self._connect()
        if self.credentials is None:
            return sock
        from corps.trust.links import reach  # noqa: PLC0415  # as above

        return reach(sock, self.credentials, Purpose.BULK)

    async def open_control(self, connection: Connection[Any]) -> asyncio.Transport:
        """`connection` on its transport, the master's certificate checked. Raise as `dial`,
        and Unavailable with what is wrong with the certificate that was shown."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(CONNECT_S):
            sock = await asyncio.to_thread(self._connect)
        sock.setblocking(False)
        if self.credentials is None:
            transport, _ = await loop.create_connection(lambda: connection, sock=sock)
            return transport
        from corps.trust.links import check_peer  # noqa: PLC0415  # as above

        try:
            transport, _ = await loop.create_connection(
                lambda: connection,
                sock=sock,
                ssl=self.credentials.client_context(),
                server_hostname=Purpose.CONTROL.value,  # uvloop takes no subclass of str
                ssl_handshake_timeout=HANDSHAKE_S,
                ssl_shutdown_timeout=GOODBYE_S,
            )
        except ssl.SSLCertVerificationError as error:
            raise Unavailable(why_unverified(str(self), error)) from error
        with contextlib.ExitStack() as failing:
            failing.callback(transport.abort)
            tls = transport.get_extra_info("ssl_object")
            check_peer(tls.getpeercert(True), self.credentials, is_master=True)
            failing.pop_all()
        return transport

    def _connect(self) -> socket.socket:
        sock = socket.create_connection(self.address, timeout=CONNECT_S)
        tune(sock, SILENCE_S)
        return sock


def load_credentials(directory: Path) -> Credentials | None:
    """Of the worker in `directory`; None when it has not joined. Raise Denied for a key that others
    can read, Unavailable for what cannot be read."""
    if not (directory / "trust" / "cert.pem").exists():
        return None
    from corps.trust.credentials import DIRECTORY, Credentials  # noqa: PLC0415  # as above

    credentials = Credentials(directory / DIRECTORY)
    credentials.identity()
    return credentials
