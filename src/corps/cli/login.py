"""login, logout, context, whoami: which clusters there are for a person, and who they are there.

The token is sent to the master that its pin names, and to nobody else (net/https.py).
"""

from __future__ import annotations

import sys

import click
import msgspec

from corps.cli import render
from corps.cli.operator import Operator, read_token
from corps.cli.options import Verb, output_option, verb
from corps.cli.render import MISSING, Column, Listing, Output
from corps.client import Client
from corps.config import LOCAL, config_dir, current_context, set_current_context
from corps.errors import Conflict, CorpsError, Invalid, Malformed, NotFound
from corps.model.access import CallerView
from corps.model.name import check_name
from corps.model.token import TokenKind, format_token, parse_token
from corps.net.address import format_address
from corps.net.https import SCHEME, TlsEndpoint, parse_url
from corps.trust.logins import Login, Logins


class ContextView(msgspec.Struct, frozen=True, kw_only=True):
    """A cluster that can be meant; `server` and what follows are null where its file is no good."""

    name: str
    is_current: bool
    server: str | None
    cluster: str | None = None
    user: str | None = None


@verb("login")
@click.argument("url", metavar="https://HOST:PORT")
@click.option("--token", metavar="T", help="Others on this machine can see it: better not.")
@click.option("--token-file", metavar="FILE", help="Where the token is; - for stdin.")
@click.option("--context", "name", metavar="NAME", help="What to call it; else as the host.")
@click.pass_obj
def login(
    operator: Operator, url: str, token: str | None, token_file: str | None, name: str | None
) -> None:
    """Log in to a master elsewhere; commands go there from then on.

    Asks for the token, which an admin makes with 'corps user token', and keeps it in a file of
    yours. It is sent only to the master that it is of.
    """
    address = parse_url(url)
    if token is not None and token_file is not None:
        raise Malformed("give --token or --token-file, not both")
    text = token or (operator.token if token_file is None else read_token(token_file))
    parsed = parse_token(text or _ask_token(), TokenKind.PERSON)
    name = _default_name(address[0]) if name is None else _check_context(name)
    logins = Logins(config_dir())
    with Client(TlsEndpoint(address, parsed)) as client:
        me, hello = client.whoami(), client.hello()
    name = name or hello.cluster
    if name in logins.names() and (known := logins.load(name)).cluster != hello.cluster:
        raise Conflict(
            f"context {name!r} is of another cluster, at {known.server}: "
            f"'corps logout {name}' first, or give another --context"
        )
    entry = Login(
        server=f"{SCHEME}{format_address(address)}",
        cluster=hello.cluster,
        user=me.name,
        authorities=hello.authorities,
        token=format_token(parsed),
    )
    logins.save(name, entry)
    set_current_context(name)
    operator.forget()
    render.note(
        f"corps: logged in to {entry.server} as {me.name}, {me.role.value}, until "
        f"{me.token_expires_at}; {_meant(operator, name)}"
    )


@verb("logout")
@click.argument("name", metavar="[CONTEXT]", required=False)
@click.pass_obj
def logout(operator: Operator, name: str | None) -> None:
    """Forget a context and its token; commands go to this machine's master then."""
    name = name or current_context()
    if name is None or name == LOCAL:
        raise NotFound("not logged in: see 'corps context'", context=LOCAL)
    _forget(operator, name)


class Contexts(Verb, click.Group):
    """A list, and what can be done with it."""


@click.group("context", cls=Contexts, invoke_without_command=True)
@output_option
@click.pass_context
def context(context: click.Context, output: Output) -> None:
    """List the clusters that 'corps login' knows."""
    if context.invoked_subcommand is None:
        _show_contexts(output)


@context.command("list", cls=Verb)
@output_option
def context_list(output: Output) -> None:
    """The clusters there are, and which is meant."""
    _show_contexts(output)


@context.command("use", cls=Verb)
@click.argument("name", metavar="NAME")
@click.pass_obj
def context_use(operator: Operator, name: str) -> None:
    """Commands go there from now on; 'local' is this machine's own master."""
    if name != LOCAL:
        Logins(config_dir()).load(name)
    set_current_context(None if name == LOCAL else name)
    operator.forget()
    render.note(f"corps: {_meant(operator, name)}")


@context.command("delete", cls=Verb)
@click.argument("name", metavar="NAME")
@click.pass_obj
def context_delete(operator: Operator, name: str) -> None:
    """Forget it and its token, as 'corps logout' does."""
    _forget(operator, name)


@verb("whoami")
@output_option
@click.pass_obj
def whoami(operator: Operator, output: Output) -> None:
    """Who you are to the master, and what you may do there."""
    render.show([operator.client.whoami()], CALLERS, output)


def _meant(operator: Operator, name: str) -> str:
    """Where commands go now, which a stronger layer may have said."""
    settings = operator.settings
    if settings.server is None and (settings.context or LOCAL) == name:
        return f"commands go there now (context {name})"
    return (
        f"commands do not go there yet, as a flag or the environment (CORPS_DIR, CORPS_SERVER, "
        f"CORPS_CONTEXT) names another master: say --context {name}"
    )


def _ask_token() -> str:
    if not sys.stdin.isatty():
        raise Malformed("nobody can be asked for the token: give --token-file FILE, or - for stdin")
    answer = click.prompt("Token (not shown)", hide_input=True, err=True)
    assert isinstance(answer, str)
    return answer


def _default_name(host: str) -> str | None:
    """None: the host is none that a context can be called by."""
    try:
        return _check_context(host.lower())
    except Invalid:
        return None


def _check_context(name: str) -> str:
    if check_name("context", name) == LOCAL:
        raise Invalid(f"no context can be called {LOCAL!r}: that is this machine's", field="name")
    return name


def _forget(operator: Operator, name: str) -> None:
    gone = Logins(config_dir()).delete(name)
    if current_context() == name:
        set_current_context(None)
    operator.forget()
    if gone is not None:
        id = parse_token(gone.token, TokenKind.PERSON).id
        render.note(
            f"corps: logged out of {gone.server}; the token is good there until it expires, or "
            f"an admin ends it: 'corps token revoke {id}'"
        )


def _show_contexts(output: Output) -> None:
    logins, current = Logins(config_dir()), current_context() or LOCAL
    rows = [ContextView(name=LOCAL, is_current=current == LOCAL, server=None)]
    for name in logins.names():
        try:
            login: Login | None = logins.load(name)
        except CorpsError as error:
            render.error(error.message)
            login = None
        rows.append(
            ContextView(
                name=name,
                is_current=name == current,
                server=None if login is None else login.server,
                cluster=None if login is None else login.cluster,
                user=None if login is None else login.user,
            )
        )
    render.show(rows, CONTEXTS, output)


CONTEXTS: Listing[ContextView] = Listing(
    lambda row: row.name,
    (
        Column("CONTEXT", lambda row: row.name),
        Column("CURRENT", lambda row: "yes" if row.is_current else MISSING),
        Column("SERVER", lambda row: row.server or MISSING),
        Column("USER", lambda row: row.user or MISSING),
        Column("CLUSTER", lambda row: row.cluster or MISSING, is_wide=True),
    ),
)
CALLERS: Listing[CallerView] = Listing(
    lambda row: row.name,
    (
        Column("USER", lambda row: row.name),
        Column("ROLE", lambda row: row.role.value),
        Column("MAY", lambda row: ",".join(row.permissions)),
        Column("FROM", lambda row: row.source),
        Column("TOKEN", lambda row: row.token or MISSING),
        Column("EXPIRES", lambda row: row.token_expires_at or MISSING),
    ),
)
