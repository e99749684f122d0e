"""Which master is meant, and as whom: from settings, a URL, a path, a token."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeAlias

from corps.config import LOCAL, Settings, config_dir
from corps.errors import Denied, Invalid
from corps.model.token import Token, TokenKind, parse_token
from corps.net.exchange import Endpoint
from corps.net.unix_http import UnixEndpoint
from corps.trust.logins import Login, Logins

TOKEN_VARIABLE = "CORPS_TOKEN"
HTTPS = "https://"
UNIX = "unix://"

Server: TypeAlias = Settings | Path | str | Endpoint


def endpoint_of(server: Server, token: str | None = None) -> Endpoint:
    """`token` wins over the environment's, and that over the one of a login. Raise Invalid for what
    is no server, Denied where there is no token for one."""
    if isinstance(server, Settings):
        return _of_settings(server, token)
    if isinstance(server, str):
        return _of_url(server, token)
    return UnixEndpoint(server) if isinstance(server, Path) else server


def _of_settings(settings: Settings, token: str | None) -> Endpoint:
    if settings.server is not None:
        return _of_url(settings.server, token)
    if settings.context is None or settings.context == LOCAL:
        return UnixEndpoint(settings.api_socket)
    login = Logins(config_dir()).load(settings.context)
    return _remote(login.server, token, login)


def _of_url(text: str, token: str | None) -> Endpoint:
    if text.startswith(HTTPS):
        return _remote(text, token, None)
    path = text.removeprefix(UNIX)
    if not path.startswith("/") or "\0" in path:
        raise Invalid(
            f"bad server {text[:80]!r}: spelled https://HOST:PORT or unix:///path", field="server"
        )
    return UnixEndpoint(Path(path))


def _remote(url: str, token: str | None, login: Login | None) -> Endpoint:
    """A token that is said is for whichever CA it names; else that of the login."""
    from corps.net.https import TlsEndpoint, parse_url  # noqa: PLC0415  # what only that costs

    address = parse_url(url)
    if token is None:
        token = os.environ.get(TOKEN_VARIABLE) or None
    if token is not None:
        return TlsEndpoint(address, person(token))
    if login is None:
        logins = Logins(config_dir())
        known = (logins.load(name) for name in logins.names())
        login = next((one for one in known if parse_url(one.server) == address), None)
    if login is None:
        raise Denied(
            f"no token for {url}: 'corps login' first, or give --token-file or {TOKEN_VARIABLE}"
        )
    return TlsEndpoint(address, person(login.token), login.authorities)


def person(token: str) -> Token:
    return parse_token(token, TokenKind.PERSON)
