"""HTTP/1.1 over a unix socket: one connection, kept alive, and patience with a peer that was there.

Whoever calls decides what may be sent again: `Lost` says that an exchange came to no end.
"""

from __future__ import annotations

import errno
import http.client
import os
import select
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlencode

import msgspec

from corps.clock import Clock
from corps.errors import Denied, ProtocolError, TimedOut, Unavailable

CONNECT_S = 2.0
RETRY_S = 0.1
ANSWER_MAX_BYTES = 512 << 20
UNIX_PATH_MAX_BYTES = 107  # sun_path of unix(7), without the final NUL

Query: TypeAlias = Sequence[tuple[str, str | int | float]]


def connect_unix(path: Path) -> socket.socket:
    """A connected stream socket; `path` may be longer than sun_path, unix(7)."""
    if len(os.fsencode(path)) <= UNIX_PATH_MAX_BYTES:
        return _connected(os.fspath(path))
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return _connected(f"/proc/self/fd/{directory}/{path.name}")
    finally:
        os.close(directory)


class Request(msgspec.Struct, frozen=True):
    method: str
    path: str
    query: Query = ()
    body: bytes | None = None
    wait_s: float = 0.0


class Answer(msgspec.Struct, frozen=True):
    status: int
    headers: http.client.HTTPMessage
    body: bytes


class Lost(Unavailable):
    """No connection, or it broke: the same request may be sent again."""


class Patience:
    """How long one call goes on trying to reach a master that it has reached before."""

    def __init__(self, limit_s: float, clock: Clock) -> None:
        self._limit_s = limit_s
        self._clock = clock
        self.has_reached = False
        self.lost_at: float | None = None

    def wait(self, error: Lost) -> None:
        """Sleep a moment; raise `error` when the master was never there or is gone too long."""
        if not self.has_reached:
            raise Unavailable(error.message) from error
        now = self._clock()
        self.lost_at = self.lost_at or now
        if now - self.lost_at > self._limit_s:
            raise error
        time.sleep(RETRY_S)


class Connection(http.client.HTTPConnection):
    """HTTP/1.1 over a unix socket."""

    def __init__(self, path: Path, answer_s: float) -> None:
        super().__init__("localhost")
        self._path, self._answer_s = path, answer_s

    def connect(self) -> None:
        try:
            self.sock = connect_unix(self._path)
        except PermissionError as error:
            raise Denied(f"no permission to use unix://{self._path}") from error
        except OSError as error:
            raise Lost(
                f"no master at unix://{self._path}: {os.strerror(error.errno or 0).lower()}; "
                "start one with 'corps up' or 'corps master'"
            ) from error

    def exchange(self, request: Request, patience: Patience) -> Answer:
        """One request and its answer. Raise Lost when that could not be."""
        if self.sock is not None and _is_stale(self.sock):
            self.close()
        if self.sock is None:
            self.connect()
        patience.has_reached, is_whole = True, False
        self.sock.settimeout(request.wait_s + self._answer_s)
        try:
            answer = self._exchange(request)
            is_whole = True
        except TimeoutError as error:
            waited = f"within {request.wait_s + self._answer_s:g} s"
            raise TimedOut(f"no answer from unix://{self._path} {waited}") from error
        except (OSError, http.client.HTTPException) as error:
            reason = str(error) or type(error).__name__
            raise Lost(f"lost the master at unix://{self._path}: {reason}") from error
        finally:
            if not is_whole:  # half an exchange is on it, after ctrl-C too
                self.close()
        return answer

    def _exchange(self, request: Request) -> Answer:
        path = f"{request.path}?{urlencode(request.query)}" if request.query else request.path
        headers = {} if request.body is None else {"Content-Type": "application/json"}
        self.request(request.method, path, request.body, headers)
        with self.getresponse() as response:
            body = response.read(ANSWER_MAX_BYTES + 1)
            if response.length and len(body) <= ANSWER_MAX_BYTES:  # read(n) does not tell it
                raise http.client.IncompleteRead(body, response.length)
        if len(body) > ANSWER_MAX_BYTES:
            raise ProtocolError(f"an answer of more than {ANSWER_MAX_BYTES} bytes")
        return Answer(response.status, response.headers, body)


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


def _is_stale(connection: socket.socket) -> bool:
    """Between two requests there is nothing to read but the end."""
    poller = select.poll()
    poller.register(connection, select.POLLIN)
    return bool(poller.poll(0))
