"""secret: what apps must know and nobody else may read."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from corps.cli import render
from corps.cli.operator import Operator
from corps.cli.options import SECRET, Verb, output_option
from corps.cli.render import Column, Listing, Output
from corps.errors import Failed, Invalid
from corps.model.command import Ruled
from corps.model.name import check_name
from corps.model.secret import (
    SECRET_MAX_BYTES,
    Clear,
    DeleteSecret,
    SecretView,
    SetSecret,
    check_content,
)

USERS_SHOWN = 3


class Secrets(Verb, click.Group):
    """A word with words of its own."""


@click.group("secret", cls=Secrets)
def secret() -> None:
    """Passwords, keys and tokens for apps: kept sealed, named by 'launch --secret'."""


@secret.command("set", cls=Verb)
@click.argument("name", type=SECRET, metavar="NAME")
@click.option("--file", type=click.Path(path_type=Path), metavar="FILE", help="Read it from there.")
@click.pass_obj
def set_secret(operator: Operator, name: str, file: Path | None) -> None:
    """Set a secret, or a new version of it, from standard input or a file.

    Every byte counts, a newline at the end too. On a terminal it is asked for, unseen. What runs
    keeps the version that it was started with; each new attempt gets the newest one.
    """
    check_name("secret", name)
    value = _ask(name) if file is None and sys.stdin.isatty() else _read(file)
    check_content(name, value)
    operator.client.submit(SetSecret(name=name, content=Clear(value=value)), Ruled)


@secret.command("list", cls=Verb)
@output_option
@click.pass_obj
def list_secrets(operator: Operator, output: Output) -> None:
    """Names and versions, and which instances name them; never what is in them."""
    render.show(operator.client.secrets(), SECRETS, output)


@secret.command("delete", cls=Verb)
@click.argument("name", type=SECRET, metavar="NAME")
@click.pass_obj
def delete_secret(operator: Operator, name: str) -> None:
    """Delete a secret. Refused while an instance that lives or will be started again names it."""
    operator.client.submit(DeleteSecret(name=name), Ruled)


def _ask(name: str) -> bytes:
    first = click.prompt(f"value of {name}", hide_input=True, err=True)
    if first != click.prompt("once more", hide_input=True, err=True):
        raise Failed("these were two values: nothing is set")
    return os.fsencode(first)


def _read(file: Path | None) -> bytes:
    """At most one byte more than a secret may have."""
    if file is None:
        return sys.stdin.buffer.read(SECRET_MAX_BYTES + 1)
    try:
        with file.open("rb") as opened:
            return opened.read(SECRET_MAX_BYTES + 1)
    except OSError as error:
        raise Invalid(f"cannot read '{file}': {error.strerror}", field="file") from error


def _users(row: SecretView) -> str:
    more = len(row.used_by) - USERS_SHOWN
    shown = " ".join(row.used_by[:USERS_SHOWN])
    return f"{shown} and {more} more" if more > 0 else shown


SECRETS: Listing[SecretView] = Listing(
    lambda row: row.name,
    (
        Column("NAME", lambda row: row.name),
        Column("VERSION", lambda row: str(row.version)),
        Column("CHANGED", lambda row: row.changed_at),
        Column("BY", lambda row: row.changed_by),
        Column("USED BY", _users),
    ),
)
