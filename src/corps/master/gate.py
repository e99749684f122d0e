"""What comes before every route: is the request fit for us at all, and who sends it?

A browser that somebody lured here says so itself: by the host it believes it talks to (DNS
rebinding, RFC 9110 7.4), by Origin and Sec-Fetch-Site (Fetch). No page of another site has
business with a master, so none gets an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import msgspec
from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from corps.master.people import Unauthenticated
from corps.master.permissions import METHODS, ROUTES, Access
from corps.model.access import Caller
from corps.model.command import Failure
from corps.model.trail import NOBODY

HEADERS = [
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]
_OWN_SITES = (b"same-origin", b"none")
_PUBLIC = {path for (_, path), access in ROUTES.items() if access is Access.ANYONE}


class Refused(msgspec.Struct, frozen=True):
    status: int
    code: str
    message: str
    who: str = NOBODY


class Gate:
    """An ASGI application around another. `identify` raises Unauthenticated for strangers, `still`
    for who has become one since."""

    def __init__(
        self,
        app: ASGIApp,
        hosts: Collection[str],
        identify: Callable[[HTTPScope, str | None], Caller],
        still: Callable[[Caller], object] = lambda caller: None,
        on_refused: Callable[[HTTPScope, Refused], None] = lambda scope, refused: None,
    ) -> None:
        self._app, self._hosts, self._identify = app, hosts, identify
        self._still, self._on_refused = still, on_refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == ScopeType.HTTP, "no other protocol is served"
        refused = self._refuse(scope)
        if refused is not None:
            self._on_refused(scope, refused)
            await _answer(send, refused)
            return
        await self._app(scope, receive, _Answer(scope, send, self._still).send)

    def _refuse(self, scope: HTTPScope) -> Refused | None:
        """Why not, or None: then the scope says who it is."""
        headers = Headers(scope)
        hosts = self._hosts
        if scope["server"] is not None:  # by its address nobody is led astray
            hosts = {*hosts, scope["server"][0]}
        refused = check_request(scope["method"], headers, hosts)
        if refused is not None:
            return refused
        try:
            scope["user"] = self._identify(scope, headers.text(b"authorization"))
        except Unauthenticated as error:
            if scope["path"] not in _PUBLIC:
                return Refused(error.http_status, error.code, error.message, error.who)
            scope["user"] = None
        return None


class Headers:
    """Those of one request, by their names in small letters."""

    def __init__(self, scope: HTTPScope) -> None:
        self._all = scope["headers"]

    def all(self, name: bytes) -> list[bytes]:
        return [value for key, value in self._all if key == name]

    def text(self, name: bytes) -> str | None:
        """None when it is not there, or more than once: nobody knows which of them holds."""
        found = self.all(name)
        return found[0].decode("latin-1") if len(found) == 1 else None


def check_request(method: str, headers: Headers, hosts: Collection[str]) -> Refused | None:
    """Whether it could come from a client of ours, by what it says of itself."""
    host = headers.text(b"host")
    if host is None or host_name(host) not in hosts:
        said = "names no host" if host is None else f"is for {host[:80]!r}"
        return Refused(421, "malformed", f"the request {said}: here is {', '.join(sorted(hosts))}")
    if method not in METHODS:
        return Refused(405, "malformed", f"no method {method[:20]}: {' and '.join(METHODS)} only")
    origins = headers.all(b"origin")
    if any(origin != b"https://" + host.encode("latin-1") for origin in origins):
        return Refused(403, "denied", "a page of another site may ask nothing here")
    if any(site not in _OWN_SITES for site in headers.all(b"sec-fetch-site")):
        return Refused(403, "denied", "a page of another site may ask nothing here")
    return None


def host_name(host: str) -> str:
    """Of a Host header: without its port, and `[::1]` without its brackets."""
    name, colon, port = host.rpartition(":")
    if not colon or not port.isdecimal():
        name = host
    return name.removeprefix("[").removesuffix("]").lower()


async def _answer(send: Send, refused: Refused) -> None:
    body = msgspec.json.encode(Failure(code=refused.code, message=refused.message))
    extra = {401: (b"www-authenticate", b'Bearer realm="corps"'), 405: (b"allow", b"GET, POST")}
    headers = [
        *HEADERS,
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    if refused.status in extra:
        headers.append(extra[refused.status])
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


class _Answer:
    """One answer on its way. Some wait a minute for news: who has lost their token meanwhile gets
    none. What a command did is told all the same, as it is done."""

    def __init__(self, scope: HTTPScope, send: Send, still: Callable[[Caller], object]) -> None:
        self._scope, self._send, self._still = scope, send, still
        self._is_withheld = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            caller = self._scope["user"]
            if isinstance(caller, Caller) and self._scope["method"] == "GET":
                try:
                    self._still(caller)
                except Unauthenticated as error:
                    self._is_withheld = True
                    refused = Refused(error.http_status, error.code, error.message, error.who)
                    await _answer(self._send, refused)
            message["headers"] = [*message["headers"], *HEADERS]
        if not self._is_withheld:
            await self._send(message)
