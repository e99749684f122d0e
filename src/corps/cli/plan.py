"""`copy --dry-run`: what would be sent to the master and to each worker."""

from __future__ import annotations

from corps.cli import render
from corps.cli.render import MISSING, Column, Listing, Output
from corps.client import Client
from corps.errors import Failed
from corps.model.artifact import Manifest
from corps.model.plan import PlanRequest, PlanView

MASTER = "(master)"


def show_plan(client: Client, name: str, manifest: Manifest, to: str, output: Output) -> None:
    """Raise Failed when a worker would not get it."""
    rows = client.plan(PlanRequest(name=name, manifest=manifest, to=to))
    render.show(rows, PLANS, output)
    failed = [row for row in rows if row.problem is not None]
    for row in failed:
        render.error(f"{row.artifact} would not get to {row.worker}: {row.problem}")
    if failed:
        raise Failed(f"{len(failed)} of {len(rows) - 1} workers would not get {name}")


def _result(row: PlanView) -> str:
    if row.problem is not None:
        return row.problem
    verb = "upload" if row.worker is None else "install"
    return f"would {verb}" if row.files_missing else "has all"


def _paths(row: PlanView) -> str:
    more = row.files_missing - len(row.paths)
    return " ".join((*row.paths, *([f"and {more} more"] if more else ()))) or MISSING


PLANS: Listing[PlanView] = Listing(
    lambda row: row.worker or MASTER,
    (
        Column("TO", lambda row: row.worker or MASTER),
        Column("ARTIFACT", lambda row: row.artifact),
        Column("DIGEST", lambda row: render.short(row.digest)),
        Column("MISSING", lambda row: render.size(row.bytes_missing)),
        Column("SIZE", lambda row: render.size(row.bytes_total)),
        Column("FILES MISSING", lambda row: f"{row.files_missing} of {row.files_total}"),
        Column("RESULT", _result),
        Column("CONTENT", _paths, is_wide=True),
    ),
)
