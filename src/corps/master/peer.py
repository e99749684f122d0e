"""Who is at the other end of the API socket, as the kernel says (SO_PEERCRED, unix(7))."""

from __future__ import annotations

import asyncio
import os
import socket
import struct

from corps.master.protocol import LimitedProtocol

UID = "uid "
_UCRED = struct.Struct("3i")


class PeerProtocol(LimitedProtocol):
    """HTTP on a Unix socket whose `client` is (`uid N`, pid); strangers are cut at once."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn does
        super().connection_made(transport)
        sock = transport.get_extra_info("socket")
        pid, uid, _ = _UCRED.unpack(
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        )
        if uid not in (0, os.geteuid()):
            transport.abort()
            return
        self.client = (f"{UID}{uid}", pid)
