"""The journal as a file format: what was put comes back, damage stays where it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from corps.keeper.journal import HEAD, Journal
from corps.keeper.process import MARK, UNUSED, USED, Child

BOOT = "b" * 36


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The keeper works in its directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _new() -> Journal:
    journal = Journal(BOOT, is_durable=False)
    assert not journal.is_of_this_boot
    assert journal.compact()
    return journal


def _flag(journal: Journal, key: str) -> int:
    with open(f"/proc/self/fd/{journal.file.number}", "rb") as file:
        file.seek(journal.table[key]["place"])
        return file.read(1)[0]


def test_what_was_put_comes_back(here: Path) -> None:
    journal = _new()
    journal.put("app.1#1", pid=7, note='{"t":"x"}\u2028\x00', is_live=True)
    journal.put("app.2#1", pid=8, is_live=True)
    journal.put("app.1#1", is_live=False, status=256)
    journal.totals["children_dead"] += 1
    journal.add({"t": "", "totals": journal.totals})
    assert journal.write()
    again = Journal(BOOT, is_durable=False)
    assert again.is_of_this_boot
    assert again.table == journal.table
    assert again.totals == journal.totals
    assert not Journal("c" * 36, is_durable=False).is_of_this_boot


def test_what_was_not_written_does_not_come_back(here: Path) -> None:
    journal = _new()
    journal.put("app.1#1", pid=7, is_live=True)
    assert Journal(BOOT, is_durable=False).table == {}


def test_what_is_forgotten_does_not_come_back(here: Path) -> None:
    journal = _new()
    for key in ("app.1#1", "app.2#1"):
        journal.put(key, pid=7, is_live=False)
    journal.forget(["app.1#1"])
    journal.write()
    assert list(journal.table) == list(Journal(BOOT, is_durable=False).table) == ["app.2#1"]


def test_the_place_of_a_flag_is_that_of_the_first_record_and_moves_with_it(here: Path) -> None:
    journal = _new()
    journal.put("app.1#1", pid=7, is_live=True)
    journal.put("app.2#1", pid=8, is_live=False)
    journal.put("app.1#1", executed=True)
    journal.write()
    place = journal.table["app.1#1"]["place"]
    assert _flag(journal, "app.1#1") == UNUSED
    again = Journal(BOOT, is_durable=False)
    assert again.table["app.1#1"]["place"] == place
    assert again.compact()
    assert (_flag(again, "app.1#1"), _flag(again, "app.2#1")) == (USED, UNUSED)
    third = Journal(BOOT, is_durable=False)
    assert third.table == again.table


def test_every_byte_may_be_damaged_and_only_its_own_record_is_lost(here: Path) -> None:
    journal = _new()
    for number in range(3):
        journal.put(f"app.{number}#1", pid=number, is_live=False)
    journal.write()
    file = here / "journal"
    good = file.read_bytes().rstrip(b"\0")
    first = good.index(b'{"t":"app.1#1"') - HEAD.size
    behind = good.index(b'{"t":"app.2#1"') - HEAD.size
    for at in range(first, behind):
        bad = bytearray(good)
        bad[at] ^= 0x55
        file.write_bytes(bad)
        table = Journal(BOOT, is_durable=False).table
        is_mark = at in range(first + HEAD.size - MARK.size, first + HEAD.size)
        assert list(table) == ["app.0#1", *(["app.1#1"] if is_mark else []), "app.2#1"], at
    assert (here / "journal.corrupt").exists()


def test_room_is_kept_for_the_end_of_every_living_attempt(here: Path) -> None:
    journal = _new()
    size = (here / "journal").stat().st_size
    assert journal.has_room(1_000)
    assert (here / "journal").stat().st_size == size
    for number in range(2_000):
        journal.living[str(number)] = Child(str(number))
    assert journal.has_room(1_000)
    assert (here / "journal").stat().st_size > size + 2_000 * 2_048


def test_a_journal_without_its_head_is_not_touched(here: Path) -> None:
    (here / "journal").write_bytes(b"something else")
    with pytest.raises(OSError, match="no header"):
        Journal(BOOT, is_durable=False)
    assert (here / "journal").read_bytes() == b"something else"
