"""A master of this machine: its API is a unix socket, and the kernel tells it who we are."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from corps.errors import Denied
from corps.net.exchange import RETRY_S, Lost
from corps.wire.codec import BULK_PREFACE

CONNECT_S = 2.0
UNIX_PATH_MAX_BYTES = 107  # sun_path of unix(7), without the final NUL
BULK_SOCKET = "bulk.sock"  # beside that of the API


class UnixEndpoint(msgspec.Struct, frozen=True):
    path: Path

    @property
    def url(self) -> str:
        return f"unix://{self.path}"

    @property
    def authority(self) -> str:
        return "localhost"

    @property
    def headers(self) -> Mapping[str, str]:
        return {}

    @property
    def opening(self) -> bytes:
        return BULK_PREFACE

    def connect(self) -> socket.socket:
        try:
            return connect_unix(self.path)
        except PermissionError as error:
            raise Denied(f"no permission to use {self.url}") from error
        except OSError as error:
            raise Lost(
                f"no master at {self.url}: {os.strerror(error.errno or 0).lower()}; "
                "start one with 'corps up' or 'corps master'"
            ) from error

    def connect_bulk(self) -> socket.socket:
        return connect_unix(self.path.with_name(BULK_SOCKET))


def connect_unix(path: Path) -> socket.socket:
    """A connected stream socket; `path` may be longer than sun_path, unix(7)."""
    if len(os.fsencode(path)) <= UNIX_PATH_MAX_BYTES:
        return _connected(os.fspath(path))
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return _connected(f"/proc/self/fd/{directory}/{path.name}")
    finally:
        os.close(directory)


def _connected(address: str) -> socket.socket:
    """A full queue answers EAGAIN at once, however long the timeout: unix(7)."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    for _ in range(int(CONNECT_S / RETRY_S)):
        code = connection.connect_ex(address)
        if code != errno.EAGAIN:
            break
        time.sleep(RETRY_S)
    if code:
        connection.close()
        raise OSError(code, os.strerror(code))
    connection.setblocking(True)
    return connection
