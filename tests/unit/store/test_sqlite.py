"""The default store: all or nothing, once, and readable after anything."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from corps.core.events import Drop, Save
from corps.core.records import App, Event, Meta, Record
from corps.errors import Conflict, Unavailable
from corps.store.sqlite import SqliteStore


def _event(seq: int) -> Event:
    return Event(seq=seq, at=1.0, kind="test", subject="web.1", message="ünïcode\x1b")


def _open(tmp_path: Path) -> SqliteStore:
    return SqliteStore(tmp_path / "state.db")


def test_what_was_committed_is_loaded_in_the_order_it_first_came(tmp_path: Path) -> None:
    store = _open(tmp_path)
    records: list[Record] = [_event(1), App(name="web", next_number=2), _event(2)]
    store.commit([Save(record) for record in records])
    store.close()
    loaded = _open(tmp_path)
    assert loaded.load() == [records[1], records[0], records[2]]
    loaded.close()


def test_the_last_version_of_a_record_in_a_commit_wins(tmp_path: Path) -> None:
    store = _open(tmp_path)
    store.commit([Save(App(name="web", next_number=n)) for n in (1, 2, 3)])
    store.commit([Save(_event(1)), Drop(_event(1)), Save(_event(2))])
    assert store.load() == [App(name="web", next_number=3), _event(2)]
    store.close()


def test_the_file_is_private(tmp_path: Path) -> None:
    _open(tmp_path).close()
    assert (tmp_path / "state.db").stat().st_mode & 0o777 == 0o600


def test_a_locked_store_refuses_and_changes_nothing(tmp_path: Path) -> None:
    store = _open(tmp_path)
    other = sqlite3.connect(tmp_path / "state.db", timeout=0)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(Unavailable, match="locked"):
        store.commit([Save(_event(1))])
    other.rollback()
    other.close()
    assert store.load() == []
    store.commit([Save(_event(1))])
    assert store.load() == [_event(1)]
    store.close()


def test_a_store_of_another_version_is_left_alone(tmp_path: Path) -> None:
    _open(tmp_path).close()
    with sqlite3.connect(tmp_path / "state.db") as connection:
        connection.execute("UPDATE schema SET version = 99")
    connection.close()
    with pytest.raises(Conflict, match="schema 99"):
        _open(tmp_path)


def test_a_damaged_record_is_named_and_nothing_is_changed(tmp_path: Path) -> None:
    store = _open(tmp_path)
    store.commit([Save(Meta(cluster="c", epoch=1))])
    store.close()
    with sqlite3.connect(tmp_path / "state.db") as connection:
        connection.execute("UPDATE meta SET body = ?", (b'{"cluster": 5}',))
    connection.close()
    damaged = _open(tmp_path)
    with pytest.raises(Unavailable, match="record 'cluster' of meta"):
        damaged.load()
    damaged.close()


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_bytes(b"this is not a database, it is a letter" * 100)
    with pytest.raises(Unavailable, match="not a database"):
        _open(tmp_path)
