"""copy, artifacts, delete: what is on the workers to be launched."""

from __future__ import annotations

from typing import Unpack

import click

from corps.cli import render
from corps.cli.libraries import Traceable
from corps.cli.operator import Operator
from corps.cli.options import ARTIFACT, SELECTOR, output_option, progress_option, verb
from corps.cli.packing import PackOptions, pack_options, packing, target_of
from corps.cli.render import MISSING, Column, Listing, Output
from corps.errors import Failed
from corps.model.artifact import Transfer
from corps.model.command import Copy
from corps.model.plan import PlanRequest
from corps.model.terms import parse_size
from corps.model.view import ArtifactView, CopyView, DeleteView

COPIED = ("installed", "unchanged")
DELETED = "removed"


class CopyOptions(PackOptions):
    to: str
    no_swarm: bool
    dry_run: bool
    force: bool
    rate: str | None
    progress: bool | None
    output: Output


@verb("copy", Traceable)
@pack_options
@click.option("--to", type=SELECTOR, default="all", metavar="SELECTOR", help="Which workers.")
@click.option("--no-swarm", is_flag=True, help="From the master alone, not between workers.")
@click.option("--dry-run", is_flag=True, help="Only say what would be sent to each worker.")
@click.option("--force", is_flag=True, help="Also to workers that say they could not run it.")
@click.option("--rate", metavar="SIZE", help="To each worker in a second at most: 10M.")
@progress_option
@output_option
@click.pass_obj
def copy(operator: Operator, **options: Unpack[CopyOptions]) -> None:
    """Put an executable, a directory or archive with --entry, a jar or a Python application on
    workers.

    The non-system libraries it needs go with it. Sends only what is not there yet.
    """
    from corps.cli.check import require_fit  # noqa: PLC0415  # only copy needs them
    from corps.cli.plan import show_plan  # noqa: PLC0415  # as above
    from corps.cli.progress import display  # noqa: PLC0415  # as above
    from corps.cli.upload import carry  # noqa: PLC0415  # as above

    target, rate = target_of(options), options["rate"]
    rate_bytes_s = None if rate is None else parse_size("rate", rate)
    operator.client.status()  # nothing is read and hashed for a master that is not there
    with packing(options, target) as (name, packed):
        if options["dry_run"]:
            request = PlanRequest(name=name, manifest=packed.manifest, to=options["to"])
            show_plan(operator.client, request, options["output"], is_forced=options["force"])
            return
        if not options["force"]:
            require_fit(operator.client, name, packed.digest, packed.manifest, options["to"])
        transfer = Transfer(
            swarm=not options["no_swarm"], forced=options["force"], rate_bytes_s=rate_bytes_s
        )
        command = Copy(name=name, digest=packed.digest, to=options["to"], transfer=transfer)
        rows = carry(operator.client, packed, command, display(options["progress"]))
    render.show(rows.workers, COPIES, options["output"])
    failed = [row for row in rows.workers if row.result not in COPIED]
    for row in failed:
        render.error(f"{row.artifact} is not on {row.worker}: {row.result}")
    if failed:
        raise Failed(f"{len(failed)} of {len(rows.workers)} workers do not have {name}")


@verb("artifacts")
@output_option
@click.pass_obj
def artifacts(operator: Operator, output: Output) -> None:
    """List what is copied, where, how big."""
    render.show(operator.client.artifacts(), ARTIFACTS, output)


@verb("delete")
@click.argument("artifact", type=ARTIFACT, metavar="NAME[@DIGEST]")
@click.option("--from", "workers", type=SELECTOR, default="all", metavar="SELECTOR")
@click.option("-y", "--yes", is_flag=True, help="Accepted; nothing that runs is touched.")
@output_option
@click.pass_obj
def delete(operator: Operator, artifact: str, workers: str, yes: bool, output: Output) -> None:
    """Remove an executable and the libraries no other artifact needs.

    Refused while an instance of it lives.
    """
    rows = operator.client.delete(artifact, workers)
    render.show(rows, DELETES, output)
    failed = [row for row in rows if row.result != DELETED]
    for row in failed:
        render.error(f"{row.artifact} on {row.worker}: {row.result}")
    if failed:
        raise Failed(f"{artifact} is still on {len(failed)} of {len(rows)} workers")


def key(row: ArtifactView | CopyView | DeleteView) -> str:
    """`NAME@DIGEST`, as `launch` and `delete` take it."""
    name = row.name if isinstance(row, ArtifactView) else row.artifact
    return f"{name}@{row.digest}"


ARTIFACTS: Listing[ArtifactView] = Listing(
    key,
    (
        Column("ARTIFACT", lambda row: row.name),
        Column("DIGEST", lambda row: render.short(row.digest)),
        Column("SIZE", lambda row: render.size(row.size_bytes)),
        Column("FILES", lambda row: str(len(row.files))),
        Column("WORKERS", lambda row: " ".join(row.workers) or MISSING),
        Column("CONTENT", lambda row: " ".join(f.path for f in row.files[:20]), is_wide=True),
    ),
)
COPIES: Listing[CopyView] = Listing(
    lambda row: row.worker,
    (
        Column("WORKER", lambda row: row.worker),
        Column("ARTIFACT", lambda row: row.artifact),
        Column("DIGEST", lambda row: render.short(row.digest)),
        Column("SENT", lambda row: render.size(row.bytes_sent)),
        Column("SIZE", lambda row: render.size(row.bytes_total)),
        Column("FILES SENT", lambda row: f"{row.files_sent} of {row.files_total}"),
        Column("SECONDS", lambda row: render.duration(row.seconds)),
        Column("RESULT", lambda row: row.result),
    ),
)
DELETES: Listing[DeleteView] = Listing(
    lambda row: row.worker,
    (
        Column("WORKER", lambda row: row.worker),
        Column("ARTIFACT", lambda row: row.artifact),
        Column("DIGEST", lambda row: render.short(row.digest)),
        Column("RESULT", lambda row: row.result),
    ),
)
