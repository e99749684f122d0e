"""progress: the copies that are under way."""

from __future__ import annotations

import time

import click

from corps.cli import render
from corps.cli.operator import Operator, persist
from corps.cli.options import ARTIFACT, output_option, verb
from corps.cli.progress import LOOK_S, Lap, display, watching
from corps.cli.render import MISSING, Column, Listing, Output
from corps.model.plan import ProgressView
from corps.model.view import WAITING


@verb("progress")
@click.argument("names", nargs=-1, type=ARTIFACT, metavar="[NAME...]")
@click.option("-f", "--follow", is_flag=True, help="Until all are over: bars, or lines.")
@output_option
@click.pass_obj
def progress(operator: Operator, names: tuple[str, ...], follow: bool, output: Output) -> None:
    """List copies that are under way, whoever asked for them."""
    if not follow:
        render.show(_rows(operator, names), PROGRESS, output)
        return
    laps: list[Lap] = []
    with watching(display(wanted=True), lambda: laps):
        while rows := persist(lambda: _rows(operator, names)):
            laps = [_lap(row) for row in rows]
            time.sleep(LOOK_S)


def _rows(operator: Operator, names: tuple[str, ...]) -> list[ProgressView]:
    rows = operator.client.copies()
    return [row for row in rows if not names or row.artifact in names]


def _lap(row: ProgressView) -> Lap:
    return Lap(
        f"{row.artifact}@{render.short(row.digest)} to {row.worker}",
        row.bytes_done,
        row.bytes_total,
        row.bytes_from_peers,
        None if row.result == WAITING else row.result,
    )


def _rate(row: ProgressView) -> float | None:
    """On average, of what travels."""
    return row.bytes_sent / row.seconds if row.bytes_sent and row.seconds else None


def _rate_text(row: ProgressView) -> str:
    rate = _rate(row)
    return MISSING if rate is None else f"{render.size(round(rate))}/s"


def _left_s(row: ProgressView) -> float | None:
    rate = _rate(row)
    return None if rate is None else max(0, row.bytes_total - row.bytes_done) / rate


PROGRESS: Listing[ProgressView] = Listing(
    lambda row: f"{row.artifact}@{row.digest}",
    (
        Column("ARTIFACT", lambda row: row.artifact),
        Column("DIGEST", lambda row: render.short(row.digest)),
        Column("WORKER", lambda row: row.worker),
        Column("DONE", lambda row: render.size(row.bytes_done)),
        Column("SIZE", lambda row: render.size(row.bytes_total)),
        Column("SENT", lambda row: render.size(row.bytes_sent)),
        Column("FROM PEERS", lambda row: render.size(row.bytes_from_peers)),
        Column("RATE", _rate_text),
        Column("LEFT", lambda row: render.duration(_left_s(row))),
        Column("SECONDS", lambda row: render.duration(row.seconds)),
        Column("BY", lambda row: row.by),
        Column("COMMAND", lambda row: row.command, is_wide=True),
        Column("RESULT", lambda row: row.result),
    ),
)
