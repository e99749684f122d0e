"""check: which workers could run a program, before anything is copied."""

from __future__ import annotations

from typing import Unpack

import click

from corps.cli import render
from corps.cli.libraries import LIBRARIES, Traceable
from corps.cli.operator import Operator
from corps.cli.options import SELECTOR, output_option, verb
from corps.cli.packing import PackOptions, pack_options, packing, target_of
from corps.cli.render import MISSING, Column, Listing, Output
from corps.client import Client
from corps.errors import Failed, Unavailable
from corps.model.artifact import Manifest
from corps.model.check import CheckView, check_of
from corps.model.name import Digest

LISTED_MAX = 10


class CheckOptions(PackOptions):
    libs: bool
    on: str
    output: Output


@verb("check", Traceable)
@pack_options
@click.option("--libs", is_flag=True, help="Only list its libraries: which travel, and why.")
@click.option("--on", type=SELECTOR, default="all", metavar="SELECTOR", help="Which workers.")
@output_option
@click.pass_obj
def check(operator: Operator, **options: Unpack[CheckOptions]) -> None:
    """Say which workers could run a program, and why the others could not.

    Each looks at its own machine; nothing is copied. PATH and its options are as for copy.
    """
    target = target_of(options)
    if not options["libs"]:
        operator.client.status()  # nothing is read and hashed for a master that is not there
    with packing(options, target) as (name, packed):
        libraries, question = packed.libraries, check_of(name, packed.digest, packed.manifest)
    if options["libs"]:
        render.show(libraries, LIBRARIES, options["output"])
        return
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
