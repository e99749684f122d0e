"""logs: the captured output of instances, to read, to follow, or to bring back as a file."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypedDict, Unpack

import click

from corps.cli import render
from corps.cli.fetch import fetch_log
from corps.cli.follow import follow
from corps.cli.moment import parse_since
from corps.cli.operator import Operator
from corps.cli.options import TARGET, Aim, all_option, verb
from corps.cli.output import STREAMS, Display, Lines, Source, last_lines, read_all, tail
from corps.client import Client
from corps.errors import CorpsError, Malformed, NotFound, Unavailable
from corps.model.view import InstanceView

FOLLOW_LINES = 10


class LogOptions(TypedDict):
    targets: tuple[str, ...]
    is_all: bool
    follow: bool
    lines: int | None
    since: str | None
    stream: str | None
    attempt: int | None
    timestamps: bool
    file: str | None


@verb("logs")
@click.argument("targets", nargs=-1, type=TARGET, metavar="TARGET...")
@all_option
@click.option("-f", "--follow", is_flag=True, help="Go on until they are dead, or ctrl-C.")
@click.option("-n", "--lines", type=click.IntRange(0, 1_000_000), metavar="N", help="The last N.")
@click.option("--since", metavar="T", help="A time, or how long ago: 10m.")
@click.option("--stream", type=click.Choice(STREAMS), help="One of both.")
@click.option("--attempt", type=click.IntRange(1), metavar="K", help="Not the present one.")
@click.option("-t", "--timestamps", is_flag=True, help="Each line with its time.")
@click.option("-o", "file", metavar="FILE", help="Bring it back, all of it, as it was written.")
@click.pass_obj
def logs(operator: Operator, **options: Unpack[LogOptions]) -> None:
    """Show the captured output of one or many instances, dead ones too, in the order of time.

    All of it; with -f the last 10 lines and what comes, of later attempts too. On a terminal
    control characters are spelled out and stderr is dim; piped every byte is as the app wrote it.
    """
    aim = Aim(options["targets"], options["is_all"])
    aim.check()
    since = None if options["since"] is None else parse_since(options["since"])
    rows = operator.client.instances(aim.targets, with_dead=True)
    attempt = options["attempt"]
    if options["file"] is not None:
        _bring_back(operator.client, rows, options)
        return
    sources = [
        Source(row.id, row.attempt if attempt is None else attempt, options["stream"], since)
        for row in rows
    ]
    show = Display([source.instance for source in sources], with_times=options["timestamps"])
    lines = options["lines"]
    if options["follow"]:
        if lines is None and since is None:
            lines = FOLLOW_LINES
        follow(operator.client, sources, lines, show, goes_on=attempt is None)
        return
    _print(operator.client, sources, lines, show)


def _print(client: Client, sources: Sequence[Source], count: int | None, show: Display) -> None:
    """In one order of time. Those whose worker is away do not keep the others back."""
    failed: list[CorpsError] = []

    def pieces(source: Source) -> Iterator[Lines]:
        try:
            yield from read_all(client, source) if count is None else tail(client, source, count)[0]
        except (NotFound, Unavailable) as error:
            if len(sources) == 1:
                raise
            failed.append(error)
            render.error(error.message)

    merged = heapq.merge(*map(pieces, sources), key=lambda lines: lines.at)
    for lines in merged if count is None else last_lines(list(merged), count):
        show.feed(lines)
    show.end()
    if failed:
        raise Unavailable(f"{len(failed)} of {len(sources)} instances have no log to show now")


def _bring_back(client: Client, rows: Sequence[InstanceView], options: LogOptions) -> None:
    if options["follow"] or options["lines"] is not None or options["since"] is not None:
        raise Malformed("-o FILE brings back all of a log: not with -f, -n or --since")
    if options["timestamps"]:
        raise Malformed("-o FILE brings back what the app wrote: not with -t")
    if len(rows) != 1:
        raise Malformed(f"-o FILE takes the log of one instance, not of {len(rows)}")
    assert options["file"] is not None
    streams = STREAMS if options["stream"] is None else (options["stream"],)
    attempt = options["attempt"] or rows[0].attempt
    size_bytes = fetch_log(client, rows[0], attempt, streams, Path(options["file"]))
    render.note(f"corps: {size_bytes} bytes of {rows[0].id} in {options['file']}")
