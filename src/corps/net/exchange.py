"""HTTP/1.1 with a master: one connection, kept alive, and patience with a peer that was there.

Whoever calls decides what may be sent again: `Lost` says that an exchange came to no end.
"""

from __future__ import annotations

import http.client
import select
import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeAlias
from urllib.parse import urlencode

import msgspec

from corps.clock import Clock
from corps.errors import ProtocolError, TimedOut, Unavailable

RETRY_S = 0.1
ANSWER_MAX_BYTES = 512 << 20

Query: TypeAlias = Sequence[tuple[str, str | int | float]]


class Endpoint(Protocol):
    """Where a master's API is, and how to reach it. For all threads."""

    @property
    def url(self) -> str:
        """As it is shown."""
        ...

    @property
    def authority(self) -> str:
        """`host` or `host:port`, for the header Host."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """What every request carries."""
        ...

    @property
    def opening(self) -> bytes:
        """The first bytes on a bulk connection."""
        ...

    def connect(self) -> socket.socket:
        """For HTTP. Raise Lost when nobody is there, Denied when it is the wrong one."""
        ...

    def connect_bulk(self) -> socket.socket:
        """For blobs. Raise as `connect` does, or OSError."""
        ...


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
    """To an endpoint; connects when it must."""

    def __init__(
        self, endpoint: Endpoint, answer_s: float, limit_bytes: int = ANSWER_MAX_BYTES
    ) -> None:
        super().__init__(endpoint.authority)
        self._endpoint, self._answer_s, self._limit_bytes = endpoint, answer_s, limit_bytes

    def connect(self) -> None:
        self.sock = self._endpoint.connect()

    def close(self) -> None:
        """And forget the lines of a request that ctrl-C cut short: http.client keeps them, and
        would send them before those of the next one."""
        super().close()
        self._buffer: list[bytes] = []

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
            raise TimedOut(f"no answer from {self._endpoint.url} {waited}") from error
        except (OSError, http.client.HTTPException) as error:
            reason = str(error) or type(error).__name__
            raise Lost(f"lost the master at {self._endpoint.url}: {reason}") from error
        finally:
            if not is_whole:  # half an exchange is on it, after ctrl-C too
                self.close()
        return answer

    def _exchange(self, request: Request) -> Answer:
        path = f"{request.path}?{urlencode(request.query)}" if request.query else request.path
        headers = dict(self._endpoint.headers)
        if request.body is not None:
            headers["Content-Type"] = "application/json"
        self.request(request.method, path, request.body, headers)
        with self.getresponse() as response:
            body = response.read(self._limit_bytes + 1)
            if response.length and len(body) <= self._limit_bytes:  # read(n) does not tell it
                raise http.client.IncompleteRead(body, response.length)
        if len(body) > self._limit_bytes:
            raise ProtocolError(f"an answer of more than {self._limit_bytes} bytes")
        return Answer(response.status, response.headers, body)


def _is_stale(connection: socket.socket) -> bool:
    """Between two requests there is nothing to read but the end, and records of TLS itself."""
    poller = select.poll()
    poller.register(connection, select.POLLIN)
    if not poller.poll(0):
        return False
    if not isinstance(connection, ssl.SSLSocket):
        return True
    connection.settimeout(0)
    try:
        connection.recv(1)
    except ssl.SSLWantReadError:
        return False
    except OSError:
        return True
    return True
