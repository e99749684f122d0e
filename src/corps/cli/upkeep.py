"""tag, and `artifacts verify|gc|usage`: versions over their life."""

from __future__ import annotations

import click

from corps.cli import render
from corps.cli.operator import Operator, ask
from corps.cli.options import ARTIFACT, Verb, output_option, verb
from corps.cli.render import MISSING, Column, Listing, Output
from corps.errors import CorpsError, Failed, Malformed
from corps.model.command import Copied, Copy, Delete, Deleted, Tag, Tagged
from corps.model.finding import Drift, Finding
from corps.model.terms import parse_size
from corps.model.upkeep import DRIFTED, WHOLE, DriftView, GarbagePlan, GarbageView, RoomView

MASTER = "(master)"
SHOWN_MAX = 20
DELETED, WOULD = "deleted", "would be deleted"


@verb("tag")
@click.argument("artifact", type=ARTIFACT, metavar="NAME[@DIGEST]")
@click.argument("tag", metavar="TAG", required=False)
@click.option("--move", is_flag=True, help="Also from another version of the name.")
@click.option("--remove", is_flag=True, help="Take away the tag in NAME:TAG.")
@click.pass_obj
def tag(operator: Operator, artifact: str, tag: str | None, move: bool, remove: bool) -> None:
    """Give a version a name of its own: NAME:TAG, wherever NAME@DIGEST goes.

    A tag stays with its version, and keeps it from garbage collection.
    """
    if remove == (tag is not None) or (remove and move):
        raise Malformed("give ARTIFACT and TAG, or NAME:TAG and --remove")
    operator.client.submit(Tag(artifact=artifact, tag=tag, moves=move), Tagged)


@click.command("verify", cls=Verb)
@click.argument("artifact", type=ARTIFACT, metavar="[NAME]", required=False)
@click.option("--repair", is_flag=True, help="Mend what drifted.")
@output_option
@click.pass_obj
def verify(operator: Operator, artifact: str | None, repair: bool, output: Output) -> None:
    """Read what is installed, byte by byte, and say what is not as it was copied.

    Exit status 1 when something drifted, and still has after --repair.
    """
    rows = operator.client.drift(artifact)
    if repair and any(row.result != WHOLE for row in rows):
        for row in rows:
            _explain(row)
        _repair(operator, rows)
        rows = operator.client.drift(artifact)
    render.show(rows, DRIFTS, output)
    for row in rows:
        _explain(row)
    bad = [row for row in rows if row.result != WHOLE]
    if bad:
        raise Failed(f"{len(bad)} of {len(rows)} are not as they were copied")


@click.command("gc", cls=Verb)
@click.option("--budget", metavar="SIZE", help="Stop when all versions take no more: 20G.")
@click.option("--all", "with_newest", is_flag=True, help="The newest of a name may go as well.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@output_option
@click.pass_obj
def gc(
    operator: Operator,
    budget: str | None,
    with_newest: bool,
    dry_run: bool,
    yes: bool,
    output: Output,
) -> None:
    """Delete versions that nothing needs, those that were not used for longest first.

    Never one that an instance runs or waits to run, that is being copied, or that has a tag.
    """
    budget_bytes = None if budget is None else parse_size("budget", budget)
    plan = operator.client.garbage(budget_bytes, with_newest=with_newest)
    doomed = [row for row in plan.versions if row.kept_for is None]
    if not dry_run and len(doomed) > 1 and not yes:
        names = " ".join(f"{row.artifact}@{render.short(row.digest)}" for row in doomed[:10])
        more = f" and {len(doomed) - 10} more" if len(doomed) > 10 else ""
        ask(f"delete {len(doomed)} versions ({names}{more})")
    failed = 0
    results: dict[tuple[str, str], str] = {}
    for row in [] if dry_run else doomed:
        results[row.artifact, row.digest] = result = _collect(operator, row)
        failed += result != DELETED
    render.show(plan.versions, _garbage(results), output)
    _tell_room(operator, plan, is_dry=dry_run)
    if failed:
        raise Failed(f"{failed} of {len(doomed)} versions are not gone")


@click.command("usage", cls=Verb)
@output_option
@click.pass_obj
def usage(operator: Operator, output: Output) -> None:
    """Show what room artifacts take at the master and on each worker, and what sharing saves."""
    render.show(operator.client.room(), ROOMS, output)


def _explain(row: DriftView) -> None:
    place = row.worker or "the master"
    if row.result not in (WHOLE, DRIFTED):
        render.error(f"{row.artifact}@{render.short(row.digest)} on {place}: {row.result}")
    for finding in row.findings[:SHOWN_MAX]:
        what = repr(finding.path) if finding.path else "the version"
        render.error(f"{row.artifact} on {place}: {what}: {finding.text}")
    more = len(row.findings) - SHOWN_MAX + row.more
    if more > 0:
        render.error(f"{row.artifact} on {place}: and {more} more")


def _repair(operator: Operator, rows: list[DriftView]) -> None:
    """First the master, which the others get it from."""
    by_version: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        version = f"{row.artifact}@{row.digest}"
        if row.worker is None and row.result != WHOLE:
            operator.client.quarantine(version)
            render.error(f"{version[:76]} cannot be mended at the master: copy it again from where")
        elif row.result != WHOLE and any(f.drift is not Drift.DELETED for f in row.findings):
            by_version.setdefault((row.artifact, row.digest), []).append(row.worker or "")
    for (name, digest), workers in by_version.items():
        command = Copy(name=name, digest=digest, to=",".join(workers), is_repair=True)
        try:
            operator.client.submit(command, Copied)
        except CorpsError as error:
            render.error(f"{name}@{render.short(digest)} was not repaired: {error.message}")


def _collect(operator: Operator, row: GarbageView) -> str:
    command = Delete(artifact=f"{row.artifact}@{row.digest}", as_garbage=True)
    try:
        operator.client.submit(command, Deleted)
    except CorpsError as error:  # it was leased meanwhile, or somebody else deleted it
        return error.message
    return DELETED


def _tell_room(operator: Operator, plan: GarbagePlan, *, is_dry: bool) -> None:
    freed = plan.stored_bytes - plan.left_bytes
    verb = "would free" if is_dry else "freed"
    orphans = (plan.orphan_count, plan.orphan_bytes)
    if plan.orphan_count and not is_dry:
        orphans = operator.client.remove_orphans()
    text = f"corps: {verb} {render.size(freed)} of {render.size(plan.stored_bytes)} in versions"
    if orphans[0]:
        text += f", {render.size(orphans[1])} in {orphans[0]} blobs that no version names"
    render.note(text)
    if plan.budget_bytes is not None and plan.left_bytes > plan.budget_bytes:
        over = render.size(plan.left_bytes - plan.budget_bytes)
        render.note(f"corps: {over} over the budget, in versions that are needed or the newest")


def _garbage(results: dict[tuple[str, str], str]) -> Listing[GarbageView]:
    def result(row: GarbageView) -> str:
        if row.kept_for is not None:
            return f"kept: {row.kept_for}"
        return results.get((row.artifact, row.digest), WOULD)

    return Listing(
        lambda row: f"{row.artifact}@{row.digest}",
        (
            Column("ARTIFACT", lambda row: row.artifact),
            Column("DIGEST", lambda row: render.short(row.digest)),
            Column("TAGS", lambda row: " ".join(row.tags) or MISSING),
            Column("SIZE", lambda row: render.size(row.size_bytes)),
            Column("FREES", lambda row: render.size(row.frees_bytes)),
            Column("USED", lambda row: row.used_at),
            Column("RESULT", result),
        ),
    )


def _worst(findings: tuple[Finding, ...]) -> str:
    drifts = dict.fromkeys(str(finding.drift) for finding in findings)
    return " ".join(drifts) or MISSING


DRIFTS: Listing[DriftView] = Listing(
    lambda row: f"{row.artifact}@{row.digest}",
    (
        Column("ARTIFACT", lambda row: row.artifact),
        Column("DIGEST", lambda row: render.short(row.digest)),
        Column("PLACE", lambda row: row.worker or MASTER),
        Column("RESULT", lambda row: row.result),
        Column("FOUND", lambda row: _worst(row.findings)),
    ),
)
ROOMS: Listing[RoomView] = Listing(
    lambda row: row.worker or MASTER,
    (
        Column("PLACE", lambda row: row.worker or MASTER),
        Column("VERSIONS", lambda row: str(row.versions)),
        Column("NAMED", lambda row: render.size(row.named_bytes)),
        Column("STORED", lambda row: render.size(row.stored_bytes)),
        Column("RATIO", lambda row: MISSING if row.ratio is None else f"{row.ratio:.2f}"),
    ),
)
