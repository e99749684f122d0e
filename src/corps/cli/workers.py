"""workers, events, audit, version: the cluster itself and what happened in it."""

from __future__ import annotations

from functools import partial
from importlib.metadata import version as version_of

import click

from corps.cli import render
from corps.cli.moment import parse_since, unix
from corps.cli.operator import Operator, persist
from corps.cli.options import TARGET, Aim, all_option, output_option, verb
from corps.cli.render import MISSING, Column, Listing, Output
from corps.client import EVENTS_LIMIT
from corps.errors import Malformed
from corps.model.view import AuditView, EventView, WorkerView

FOLLOW_S = 20.0


@verb("workers")
@output_option
@click.pass_obj
def workers(operator: Operator, output: Output) -> None:
    """List the workers and whether each is usable."""
    render.show(operator.client.workers(), WORKERS, output)


@verb("events")
@click.option("-f", "--follow", is_flag=True, help="Go on until ctrl-C.")
@click.option("--since", metavar="T", help="RFC 3339, or how long ago: 10m.")
@output_option
@click.pass_obj
def events(operator: Operator, follow: bool, since: str | None, output: Output) -> None:
    """What happened, in order."""
    begin = 0.0 if since is None else parse_since(since, partial(_now, operator))
    if follow and output is Output.JSON:
        raise Malformed("a list without an end cannot be JSON: use -o jsonl with -f")
    seen: list[EventView] = []
    after = 0
    while batch := operator.client.events(after):
        seen += [event for event in batch if unix(event.at) >= begin]
        after = batch[-1].seq
        if len(batch) < EVENTS_LIMIT:
            break
    render.show(seen, EVENTS, output)
    while follow:
        batch = persist(partial(operator.client.events, after, wait_s=FOLLOW_S))
        after = batch[-1].seq if batch else after
        render.show_more(batch, EVENTS, output)


@verb("audit")
@click.argument("targets", nargs=-1, type=TARGET, metavar="[TARGET...]")
@all_option
@click.option("--since", metavar="T", help="RFC 3339, or how long ago: 10m.")
@output_option
@click.pass_obj
def audit(
    operator: Operator, targets: tuple[str, ...], is_all: bool, since: str | None, output: Output
) -> None:
    """Performance records: each copy, launch and run with phases, bytes and durations."""
    if is_all:
        Aim(targets, is_all).check()
    begin = None if since is None else parse_since(since, partial(_now, operator))
    render.show(operator.client.audit(targets, begin), AUDIT, output)


@verb("version")
def version() -> None:
    """The version of this program."""
    render.write_lines([f"corps {version_of('corps')}"])


def _now(operator: Operator) -> float:
    return operator.client.status().now


def _labels(row: WorkerView) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted(row.labels.items())) or MISSING


def _phases(row: AuditView) -> str:
    return " ".join(f"{name}={seconds:.4f}" for name, seconds in row.phases_s.items()) or MISSING


def _bytes(row: AuditView) -> str:
    if row.bytes_sent is None:
        return MISSING
    return f"{render.size(row.bytes_sent)} of {render.size(row.bytes_total)}"


WORKERS: Listing[WorkerView] = Listing(
    lambda row: row.name,
    (
        Column("WORKER", lambda row: row.name),
        Column("STATE", lambda row: row.state),
        Column("ADDRESS", lambda row: row.address),
        Column("SEEN", lambda row: render.duration(row.last_seen_s)),
        Column("INSTANCES", lambda row: str(row.instances)),
        Column("CPUS", lambda row: str(row.cpu_count)),
        Column("MEMORY", lambda row: render.size(row.memory_bytes)),
        Column("VERSION", lambda row: row.version, is_wide=True),
        Column("WHY", lambda row: row.reason or MISSING, is_wide=True),
        Column("LABELS", _labels),
    ),
)
EVENTS: Listing[EventView] = Listing(
    lambda row: str(row.seq),
    (
        Column("AT", lambda row: row.at),
        Column("SEQ", lambda row: str(row.seq), is_wide=True),
        Column("KIND", lambda row: row.kind),
        Column("SUBJECT", lambda row: row.subject),
        Column("WORKER", lambda row: row.worker or MISSING),
        Column("MESSAGE", lambda row: row.message),
    ),
)
AUDIT: Listing[AuditView] = Listing(
    lambda row: row.subject,
    (
        Column("AT", lambda row: row.at),
        Column("KIND", lambda row: row.kind),
        Column("SUBJECT", lambda row: row.subject),
        Column("WORKER", lambda row: row.worker or MISSING),
        Column("BY", lambda row: row.by),
        Column("COMMAND", lambda row: row.command, is_wide=True),
        Column("SECONDS", lambda row: render.duration(row.seconds)),
        Column("SENT", _bytes),
        Column("PHASES", _phases, is_wide=True),
        Column("OUTCOME", lambda row: row.outcome),
    ),
)
