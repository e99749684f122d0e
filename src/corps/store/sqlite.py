"""Records in SQLite: WAL, synchronous=FULL, so that what was committed survives kill -9 and more.

One table a kind, the record as JSON beside its key, without a rowid: a commit touches one B-tree
for each kind in it, and writes only the last version of each record.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec
import sqlalchemy as sql
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.pool import StaticPool

from corps.core.events import Drop, Save
from corps.core.records import TABLES, TRAIL, TRAIL_MARKS, Record, record_age, record_key
from corps.errors import Conflict, Unavailable
from corps.model.trail import TrailPage
from corps.store import trail
from corps.store.records import SCHEMA_VERSION

BUSY_TIMEOUT_S = 5.0

_ENCODER = msgspec.json.Encoder()
_METADATA = sql.MetaData()
_TABLES = {
    name: sql.Table(
        name,
        _METADATA,
        sql.Column("key", sql.Text, primary_key=True),
        sql.Column("body", sql.LargeBinary, nullable=False),
        sqlite_with_rowid=False,
    )
    for name in TABLES
}
_SCHEMA = sql.Table("schema", _METADATA, sql.Column("version", sql.Integer, primary_key=True))


def _upsert(table: sql.Table) -> sql.Insert:
    statement = insert(table).values(key=sql.bindparam("key"), body=sql.bindparam("body"))
    return statement.on_conflict_do_update(
        index_elements=["key"], set_={"body": statement.excluded.body}
    )


def _append(table: sql.Table) -> sql.Insert:
    """What is there stays; a commit that was tried again adds nothing."""
    values = insert(table).values(key=sql.bindparam("key"), body=sql.bindparam("body"))
    return values.on_conflict_do_nothing()


def _text(statement: sql.Insert | sql.Delete) -> str:
    """Compiled once: compiling and binding for each commit took as long as SQLite itself."""
    return str(statement.compile(dialect=sqlite.dialect()))


_PUTS = {
    name: _text(_append(table) if name == TRAIL else _upsert(table))
    for name, table in _TABLES.items()
}
_DELETES = {
    name: _text(sql.delete(table).where(table.c.key == sql.bindparam("key")))
    for name, table in _TABLES.items()
}
_CUT = _text(sql.delete(_TABLES[TRAIL]).where(_TABLES[TRAIL].c.key <= sql.bindparam("key")))


class SqliteStore:
    """A RecordStore in one file, 0600."""

    def __init__(self, path: Path) -> None:
        self._path = path
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        self._engine = sql.create_engine(
            f"sqlite:///{path}",
            poolclass=StaticPool,
            connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False},
        )
        try:
            self._connection = self._engine.connect()
            self._connection.exec_driver_sql("PRAGMA journal_mode=WAL")
            self._connection.exec_driver_sql("PRAGMA synchronous=FULL")
            self._connection.rollback()
            self._open_schema()
        except sql.exc.DBAPIError as error:
            self.close()
            raise _unavailable(path, error) from error
        except Conflict:
            self.close()
            raise

    def load(self) -> list[Record]:
        """Every record, but only the end of the trail. Raise Unavailable for a file that cannot be
        read, naming the record."""
        records: list[Record] = []
        try:
            with self._connection.begin():
                for name, kind in TABLES.items():
                    if name == TRAIL:
                        continue
                    table = _TABLES[name]
                    rows = self._connection.execute(sql.select(table.c.key, table.c.body))
                    decoder = msgspec.json.Decoder(kind)
                    found = [self._decode(decoder, name, key, body) for key, body in rows]
                    records += sorted(found, key=record_age)
                if (last := trail.beyond(self._connection)) is not None:
                    records.append(last)
        except sql.exc.DBAPIError as error:
            raise _unavailable(self._path, error) from error
        return records

    def commit(self, changes: Sequence[Save | Drop]) -> None:
        last: dict[tuple[str, str], Save | Drop] = {}
        for change in changes:
            last[record_key(change.record)] = change
        puts: dict[str, list[tuple[str, bytes]]] = {}
        drops: dict[str, list[tuple[str]]] = {}
        for (name, key), change in last.items():
            if isinstance(change, Save):
                puts.setdefault(name, []).append((key, _ENCODER.encode(change.record)))
            else:
                drops.setdefault(name, []).append((key,))
        try:
            with self._connection.begin():
                for name, keys in drops.items():
                    if name == TRAIL_MARKS:  # a mark goes with what it marks the end of
                        self._connection.exec_driver_sql(_CUT, keys)
                    self._connection.exec_driver_sql(_DELETES[name], keys)
                for name, rows in puts.items():
                    self._connection.exec_driver_sql(_PUTS[name], rows)
        except sql.exc.DBAPIError as error:
            raise _unavailable(self._path, error) from error

    def trail(self, after: int, limit: int) -> TrailPage:
        try:
            with self._connection.begin():
                return trail.page(self._connection, after, limit)
        except sql.exc.DBAPIError as error:
            raise _unavailable(self._path, error) from error

    def close(self) -> None:
        self._connection.close()
        self._engine.dispose()

    def _open_schema(self) -> None:
        with self._connection.begin():
            _METADATA.create_all(self._connection)
            version = self._connection.execute(sql.select(_SCHEMA.c.version)).scalar()
            if version is None:
                self._connection.execute(sql.insert(_SCHEMA), [{"version": SCHEMA_VERSION}])
            elif version != SCHEMA_VERSION:
                raise Conflict(
                    f"{self._path} has schema {version}, this corps knows {SCHEMA_VERSION}: "
                    "install the version of corps that wrote it"
                )

    def _decode(
        self, decoder: msgspec.json.Decoder[Record], table: str, key: str, body: bytes
    ) -> Record:
        try:
            return decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Unavailable(
                f"{self._path}: record {key!r} of {table} cannot be read ({error}); "
                "nothing was changed: restore the file from a copy"
            ) from error


def _unavailable(path: Path, error: sql.exc.DBAPIError) -> Unavailable:
    return Unavailable(f"cannot use the store {path}: {error.orig}")
