"""`copy --dry-run`: what would be sent to the master and to each worker."""

from __future__ import annotations

import msgspec

from corps.cli import render
from corps.cli.render import MISSING, Column, Listing, Output
from corps.client import Client
from corps.errors import Failed
from corps.model.check import check_of
from corps.model.plan import PlanRequest, PlanView

MASTER = "(master)"


def show_plan(client: Client, request: PlanRequest, output: Output, *, is_forced: bool) -> None:
    """Raise Failed when a worker would not get it; `is_forced`: also to one that cannot run it."""
    rows = client.plan(request)
    if not is_forced:
        rows = _with_misfits(client, request, rows)
    render.show(rows, PLANS, output)
    failed = [row for row in rows if row.problem is not None]
    for row in failed:
        render.error(f"{row.artifact} would not get to {row.worker}: {row.problem}")
    if failed:
        raise Failed(f"{len(failed)} of {len(rows) - 1} workers would not get {request.name}")


def _with_misfits(client: Client, request: PlanRequest, rows: list[PlanView]) -> list[PlanView]:
    """What workers say of themselves, who look whether they could run it."""
    checked = client.check(check_of(request.name, rows[0].digest, request.manifest), request.to)
    problems = {row.worker: "; ".join(row.problems) for row in checked if row.fits is False}
    return [
        msgspec.structs.replace(row, problem=row.problem or problems.get(row.worker or ""))
        for row in rows
    ]


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
