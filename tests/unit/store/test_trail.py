"""The audit trail in a file: appended and never overwritten, and read as it lies there."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from corps.core.chain import Chain
from corps.core.cluster import Cluster
from corps.core.events import Drop, Save
from corps.core.proof import Proof, Verdict
from corps.core.records import Meta
from corps.errors import Unavailable
from corps.model.trail import Deed, Outcome, TrailHead, TrailMark, hash_line
from corps.store import trail as stored
from corps.store.sqlite import SqliteStore

META = Meta(cluster="c-1", epoch=1)


def _open(tmp_path: Path) -> SqliteStore:
    return SqliteStore(tmp_path / "state.db")


def _write(store: SqliteStore, chain: Chain, count: int) -> None:
    """So many entries, each with its head in one commit."""
    for _ in range(count):
        entry = chain.next(1.5, Deed(who="ann", act="kill", outcome=Outcome.DONE, detail="ünï"))
        chain.put(entry)
        store.commit([Save(entry), Save(chain.head)])


def _chain(store: SqliteStore) -> Chain:
    """As a master that begins now has it."""
    return Cluster(META, store.load()).chain


def _prove(tmp_path: Path) -> Verdict:
    proof = Proof()
    with stored.opened(tmp_path / "state.db") as (lines, head):
        for line in lines:
            proof.take(line)
    return proof.finish(head)


def _alter(tmp_path: Path, statement: str) -> None:
    connection = sqlite3.connect(tmp_path / "state.db")
    with connection:
        assert connection.execute(statement).rowcount > 0
    connection.close()


def test_a_new_life_goes_on_with_the_chain_and_has_none_of_it_in_memory(tmp_path: Path) -> None:
    store, chain = _open(tmp_path), Chain()
    _write(store, chain, 3)
    store.close()
    store = _open(tmp_path)
    assert store.load() == [chain.head]
    again = _chain(store)
    assert again.head == chain.head
    _write(store, again, 2)
    store.close()
    verdict = _prove(tmp_path)
    assert (verdict.entries, verdict.fault) == (5, None)


def test_a_page_is_a_part_and_says_where_the_end_is(tmp_path: Path) -> None:
    store, chain = _open(tmp_path), Chain()
    _write(store, chain, 5)
    page = store.trail(1, 2)
    assert (len(page.entries), page.last, page.head) == (2, 3, chain.head)
    assert store.trail(5, 2).entries == []
    assert store.trail(5, 2).last == 5
    assert hash_line(store.trail(4, 1).entries[0].encode()) == chain.head.hash
    store.close()


def test_a_commit_tried_again_changes_nothing_and_nothing_is_written_over(tmp_path: Path) -> None:
    store, chain = _open(tmp_path), Chain()
    _write(store, chain, 2)
    other = Chain().next(9.0, Deed(who="bob", act="kill", outcome=Outcome.DONE))
    before = store.trail(0, 10)
    store.commit([Save(other)])
    assert store.trail(0, 10) == before
    store.close()


def test_a_cut_takes_all_entries_up_to_its_mark(tmp_path: Path) -> None:
    store, chain = _open(tmp_path), Chain()
    _write(store, chain, 3)
    mark = TrailMark(seq=chain.head.seq, hash=chain.head.hash)
    store.commit([Save(mark)])
    chain.put(mark)
    _write(store, chain, 2)
    assert _chain(store).marks == {3: mark}
    told = chain.next(2.0, Deed(who="master", act="cut", outcome=Outcome.DONE), mark)
    chain.put(told)
    store.commit([Save(told), Save(chain.head), Drop(mark)])
    assert _chain(store).marks == {}
    store.close()
    verdict = _prove(tmp_path)
    assert verdict.fault is None
    assert verdict.first is not None
    assert (verdict.first.seq, verdict.entries) == (4, 3)


@pytest.mark.parametrize(
    ("statement", "text"),
    [
        ("UPDATE trail SET body = replace(body, 'ann', 'bob') WHERE key LIKE '%3'", "entry 3 is"),
        ("UPDATE trail SET body = replace(body, 'kill', 'list')", "one of them was changed"),
        ("UPDATE trail SET body = 7 WHERE key LIKE '%2'", "entry 2 is none"),
        ("UPDATE trail SET body = X'ff00' WHERE key LIKE '%2'", "entry 2 is none"),
        ("DELETE FROM trail WHERE key LIKE '%3'", "entry 3 is missing"),
        ("DELETE FROM trail WHERE key > '0000000000000003'", "entries 4 to 5 are missing at the"),
        ("DELETE FROM trail WHERE key < '0000000000000003'", "entries 1 to 2 are missing, and no"),
        ("DELETE FROM trail", "not a single entry"),
        ("UPDATE trail SET key = '0000000000000009' WHERE key LIKE '%2'", "entry 2 is missing"),
        ("UPDATE trail_head SET body = replace(body, '5', '4')", "entry 5 is not the"),
        ("UPDATE trail_head SET body = replace(body, ':5', ':6')", "entry 6 is missing at the end"),
        ("DELETE FROM trail_head", "not the master's"),
        ("UPDATE trail_head SET body = '[]'", "not the master's"),
    ],
)
def test_what_a_hand_changed_in_the_file_is_found(
    tmp_path: Path, statement: str, text: str
) -> None:
    store = _open(tmp_path)
    _write(store, Chain(), 5)
    store.close()
    assert _prove(tmp_path).fault is None
    _alter(tmp_path, statement)
    fault = _prove(tmp_path).fault
    assert fault is not None
    assert text in fault.text


@pytest.mark.parametrize(
    "statement",
    ["DELETE FROM trail_head", "DELETE FROM trail WHERE key > '0000000000000003'"],
)
def test_a_master_writes_on_after_whatever_was_done_to_it(tmp_path: Path, statement: str) -> None:
    store = _open(tmp_path)
    _write(store, Chain(), 5)
    store.close()
    _alter(tmp_path, statement)
    store = _open(tmp_path)
    chain = _chain(store)
    assert chain.head.seq == 5
    _write(store, chain, 1)
    assert store.trail(5, 10).head.seq == 6
    store.close()


def test_every_byte_of_the_rows_in_the_file_counts(tmp_path: Path) -> None:
    """In the file itself, without the database: each byte of each entry."""
    store = _open(tmp_path)
    _write(store, Chain(), 4)
    lines = store.trail(0, 10).entries
    store.close()
    path = tmp_path / "state.db"
    whole = path.read_bytes()
    for line in lines:
        begin = whole.index(line.encode())
        for position in range(begin, begin + len(line.encode()), 7):
            path.write_bytes(
                whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :]
            )
            assert _prove(tmp_path).fault is not None, position
    path.write_bytes(whole)
    assert _prove(tmp_path).fault is None


def test_an_export_is_proven_by_itself(tmp_path: Path) -> None:
    store = _open(tmp_path)
    _write(store, Chain(), 3)
    lines = store.trail(0, 10).entries
    store.close()
    export = tmp_path / "trail.jsonl"
    export.write_text("".join(f"{line}\n" for line in lines))
    with stored.opened(export) as (found, head):
        assert list(found) == lines
        assert head is None


def test_a_copy_is_only_read(tmp_path: Path) -> None:
    store = _open(tmp_path)
    _write(store, Chain(), 3)
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "state.db").write_bytes((tmp_path / "state.db").read_bytes())
    (copy / "state.db-wal").write_bytes((tmp_path / "state.db-wal").read_bytes())
    store.close()
    before = (copy / "state.db").read_bytes()
    assert _prove(copy).entries == 3
    assert (copy / "state.db").read_bytes() == before


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="cannot read the trail"):
        _prove(tmp_path)
    (tmp_path / "state.db").write_bytes(b"SQLite format 3\0" + b"x" * 4_096)
    with pytest.raises(Unavailable, match="cannot read the trail"):
        _prove(tmp_path)


def test_a_head_of_nothing_is_the_beginning() -> None:
    assert Chain().head == TrailHead()
