"""People at the HTTPS port of a master: their tokens, and what they send."""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
from typing import Any

from corps.model.command import AnyCommand, Ruled
from corps.model.token import Token, TokenKind, base32, format_token, hash_secret
from corps.model.trust import CreateToken, CreateUserToken, Role, SetUser
from corps.net.address import parse_address
from corps.trust.contexts import Purpose
from tests.support.cluster import Cluster

HTTPS = ("--api", "127.0.0.1:0")
PIN = "a" * 32  # the master looks at none: it is for who holds the token
JSON = {"Content-Type": "application/json"}


def a_token(kind: TokenKind = TokenKind.PERSON, id: str = "") -> Token:
    return Token(kind=kind, id=id or base32(os.urandom(5)), secret=os.urandom(16), pin=PIN)


def add_person(cluster: Cluster, name: str, role: Role) -> Token:
    """Somebody with this role, and a token of theirs."""
    rule(cluster, SetUser(name=name, role=role))
    return add_token(cluster, name)


def add_token(cluster: Cluster, user: str, ttl_s: float = 600.0) -> Token:
    token = a_token()
    secret = hash_secret(token.secret)
    rule(cluster, CreateUserToken(id=token.id, user=user, secret_hash=secret, ttl_s=ttl_s))
    return token


def add_join_token(cluster: Cluster) -> Token:
    token = a_token(TokenKind.JOIN)
    rule(cluster, CreateToken(id=token.id, secret_hash=hash_secret(token.secret)))
    return token


def rule(cluster: Cluster, command: AnyCommand) -> None:
    cluster.client.submit(command, Ruled)


class Remote:
    """The HTTPS port of a cluster's master, as somebody sees it who trusts anyone."""

    def __init__(self, cluster: Cluster) -> None:
        path = cluster.settings.master_dir / "api-address"
        self.address = parse_address(path.read_text().strip())
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.check_hostname = False
        self.context.verify_mode = ssl.CERT_NONE

    def connect(self, name: str = "", source: str = "127.0.0.1") -> ssl.SSLSocket:
        """`name` is the server name of the hello."""
        sock = socket.create_connection(self.address, 30, source_address=(source, 0))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self.context.wrap_socket(sock, server_hostname=name or None)

    def connect_bulk(self) -> ssl.SSLSocket:
        return self.connect(Purpose.BULK)

    def person(self, bearer: str | None = None) -> Person:
        return Person(self, bearer)

    def bearer(self, token: Token, source: str = "127.0.0.1") -> Person:
        return Person(self, format_token(token), source)


class Person:
    """Asks one thing after the other, with what they show as their token."""

    def __init__(self, remote: Remote, bearer: str | None, source: str = "127.0.0.1") -> None:
        self._headers = {} if bearer is None else {"Authorization": f"Bearer {bearer}"}
        host, port = remote.address
        self._connection = http.client.HTTPSConnection(
            host, port, context=remote.context, timeout=30, source_address=(source, 0)
        )

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, Any]:
        kind = {} if body is None else JSON
        self._connection.request(method, path, body, {**self._headers, **kind, **(headers or {})})
        answer = self._connection.getresponse()
        data = answer.read()
        is_json = answer.headers.get_content_type().endswith("json")
        return answer.status, json.loads(data) if is_json else data

    def headers_of(self, method: str, path: str) -> http.client.HTTPMessage:
        """Of an answer."""
        self._connection.request(method, path, None, self._headers)
        answer = self._connection.getresponse()
        answer.read()
        return answer.headers

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Person:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
