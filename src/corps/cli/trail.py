"""`audit trail|verify|export`: who did what, and whether that is still what was written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import click

from corps.cli import render
from corps.cli.moment import parse_since
from corps.cli.operator import Operator, persist
from corps.cli.options import Verb, output_option
from corps.cli.render import MISSING, Column, Listing, Output
from corps.core.proof import Proof, Verdict
from corps.core.views import view_entry
from corps.errors import Failed, Malformed
from corps.model.trail import (
    TRAIL_PAGE_MAX,
    TrailEntry,
    TrailMark,
    TrailPage,
    TrailView,
    hash_line,
    parse_line,
)

FOLLOW_S = 20.0
_HEAD = re.compile(r"([0-9]{1,16}):([0-9a-f]{64})")


@click.command("trail", cls=Verb)
@click.option("--since", metavar="T", help="RFC 3339, or how long ago: 10m.")
@click.option("--who", metavar="WHO", help="Only of this person, worker or token.")
@click.option("-f", "--follow", is_flag=True, help="Go on until ctrl-C.")
@output_option
@click.pass_obj
def trail(
    operator: Operator, since: str | None, who: str | None, follow: bool, output: Output
) -> None:
    """Who did what, from where, and what came of it: the last 1,000 entries, or all that are
    wanted.
    """
    if follow and output is Output.JSON:
        raise Malformed("a list without an end cannot be JSON: use -o jsonl with -f")
    begin = None if since is None else parse_since(since, operator.now)
    is_all = begin is not None or who is not None
    after = 0 if is_all else -TRAIL_PAGE_MAX
    rows: list[TrailView] = []
    for page in _pages(operator, after):
        rows += _rows(page, begin, who)
        after = page.last
    render.show(rows, TRAIL, output)
    while follow:
        page = persist(partial(operator.client.trail, after, wait_s=FOLLOW_S))
        after = page.last
        render.show_more(_rows(page, begin, who), TRAIL, output)


@click.command("verify", cls=Verb)
@click.option("--file", "path", metavar="F", help="A copy of a state.db, or what export wrote.")
@click.option("--head", metavar="SEQ:HASH", help="What verify said earlier must still be there.")
@output_option
@click.pass_obj
def verify(operator: Operator, path: str | None, head: str | None, output: Output) -> None:
    """Prove that the audit trail is as it was written: no entry changed, missing or added.

    Exit status 1 and the first bad entry when it is not. Keep the head that it prints elsewhere:
    who can write the master's files could write the whole trail anew, and --head would find it.
    """
    proof = Proof(None if head is None else _parse_head(head))
    verdict = _prove_online(operator, proof) if path is None else _prove_file(Path(path), proof)
    if output in (Output.JSON, Output.JSONL):
        render.write_json(verdict, is_line=output is Output.JSONL)
    elif verdict.fault is None and verdict.first is not None and verdict.last is not None:
        ends = f"entries {verdict.first.seq} to {verdict.last.seq} are as they were written"
        render.write_lines([f"{ends}; head {verdict.last.seq}:{verdict.last.hash}"])
    if verdict.fault is not None:
        rest = "nothing after it is proven"
        if verdict.holds_from is not None:
            rest = f"from entry {verdict.holds_from} on it holds"
        raise Failed(f"the audit trail is broken: {verdict.fault.text}; {rest}")


@click.command("export", cls=Verb)
@click.pass_obj
def export(operator: Operator) -> None:
    """The whole audit trail as JSON, one entry a line, as it was hashed.

    `prev` in a line is the SHA-256 of the line before it, without its newline; that of the last
    one goes to stderr, as 'corps audit verify --head' takes it.
    """
    last = None
    for page in _pages(operator, 0):
        last = page.entries[-1] if page.entries else last
        head = page.last
        render.write("".join(f"{line}\n" for line in page.entries).encode())
    if last is not None:
        render.note(f"head {head}:{hash_line(last.encode())}")


def _pages(operator: Operator, after: int) -> Iterator[TrailPage]:
    while True:
        page = operator.client.trail(after)
        yield page
        if page.last <= max(after, 0) or page.last >= page.head.seq:
            return
        after = page.last


def _prove_online(operator: Operator, proof: Proof) -> Verdict:
    head = None
    for page in _pages(operator, 0):
        head = page.head
        for line in page.entries:
            proof.take(line)
    return proof.finish(head)


def _prove_file(path: Path, proof: Proof) -> Verdict:
    from corps.store import trail as stored  # noqa: PLC0415  # 150 ms that only a file costs

    with stored.opened(path) as (lines, head):
        for line in lines:
            proof.take(line)
    return proof.finish(head)


def _rows(page: TrailPage, begin: float | None, who: str | None) -> list[TrailView]:
    entries = [parse_line(line) for line in page.entries]
    if None in entries:
        render.note("corps: an entry cannot be read: see 'corps audit verify'")
    return [view_entry(entry) for entry in entries if entry and _is_wanted(entry, begin, who)]


def _is_wanted(entry: TrailEntry, begin: float | None, who: str | None) -> bool:
    is_late = begin is None or entry.at >= begin
    return is_late and who in (None, entry.deed.who)


def _parse_head(text: str) -> TrailMark:
    match = _HEAD.fullmatch(text)
    if match is None:
        raise Malformed(
            f"bad head {text[:90]!r}: spelled SEQ:HASH, as 'corps audit verify' says it"
        )
    return TrailMark(seq=int(match[1]), hash=match[2])


TRAIL: Listing[TrailView] = Listing(
    lambda row: str(row.seq),
    (
        Column("AT", lambda row: row.at),
        Column("SEQ", lambda row: str(row.seq), is_wide=True),
        Column("WHO", lambda row: row.who),
        Column("FROM", lambda row: row.source or MISSING),
        Column("ACT", lambda row: row.act),
        Column("SUBJECT", lambda row: row.subject or MISSING),
        Column("OUTCOME", lambda row: row.outcome),
        Column("COMMAND", lambda row: row.command or MISSING, is_wide=True),
        Column("DETAIL", lambda row: row.detail or MISSING),
    ),
)
