"""join: what is pasted on a new machine."""

from __future__ import annotations

from typing import Any, cast

import click

from corps.cli.daemons import worker
from corps.cli.options import verb
from corps.cli.token import TokenOptions, given_token, join_by, token_options
from corps.errors import Malformed


@verb("join")
@click.argument("master", metavar="HOST:PORT")
@token_options
@click.option("--no-run", is_flag=True, help="Only join: 'corps worker' runs it later.")
@click.pass_context
def join(context: click.Context, /, master: str, no_run: bool, **options: Any) -> None:
    """Make this machine a worker of a master by a token, and run it as 'corps worker' does."""
    said: dict[str, Any] = {word: options.pop(word) for word in TokenOptions.__annotations__}
    token = given_token(cast(TokenOptions, said))
    if token is None:
        raise Malformed("give --token, --token-file or --token-fd: 'corps token create' makes one")
    name = join_by(context.obj.settings, master, token, options.pop("name"))
    if not no_run:
        context.invoke(worker, master=master, name=name, **options)


join.params += [
    parameter
    for parameter in worker.params
    if parameter.name not in {known.name for known in join.params}
]
