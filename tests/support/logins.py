"""A CA, tokens and logins of a cluster that nobody runs."""

from __future__ import annotations

from pathlib import Path

from corps.clock import Clock
from corps.model.access import CallerView
from corps.model.token import Token, TokenKind, format_token
from corps.model.trust import MAY, Role
from corps.trust.authority import Authority
from corps.trust.logins import Login
from tests.support.http import TlsMaster

SECRET = bytes(range(16))
TOKEN_ID = "abcdefgh"
ANN = CallerView(
    name="ann",
    role=Role.OPERATOR,
    permissions=MAY[Role.OPERATOR],
    source="127.0.0.1",
    token=TOKEN_ID,
    token_expires_at="2027-02-23T01:52:58.178Z",
)


def an_authority(directory: Path, cluster: str = "c1") -> Authority:
    """With a certificate for its master."""
    now = Clock()()
    authority = Authority(directory, cluster, now)
    authority.issue_master(["127.0.0.1"], now)
    return authority


def a_token(authority: Authority, kind: TokenKind = TokenKind.PERSON) -> str:
    return format_token(Token(kind=kind, id=TOKEN_ID, secret=SECRET, pin=authority.pin))


def a_login(master: TlsMaster, authority: Authority) -> Login:
    return Login(
        server=master.url,
        cluster=authority.cluster,
        user="ann",
        authorities=authority.bundle_pem.decode(),
        token=a_token(authority),
    )
