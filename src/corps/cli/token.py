"""The token that a worker joins by: where it is said, and what is done with it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypedDict, TypeVar

import click

from corps.cli import render
from corps.cli.operator import read_token
from corps.config import Settings
from corps.daemon import conceal_argument
from corps.errors import Invalid, Malformed
from corps.model.name import WorkerName
from corps.net.address import parse_address

TOKEN_MAX_BYTES = 4 << 10

F = TypeVar("F", bound=Callable[..., Any])


class TokenOptions(TypedDict):
    token: str | None
    token_file: str | None
    token_fd: int | None


def token_options(command: F) -> F:
    for option in (
        click.option(
            "--token-fd", type=click.IntRange(0), metavar="N", help="The descriptor it comes by."
        ),
        click.option("--token-file", metavar="FILE", help="Where the token is; nobody else's."),
        click.option("--token", metavar="T", help="To join by, once; 'ps' shows it for a moment."),
    ):
        command = option(command)
    return command


def given_token(options: TokenOptions) -> str | None:
    """Raise Malformed for two of them, Invalid for what cannot be read, Denied for a file that
    others can read."""
    given = [name for name, value in options.items() if name in _NAMES and value is not None]
    if len(given) > 1:
        raise Malformed("give one of --token, --token-file and --token-fd")
    try:
        if options["token_file"] is not None:
            return read_token(options["token_file"])
        if options["token_fd"] is not None:
            return os.read(options["token_fd"], TOKEN_MAX_BYTES).decode()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not text"
        raise Invalid(f"cannot read the token: {why}", field="token") from error
    if options["token"] is not None:
        conceal_argument(options["token"])
    return options["token"]


def join_by(settings: Settings, master: str, token: str, name: str | None) -> WorkerName:
    """The worker that the token makes of this machine, or has made of it before."""
    from corps.worker.membership import become_member  # noqa: PLC0415  # once in a worker's life

    member = become_member(settings, parse_address(master), token, name)
    render.note(f"corps: {member} is a worker of the master at {master}")
    return member


_NAMES = tuple(TokenOptions.__annotations__)
