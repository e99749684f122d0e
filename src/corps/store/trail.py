"""The audit trail as it lies in a database, or in a copy of one, or in an export.

Rows are given as they are: what somebody changed is for whoever proves the chain to find.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import sqlalchemy as sql

from corps.core.records import TRAIL, TRAIL_HEAD, trail_key
from corps.errors import Unavailable
from corps.model.trail import GENESIS, TrailHead, TrailPage, hash_line

PAGE = 1_000
SQLITE_MAGIC = b"SQLite format 3\0"
LINE_MAX_BYTES = 64 << 10

_METADATA = sql.MetaData()
_TRAIL, _HEAD = (
    sql.Table(
        name, _METADATA, sql.Column("key", sql.Text, primary_key=True), sql.Column("body", sql.Text)
    )
    for name in (TRAIL, TRAIL_HEAD)
)


def page(connection: sql.Connection, after: int, limit: int) -> TrailPage:
    """At most `limit` rows after number `after`, and the head of the same moment."""
    chosen = (
        sql.select(_TRAIL.c.key, _TRAIL.c.body)
        .where(_TRAIL.c.key > trail_key(max(after, 0)))
        .order_by(_TRAIL.c.key)
        .limit(limit)
    )
    rows = connection.execute(chosen).all()
    return TrailPage(
        entries=[_bytes(body).decode(errors="backslashreplace") for _, body in rows],
        last=max([after, *(_number(key) for key, _ in rows)]),
        head=_head(connection) or TrailHead(),
    )


def beyond(connection: sql.Connection) -> TrailHead | None:
    """The last row, when the head does not know of it: nothing is written over it."""
    head = _head(connection)
    last = connection.execute(
        sql.select(_TRAIL.c.key, _TRAIL.c.body).order_by(_TRAIL.c.key.desc()).limit(1)
    ).one_or_none()
    if last is not None and (head is None or _number(last.key) > head.seq):
        return TrailHead(seq=_number(last.key), hash=hash_line(_bytes(last.body)))
    return None


@contextmanager
def opened(path: Path) -> Iterator[tuple[Iterator[str], TrailHead | None]]:
    """The lines of a copy of a `state.db`, or of an export, which says nothing of a head."""
    try:
        with open(path, "rb") as file:
            is_database = file.read(len(SQLITE_MAGIC)) == SQLITE_MAGIC
        if is_database:
            with _database(path) as connection:
                yield _lines(connection), _head(connection) or TrailHead()
        else:
            with open(path, encoding="utf-8", errors="backslashreplace", newline="\n") as text:
                yield (line.removesuffix("\n") for line in text), None
    except (OSError, sql.exc.DBAPIError) as error:
        reason = error.orig if isinstance(error, sql.exc.DBAPIError) else error.strerror
        raise Unavailable(f"cannot read the trail in '{path}': {reason}") from error


@contextmanager
def _database(path: Path) -> Iterator[sql.Connection]:
    """Read only; a copy without its log is not touched at all."""
    has_log = path.with_name(f"{path.name}-wal").exists()
    how = "mode=ro" if has_log else "mode=ro&immutable=1"
    engine = sql.create_engine(f"sqlite:///file:{path.absolute()}?{how}&uri=true")
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def _lines(connection: sql.Connection) -> Iterator[str]:
    after = 0
    while True:
        found = page(connection, after, PAGE)
        yield from found.entries
        if found.last <= after:
            return
        after = found.last


def _head(connection: sql.Connection) -> TrailHead | None:
    body = connection.execute(sql.select(_HEAD.c.body).limit(1)).scalar()
    try:
        return None if body is None else msgspec.json.decode(_bytes(body), type=TrailHead)
    except (msgspec.DecodeError, UnicodeError):
        return TrailHead(seq=0, hash=GENESIS)  # no trail ends so: whoever proves it will say so


def _bytes(body: object) -> bytes:
    """What a hand wrote with the tools of the database is text, or whatever it was."""
    return body if isinstance(body, bytes) else str(body).encode()


def _number(key: str) -> int:
    return int(key) if key.isdecimal() else 0
