"""token, user, ca, `worker revoke`: who may come in, and what ends that."""

from __future__ import annotations

import os

import click
import msgspec

from corps.cli import render
from corps.cli.moment import parse_duration
from corps.cli.operator import Operator, ask
from corps.cli.options import SELECTOR, TOKEN, USER, Verb, output_option
from corps.cli.render import MISSING, Column, Listing, Output
from corps.errors import Conflict, NotFound
from corps.model.access import TrustView
from corps.model.command import Ruled
from corps.model.name import did_you_mean
from corps.model.token import (
    ID_BYTES,
    SECRET_BYTES,
    Token,
    TokenKind,
    base32,
    format_token,
    hash_secret,
)
from corps.model.trust import (
    USES_MAX,
    CaView,
    CreateToken,
    CreateUserToken,
    RemoveUser,
    RevokeToken,
    RevokeWorker,
    Role,
    RotateCa,
    SetUser,
    TokenView,
    UserView,
)
from corps.net.address import is_loopback, parse_address

ROLE = click.Choice([role.value for role in Role])
KINDS = {TokenKind.JOIN.value: "worker", TokenKind.PERSON.value: "person"}


class NewToken(msgspec.Struct, frozen=True, kw_only=True):
    """What is shown once. `command`: what to paste where it is used."""

    id: str
    kind: TokenKind
    token: str
    ttl_s: float
    command: str | None


@click.group("token")
def token() -> None:
    """Tokens: by which workers join, and those of people."""


@token.command("create", cls=Verb)
@click.option("--uses", type=click.IntRange(1, USES_MAX), default=1, show_default=True)
@click.option("--ttl", default="1h", show_default=True, metavar="TIME", help="30m, 1h, 7d.")
@click.option("--name", metavar="W", help="Only for a worker of this name.")
@output_option
@click.pass_obj
def token_create(operator: Operator, uses: int, ttl: str, name: str | None, output: Output) -> None:
    """Print one line to paste on a new machine, which makes it a worker."""
    ttl_s, trust = parse_duration(ttl), operator.client.trust()
    made = _new_token(TokenKind.JOIN, trust)
    command = CreateToken(
        id=made.id, secret_hash=hash_secret(made.secret), ttl_s=ttl_s, uses=uses, worker=name
    )
    operator.client.submit(command, Ruled)
    line = f"corps join {trust.workers_at} --token {format_token(made)}"
    _show(made, ttl_s, line, line, output)
    host, _ = parse_address(trust.workers_at)
    if is_loopback(host):
        render.note(
            "corps: workers of other machines cannot reach the master: start it with "
            "'corps master --listen HOST:PORT'"
        )
    elif host in ("0.0.0.0", "::"):
        render.note(f"corps: put an address of the master's in place of {host}")


@token.command("list", cls=Verb)
@output_option
@click.pass_obj
def token_list(operator: Operator, output: Output) -> None:
    """All tokens, without what would let somebody in."""
    render.show(operator.client.tokens(), TOKENS, output)


@token.command("revoke", cls=Verb)
@click.argument("id", type=TOKEN, metavar="ID")
@click.pass_obj
def token_revoke(operator: Operator, id: str) -> None:
    """Nobody comes in by it any more. Workers that joined by it stay."""
    operator.client.submit(RevokeToken(id=id), Ruled)


@click.group("user")
def user() -> None:
    """People at the HTTPS API, and their roles."""


@user.command("list", cls=Verb)
@output_option
@click.pass_obj
def user_list(operator: Operator, output: Output) -> None:
    """All people, their roles, how many tokens they have."""
    render.show(operator.client.users(), USERS, output)


@user.command("add", cls=Verb)
@click.argument("name", metavar="NAME")
@click.option("--role", type=ROLE, required=True, help="What they may do.")
@click.pass_obj
def user_add(operator: Operator, name: str, role: str) -> None:
    """Let a person in; 'corps user token' makes what they log in with."""
    if name in _roles(operator):
        raise Conflict(f"there is a user {name!r}: 'corps user role' changes the role", user=name)
    operator.client.submit(SetUser(name=name, role=Role(role)), Ruled)
    render.note(f"corps: 'corps user token {name}' makes what {name} logs in with")


@user.command("role", cls=Verb)
@click.argument("name", type=USER, metavar="NAME")
@click.argument("role", type=ROLE, metavar="ROLE")
@click.pass_obj
def user_role(operator: Operator, name: str, role: str) -> None:
    """Change what a person may do: viewer, operator, deployer or admin, from now on."""
    known = _roles(operator)
    if name not in known:
        raise NotFound(f"no user {name[:80]!r}{did_you_mean(name, known)}", user=name)
    operator.client.submit(SetUser(name=name, role=Role(role)), Ruled)


@user.command("remove", cls=Verb)
@click.argument("name", type=USER, metavar="NAME")
@click.pass_obj
def user_remove(operator: Operator, name: str) -> None:
    """Take a person out, with all their tokens."""
    operator.client.submit(RemoveUser(name=name), Ruled)


@user.command("token", cls=Verb)
@click.argument("name", type=USER, metavar="NAME")
@click.option("--ttl", default="90d", show_default=True, metavar="TIME", help="8h, 90d.")
@output_option
@click.pass_obj
def user_token(operator: Operator, name: str, ttl: str, output: Output) -> None:
    """Print a new token of a person, for 'corps login'. It is shown this once."""
    ttl_s, trust = parse_duration(ttl), operator.client.trust()
    made = _new_token(TokenKind.PERSON, trust)
    command = CreateUserToken(
        id=made.id, user=name, secret_hash=hash_secret(made.secret), ttl_s=ttl_s
    )
    operator.client.submit(command, Ruled)
    line = None if trust.api_at is None else f"corps login https://{trust.api_at}"
    _show(made, ttl_s, format_token(made), line, output)
    if line is None:
        render.note(
            "corps: there is no HTTPS: start the master with 'corps master --api HOST:PORT'"
        )
    else:
        render.note(f"corps: {name} gives it to '{line}'")


@click.group("ca")
def ca() -> None:
    """The CA of the cluster, which signs for its master and its workers."""


@ca.command("rotate", cls=Verb)
@click.option("-y", "--yes", "is_sure", is_flag=True, help="Do not ask.")
@click.pass_obj
def ca_rotate(operator: Operator, is_sure: bool) -> None:
    """Have a new CA in place of this one. Workers and logins follow by themselves.

    Nobody joins any more by a token made until now.
    """
    if not is_sure:
        ask("rotate the CA (nobody joins by a token made until now)")
    operator.client.submit(RotateCa(), Ruled)
    render.note("corps: under way: 'corps ca status' tells how far")


@ca.command("status", cls=Verb)
@output_option
@click.pass_obj
def ca_status(operator: Operator, output: Output) -> None:
    """Which CA it is, and which workers a rotation waits for."""
    render.show([operator.client.ca()], CAS, output)


@click.command("revoke", cls=Verb)
@click.argument("worker", type=SELECTOR, metavar="WORKER")
@click.pass_obj
def worker_revoke(operator: Operator, worker: str) -> None:
    """Cut a worker off: its certificate is worth nothing from now on. Its apps go on.

    It may join again by a new token.
    """
    operator.client.submit(RevokeWorker(worker=worker), Ruled)


def _new_token(kind: TokenKind, trust: TrustView) -> Token:
    """Made here: the master is only told a hash."""
    return Token(
        kind=kind,
        id=base32(os.urandom(ID_BYTES)),
        secret=os.urandom(SECRET_BYTES),
        pin=trust.pin,
    )


def _show(made: Token, ttl_s: float, line: str, command: str | None, output: Output) -> None:
    if output in (Output.TABLE, Output.WIDE):
        render.write_lines([line])
        return
    new = NewToken(
        id=made.id, kind=made.kind, token=format_token(made), ttl_s=ttl_s, command=command
    )
    render.show([new], NEW_TOKENS, output)


def _roles(operator: Operator) -> dict[str, Role]:
    return {row.name: row.role for row in operator.client.users()}


def _state(row: TokenView) -> str:
    if row.is_valid:
        return "valid"
    return "used" if row.uses_left == 0 else "expired"


def _holder(row: TokenView) -> str:
    return row.user or row.worker or ""


CAS: Listing[CaView] = Listing(
    lambda row: row.pin,
    (
        Column("PIN", lambda row: row.pin),
        Column("STAGE", lambda row: row.stage.value),
        Column("WAITS FOR", lambda row: ",".join(row.lagging) or MISSING),
        Column("SINCE", lambda row: row.began_at or MISSING),
        Column("BY", lambda row: row.began_by or MISSING),
        Column("TRUSTED", lambda row: ",".join(row.trusted), is_wide=True),
    ),
)
NEW_TOKENS: Listing[NewToken] = Listing(lambda row: row.token, ())
TOKENS: Listing[TokenView] = Listing(
    lambda row: row.id,
    (
        Column("TOKEN", lambda row: row.id),
        Column("FOR", lambda row: f"{KINDS.get(row.kind, row.kind)} {_holder(row)}".strip()),
        Column("STATE", _state),
        Column("USES", lambda row: render.number(row.uses_left)),
        Column("EXPIRES", lambda row: row.expires_at),
        Column("BY", lambda row: row.created_by),
        Column("JOINED", lambda row: ",".join(row.joined) or MISSING),
    ),
)
USERS: Listing[UserView] = Listing(
    lambda row: row.name,
    (
        Column("USER", lambda row: row.name),
        Column("ROLE", lambda row: row.role.value),
        Column("TOKENS", lambda row: str(row.tokens)),
        Column("SINCE", lambda row: row.created_at),
    ),
)
