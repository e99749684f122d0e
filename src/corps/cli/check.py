"""check: which workers could run a program, before anything is copied."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict, Unpack

import click

from corps.cli import render
from corps.cli.operator import Operator
from corps.cli.options import SELECTOR, output_option, verb
from corps.cli.render import MISSING, Column, Listing, Output
from corps.client import Client
from corps.errors import Failed, Unavailable
from corps.model.artifact import Manifest
from corps.model.check import CheckView, check_of
from corps.model.name import Digest, check_name

LISTED_MAX = 10


class CheckOptions(TypedDict):
    path: str
    name: str | None
    entry: str | None
    libraries: tuple[str, ...]
    no_libs: bool
    on: str
    output: Output


@verb("check")
@click.argument("path", type=click.Path(), metavar="PATH")
@click.option("--name", metavar="NAME", help="What to call it; else the name of the file.")
@click.option("--entry", metavar="FILE", help="What to execute in a directory.")
@click.option(
    "--lib", "libraries", multiple=True, type=click.Path(), metavar="FILE", help="One more library."
)
@click.option("--no-libs", is_flag=True, help="As if copied without the libraries it needs.")
@click.option("--on", type=SELECTOR, default="all", metavar="SELECTOR", help="Which workers.")
@output_option
@click.pass_obj
def check(operator: Operator, **options: Unpack[CheckOptions]) -> None:
    """Say which workers could run a program, and why the others could not.

    Each looks at its own machine; nothing is copied.
    """
    from corps.pack.build import default_name, pack  # noqa: PLC0415  # only this needs it

    operator.client.status()  # nothing is read and hashed for a master that is not there
    path = Path(options["path"])
    name = check_name("artifact", options["name"] or default_name(path))
    packed = pack(
        path,
        entry=options["entry"],
        libraries=[Path(library) for library in options["libraries"]],
        with_libraries=not options["no_libs"],
    )
    for warning in packed.warnings:
        render.note(f"corps: warning: {warning}")
    question = check_of(name, packed.digest, packed.manifest)
    rows = operator.client.check(question, options["on"])
    render.show(rows, CHECKS, options["output"])
    cannot = [row for row in rows if not row.fits]
    if cannot:
        raise Failed(f"{len(cannot)} of {len(rows)} workers cannot run {name}")


def require_fit(client: Client, name: str, digest: Digest, manifest: Manifest, on: str) -> None:
    """Before a copy: raise Unavailable, each reason told, unless some worker could run it."""
    rows = client.check(check_of(name, digest, manifest), on)
    if any(row.fits is not False for row in rows):
        return
    if len(rows) == 1:
        raise Unavailable(f"nothing was copied: {'; '.join(rows[0].problems)}")
    for row in rows[:LISTED_MAX]:
        render.error("; ".join(row.problems))
    raise Unavailable(f"nothing was copied: none of {len(rows)} workers could run {name}")


def _verdict(row: CheckView) -> str:
    return "unknown" if row.fits is None else ("can run it" if row.fits else "cannot")


CHECKS: Listing[CheckView] = Listing(
    lambda row: row.worker,
    (
        Column("WORKER", lambda row: row.worker),
        Column("ARTIFACT", lambda row: row.artifact),
        Column("VERDICT", _verdict),
        Column("WHY", lambda row: "; ".join(row.problems) or MISSING),
    ),
)
