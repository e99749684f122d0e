"""HTTP/1.1 within limits: of a head's bytes, of a request's, and of how long each part may take.

    opened --head--> working --answer--> idle --head--> ...     one deadline at a time; none while
                        '--peer reads nothing--> stalled        the master works on an answer

uvicorn limits none of it with httptools. Whoever breaks a limit hears why, as far as they listen.
"""

from __future__ import annotations

import asyncio
from typing import Any

import httptools
import msgspec
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from corps.model.artifact import MANIFEST_MAX_BYTES
from corps.model.command import Failure

URL_MAX_BYTES = 512 << 10  # 10,000 targets
HEADERS_MAX_BYTES = 32 << 10
HEADERS_MAX = 100
REQUEST_MAX_BYTES = 2 * MANIFEST_MAX_BYTES  # with what chunks cost; each route has its own limit
VERSIONS = ("1.0", "1.1")
LINGER_S = 1.0
LINGER_MAX_BYTES = 4 << 20


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    idle_s: float  # between requests
    head_s: float = 10.0
    body_s: float = 60.0
    stall_s: float = 30.0  # while the peer reads nothing of an answer
    url_bytes: int = URL_MAX_BYTES


class LimitedProtocol(HttpToolsProtocol):
    """One connection. `limits` is a class attribute: uvicorn makes the objects."""

    limits = Limits(idle_s=3600.0)

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._refusal: tuple[int, str] | None = None
        self._is_in_head = self._is_in_request = self._is_over = False
        self._head_bytes = self._header_bytes = self._request_bytes = 0
        self._deadline: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    # ---- the transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn does
        super().connection_made(transport)
        self._expect_within(self.limits.head_s)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._deadline = None
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._request_bytes += len(data)
        if self._is_over:
            if self._request_bytes > LINGER_MAX_BYTES:
                self.transport.abort()
            return
        self._head_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._refusal = self._refusal or (400, "this is no request of HTTP/1.1")
        self._check_sizes()
        if self._refusal is not None:
            self._refuse(*self._refusal)

    def _check_sizes(self) -> None:
        """Of what has no end yet, so that the parser has told nobody."""
        head_max = self.limits.url_bytes + HEADERS_MAX_BYTES
        if self._refusal is not None:
            return
        if self._is_in_head and self._head_bytes > head_max:
            self._refusal = (431, f"the head of a request has at most {head_max} bytes")
        elif self._request_bytes > REQUEST_MAX_BYTES:
            self._refusal = (413, f"a request has at most {REQUEST_MAX_BYTES} bytes")

    def pause_writing(self) -> None:
        super().pause_writing()
        self._expect_within(self.limits.stall_s)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._wait()

    # ---- the parser

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_in_head = self._is_in_request = True
        self._header_bytes = self._request_bytes = 0
        self._head_bytes = 0
        if self.is_idle:
            self._expect_within(self.limits.head_s)

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > self.limits.url_bytes:
            self._stop(414, f"a URL has at most {self.limits.url_bytes} bytes: name fewer targets")

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > HEADERS_MAX_BYTES or len(self.headers) > HEADERS_MAX:
            self._stop(
                431, f"at most {HEADERS_MAX} headers of {HEADERS_MAX_BYTES} bytes in a request"
            )
        if name.lower() == b"upgrade":
            self._stop(400, "only HTTP/1.1 is spoken here")

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        if self.parser.get_method() == b"CONNECT":  # its target is no URL
            self._stop(405, "no method CONNECT")
        if self.parser.get_http_version() not in VERSIONS:
            self._stop(400, "only HTTP/1.1 is spoken here")
        if not self.url.startswith(b"/"):  # with a host of its own, past the check of Host
            self._stop(400, "a request names a path: '/v1/...'")
        super().on_headers_complete()
        self._wait()

    def on_message_complete(self) -> None:
        self._is_in_request = False
        super().on_message_complete()
        self._wait()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._unset_keepalive_if_required()  # ours is the deadline
        self._wait()

    # ---- deadlines

    @property
    def is_idle(self) -> bool:
        """No request is under way, or being worked on."""
        return self.cycle is None or self.cycle.response_complete

    def _wait(self) -> None:
        """For what must come next, and no longer than it may take."""
        if self._is_over:
            return
        if self.flow is not None and self.flow.write_paused:
            self._expect_within(self.limits.stall_s)
        elif self._is_in_request:
            self._expect_within(self.limits.head_s if self._is_in_head else self.limits.body_s)
        else:
            self._expect_within(self.limits.idle_s if self.is_idle else None)

    def _expect_within(self, seconds: float | None) -> None:
        self._deadline = None if seconds is None else self.loop.time() + seconds
        timer = self._timer
        if self._deadline is None or (timer is not None and timer.when() <= self._deadline):
            return
        if timer is not None:
            timer.cancel()
        self._timer = self.loop.call_at(self._deadline, self._look)

    def _look(self) -> None:
        """The deadline may have moved since the timer was set: cheaper than to set it each time."""
        self._timer = None
        if self._deadline is None:
            return
        if self.loop.time() < self._deadline:
            self._timer = self.loop.call_at(self._deadline, self._look)
        elif self._is_over or self._is_in_request or self.flow.write_paused:
            self.transport.abort()
        else:
            self.transport.close()

    # ---- refusals

    def _stop(self, status: int, message: str) -> None:
        """End the parse: its callbacks can only raise."""
        self._refusal = (status, message)
        raise ValueError(message)

    def _refuse(self, status: int, message: str) -> None:
        """Answer, then read on for a moment: a close with bytes unread would be a reset."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True  # whoever works on it hears that nobody waits
            self.cycle.message_event.set()
            if self.cycle.response_started:
                self.transport.abort()
                return
        body = msgspec.json.encode(Failure(code="malformed", message=message))
        head = (
            b"content-type: application/json\r\nconnection: close\r\n"
            b"content-length: %d\r\n\r\n" % len(body)
        )
        self.transport.write(STATUS_LINE[status] + head + body)
        self._is_over, self._request_bytes = True, 0
        self._expect_within(LINGER_S)
