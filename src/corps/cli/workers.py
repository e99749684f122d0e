"""workers, events, version: the cluster itself and what happened in it."""

from __future__ import annotations

from functools import partial
from importlib.metadata import version as version_of

import click

from corps.cli import render
from corps.cli.moment import parse_since, unix
from corps.cli.operator import Operator, persist
from corps.cli.options import output_option, verb
from corps.cli.render import MISSING, Column, Listing, Output
from corps.client import EVENTS_LIMIT
from corps.errors import Malformed
from corps.model.view import EventView, WorkerView

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
    begin = 0.0 if since is None else parse_since(since, operator.now)
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


@verb("version")
def version() -> None:
    """The version of this program."""
    render.write_lines([f"corps {version_of('corps')}"])


def _labels(row: WorkerView) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted(row.labels.items())) or MISSING


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
        Column("MACHINE", lambda row: row.machine or MISSING, is_wide=True),
        Column("LIBC", lambda row: row.libc or MISSING, is_wide=True),
        Column("KERNEL", lambda row: row.kernel or MISSING, is_wide=True),
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
