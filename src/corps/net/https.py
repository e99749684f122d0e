"""A master elsewhere: HTTPS, and nobody but the master that a token or a login is of.

A token names the CA by its pin. Whoever has nothing else asks for the CAs first, over a connection
that proves nothing and is told nothing, and goes on with the one that has the pin only. The token
is sent when the certificate is of that CA, in date, and names a master (trust/contexts.py).
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from contextlib import closing

import msgspec

from corps.clock import Clock
from corps.errors import Denied, Invalid, ProtocolError, Unavailable
from corps.model.access import HelloView
from corps.model.identity import parse_uri
from corps.model.token import Token, format_token
from corps.net.address import format_address, parse_address
from corps.net.exchange import Connection, Lost, Patience, Request
from corps.trust.contexts import UNRECOGNIZED_NAME, Purpose, client_context, stranger_context
from corps.wire.bulk import Authorize
from corps.wire.codec import BULK_PREFACE, encode_frame

SCHEME = "https://"
HTTPS_PORT = 443
CONNECT_S = 5.0
HELLO_MAX_BYTES = 256 << 10


class TlsEndpoint:
    """`authorities` (PEM) alone may speak for the master; without them the token's pin says which
    CA that is."""

    def __init__(
        self, address: tuple[str, int], token: Token, authorities: str | None = None
    ) -> None:
        self._address, self._token = address, token
        self._context = None if authorities is None else client_context(authorities)

    @property
    def url(self) -> str:
        return f"{SCHEME}{self.authority}"

    @property
    def authority(self) -> str:
        return format_address(self._address)

    @property
    def headers(self) -> Mapping[str, str]:
        return {"Authorization": f"Bearer {format_token(self._token)}"}

    @property
    def opening(self) -> bytes:
        return BULK_PREFACE + encode_frame(Authorize(token=format_token(self._token)))

    def connect(self) -> socket.socket:
        return self._connect_verified(self._address[0])

    def connect_bulk(self) -> socket.socket:
        return self._connect_verified(Purpose.BULK)

    def _connect_verified(self, server_name: str) -> socket.socket:
        if self._context is None:
            self._context = client_context(meet(self._address, self._token.pin))
        sock = _connect(self._address, self._context, server_name)
        try:
            _check_master(sock, self.url)
        except Denied:
            sock.close()
            raise
        return sock


class _Stranger(msgspec.Struct, frozen=True):
    """The same address before anything is known of it."""

    address: tuple[str, int]

    @property
    def url(self) -> str:
        return f"{SCHEME}{self.authority}"

    @property
    def authority(self) -> str:
        return format_address(self.address)

    @property
    def headers(self) -> Mapping[str, str]:
        return {}

    @property
    def opening(self) -> bytes:
        raise AssertionError("a stranger gets no blobs")

    def connect(self) -> socket.socket:
        return _connect(self.address, stranger_context(), self.address[0])

    def connect_bulk(self) -> socket.socket:
        raise AssertionError("a stranger gets no blobs")


def parse_url(text: str) -> tuple[str, int]:
    """`https://HOST[:PORT]` -> (host, port). Raise Invalid, and repeat no secret."""
    place = text.removeprefix(SCHEME).removesuffix("/")
    if not text.startswith(SCHEME) or any(mark in place for mark in "/?#@\\ \0"):
        raise Invalid("bad server: spelled https://HOST:PORT, and nothing after it", field="server")
    has_port = ":" in place.rpartition("]")[2]
    return parse_address(place if has_port else f"{place}:{HTTPS_PORT}")


def meet(address: tuple[str, int], pin: str) -> str:
    """The CA with that pin, in PEM, from a master that is yet to prove that it is of it. Raise
    Denied when it has another."""
    from corps.trust.pinned import pinned  # noqa: PLC0415  # 40 ms that only strangers cost

    stranger = _Stranger(address)
    request = Request("GET", "/v1/hello")
    with closing(Connection(stranger, CONNECT_S, HELLO_MAX_BYTES)) as connection:
        try:
            answer = connection.exchange(request, Patience(0.0, Clock()))
            if answer.status != 200:
                raise ProtocolError(f"HTTP {answer.status}")
            hello = msgspec.json.decode(answer.body, type=HelloView)
            found = pinned(hello.authorities + hello.former, pin)
        except (msgspec.DecodeError, UnicodeDecodeError, ProtocolError) as error:
            raise ProtocolError(
                f"{stranger.url} does not answer as a master of corps does: {error}"
            ) from error
    if found is None:
        raise Denied(
            f"{stranger.url} is not the master that this token is of: the CA has another pin; the "
            "token was not sent. See that the address is right; or ask for a new token"
        )
    return found


def _connect(address: tuple[str, int], context: ssl.SSLContext, server_name: str) -> ssl.SSLSocket:
    url = f"{SCHEME}{format_address(address)}"
    sock = None
    try:
        sock = socket.create_connection(address, CONNECT_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return context.wrap_socket(sock, server_hostname=server_name)
    except (OSError, UnicodeError) as error:
        if sock is not None:
            sock.close()
        raise _refusal(url, error) from error


def _refusal(url: str, error: OSError | UnicodeError) -> Denied | ProtocolError | Unavailable:
    match error:
        case ssl.SSLCertVerificationError():
            return Denied(
                f"{url} is not the master that was logged in to: {error.verify_message}; "
                "see that the clocks are right, then 'corps login' with a new token"
            )
        case ssl.SSLEOFError() | ssl.SSLZeroReturnError():
            return Lost(f"no master at {url}: it hung up")
        case ssl.SSLError(reason=reason) if reason == UNRECOGNIZED_NAME:
            return ProtocolError(
                f"workers are served at {url}, not people: give the address of the master's --api, "
                "not of its --listen"
            )
        case ssl.SSLError():
            reason = (error.reason or str(error)).lower().replace("_", " ")
            return ProtocolError(f"no TLS 1.3 at {url}: {reason}")
        case TimeoutError():
            return Lost(f"no master at {url}: no answer within {CONNECT_S:g} s")
        case OSError():
            reason = (error.strerror or str(error)).lower()
            return Lost(f"no master at {url}: {reason}")
    return Unavailable(f"no master at {url}: a bad host name")


def _check_master(sock: ssl.SSLSocket, url: str) -> None:
    """Workers have certificates of the same CA."""
    names = (sock.getpeercert() or {}).get("subjectAltName", ())
    uris = [str(name[1]) for name in names if name[0] == "URI"]
    if len(uris) != 1 or parse_uri(uris[0])[1] is not None:
        raise Denied(f"{url} shows a certificate that is no master's: nothing was sent to it")
