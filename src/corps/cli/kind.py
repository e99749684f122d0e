"""The options of `copy` that say what PATH is and how it is started."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any, TypeVar

import click

from corps.errors import Malformed

R = TypeVar("R")
KINDS = (
    "file",
    "tree",
    "jar",
    "archive",
    "python",
)  # of corps.pack.kinds, which only a copy imports


def kind_options(function: Callable[..., R]) -> Callable[..., Any]:
    """`--kind`, `--runner` and `--python`."""
    runner = click.option(
        "--runner",
        default="",
        metavar="'PROG ARG...'",
        help="What starts it on a worker: 'node', 'java -Xmx1g -jar'.",
    )
    kind = click.option("--kind", type=click.Choice(KINDS), help="What PATH is; else as it looks.")
    python = click.option(
        "--python", metavar="PROG", help="Whose pip builds a Python application, as workers have."
    )
    return kind(runner(python(function)))


def words_of(runner: str) -> tuple[str, ...]:
    """As a shell splits them."""
    try:
        return tuple(shlex.split(runner))
    except ValueError as error:
        raise Malformed(f"--runner {runner!r}: {str(error).lower()}") from None
